"""The search region: near the previous masks, or the whole frame when hardly anything is left."""

import jax.numpy as jnp
import numpy as np

from vos_jax.models import memory as memory_lib
from vos_jax.models import search_region

GRID = (8, 12)
REACH = 0.125  # one cell


def test_the_cells_around_an_object():
    prev = np.zeros((3, 64, 96), np.float32)  # 256 x 384 pixels, a grid of 16 x 24 cells
    prev[0, 20:24, 40:44] = 0.9  # cell (5, 10)
    prev[1, 20:24, 40:44] = 0.4  # too faint to count
    near = np.asarray(search_region.around(jnp.asarray(prev), (16, 24), 0.18))  # 3 of 16 cells
    expected = np.zeros((16, 24), bool)
    expected[2:9, 7:14] = True
    np.testing.assert_array_equal(near[0], expected)
    # An object without a mask is searched everywhere.
    assert near[1:].all()
    np.testing.assert_array_equal(search_region.around(jnp.asarray(prev), (16, 24), 0.18, 0.3)[1], expected)


def remember(*, eviction="fifo", rows=8):
    """One object of 4x4 cells in slot 0; real are the first `rows` rows of the grid."""
    config = memory_lib.MemoryConfig(capacity=4, eviction=eviction)
    spec = memory_lib.MemorySpec(config=config, stride=1, key_size=2, embed_size=2, value_size=2)
    memory = memory_lib.init(spec, 1, GRID)
    real = jnp.arange(GRID[0])[:, None] < rows
    return memory.replace(
        prob=memory.prob.at[0, 0, 0:4, 0:4].set(1.0),
        pixel_valid=memory.pixel_valid.at[0].set(jnp.broadcast_to(real, GRID)),
        object_in_slot=memory.object_in_slot.at[0, 0].set(True),
        slot_valid=memory.slot_valid.at[0].set(True),
        slot_frame=memory.slot_frame.at[0].set(0),
    )


def mask(height, width):
    """A mask of so many cells at the upper left, at stride 4."""
    prob = np.zeros((1, 4 * GRID[0], 4 * GRID[1]), np.float32)
    prob[0, : 4 * height, : 4 * width] = 1.0
    return jnp.asarray(prob)


def test_near_the_previous_mask_unless_less_than_a_quarter_is_left():
    region = search_region.search_region(mask(2, 3), remember(), REACH)
    assert region[0, :3, :4].all() and region.sum() == 12
    assert search_region.search_region(mask(1, 3), remember(), REACH).all()
    assert search_region.search_region(mask(0, 0), remember(), REACH).all()


def test_padding_decides_nothing():
    memory = remember(rows=6)
    # A mask in the padded rows alone would be as large as half of the object.
    padded = mask(1, 3).at[0, 4 * 6 :, :32].set(1.0)
    assert search_region.shrunken(padded, memory)[0]
    spoiled = memory.replace(prob=memory.prob.at[0, 0, 6:].set(1.0))
    assert not search_region.shrunken(mask(2, 3), spoiled)[0]


def test_the_slot_of_prototypes_is_no_size_to_compare_with():
    memory = remember(eviction="consolidate")
    memory = memory.replace(
        prob=memory.prob.at[0, -1].set(1.0),
        pixel_valid=memory.pixel_valid.at[-1].set(True),
        object_in_slot=memory.object_in_slot.at[0, -1].set(True),
        slot_valid=memory.slot_valid.at[-1].set(True),
    )
    assert not search_region.shrunken(mask(3, 3), memory)[0]


def test_an_object_that_the_memory_does_not_know_is_not_shrunken():
    memory = remember().replace(object_in_slot=jnp.zeros((1, 4), bool))
    assert not search_region.shrunken(mask(0, 0), memory)[0]
