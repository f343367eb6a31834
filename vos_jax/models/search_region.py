"""Where in a frame a trained model looks for each object (docs/method.md, reach)."""

import jax.numpy as jnp

from vos_jax.models import masks
from vos_jax.models import memory as memory_lib
from vos_jax.typing import Array, Bool, Float

# An object whose mask has become so much smaller than it was is hidden, away or lost: it is looked for in the
# whole frame. Chosen on composites of held-back sequences (docs/results.md).
SHRUNKEN = 0.25


def search_region(
    prev_prob: Float[Array, "N H/4 W/4"], memory: memory_lib.Memory, reach: float
) -> Bool[Array, "N h w"]:
    """Marks the cells near each object's previous mask; all cells for an object that is missing or shrunken.

    Args:
      prev_prob: the objects' masks one frame before, in [0, 1].
      memory: what their masks were in the frames that it holds.
      reach: how far an object may have moved, as a share of the frame's short side.
    """
    grid = memory.prob.shape[2], memory.prob.shape[3]
    return masks.reachable(prev_prob, grid, reach) | shrunken(prev_prob, memory)[:, None, None]


def shrunken(prev_prob: Float[Array, "N H/4 W/4"], memory: memory_lib.Memory) -> Bool[Array, "N"]:
    """Marks objects whose previous mask is less than `SHRUNKEN` of their largest one in memory.

    Padding does not count, nor does the slot of prototypes, which holds pixels of many frames.
    """
    cells = masks.downsample(prev_prob, prev_prob.shape[1] // memory.prob.shape[2])
    is_frame = memory.slot_valid & (memory.slot_frame >= 0)
    real = jnp.any(memory.pixel_valid & is_frame[:, None, None], axis=0)
    known = memory.object_in_slot & is_frame[None, :]
    areas = jnp.sum(jnp.where(memory.pixel_valid[None], memory.prob, 0.0), axis=(2, 3))
    largest = jnp.max(jnp.where(known, areas, 0.0), axis=1)
    return jnp.sum(jnp.where(real[None], cells, 0.0), axis=(1, 2)) < SHRUNKEN * largest
