"""The memory's write policy: what is kept, what goes, and who is pinned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.models import memory as memory_lib

GRID = (2, 3)


def fresh(num_objects=2, **kwargs):
    config = memory_lib.MemoryConfig(**{"capacity": 5, "every": 3} | kwargs)
    memory = memory_lib.init_memory(config, num_objects, GRID, key_size=1, embed_size=1, value_size=1)
    return config, memory


def entry(num_objects, fill=1.0):
    return memory_lib.Entry(
        key=jnp.full((*GRID, 1), fill),
        embed=jnp.full((*GRID, 1), fill),
        value=jnp.full((num_objects, *GRID, 1), fill),
        prob=jnp.full((num_objects, *GRID), 0.5),
        pixel_valid=jnp.ones(GRID, bool),
    )


def write(memory, config, frame, *, first=(), pinned=None, valid=None):
    n = memory.first_slot.shape[0]
    first_mask = np.isin(np.arange(n), first)
    return memory_lib.write(
        memory,
        entry(n, float(frame)),
        frame_index=jnp.asarray(frame),
        pinned=jnp.asarray(bool(first) if pinned is None else pinned),
        first=jnp.asarray(first_mask),
        object_valid=jnp.ones(n, bool) if valid is None else jnp.asarray(valid),
        config=config,
    )


def frames(memory):
    return sorted(int(f) for f in memory.slot_frame if f >= 0)


def test_previous_frame_is_always_there_and_every_third_stays():
    config, memory = fresh()
    memory = write(memory, config, 0, first=(0, 1))
    seen = []
    for frame in range(1, 9):
        memory = write(memory, config, frame)
        seen.append(frames(memory))
        assert frame in frames(memory)
    assert seen == [[0, 1], [0, 2], [0, 3], [0, 3, 4], [0, 3, 5], [0, 3, 6], [0, 3, 6, 7], [0, 3, 6, 8]]
    np.testing.assert_array_equal(
        np.asarray(memory.key[:, 0, 0, 0])[np.asarray(memory.slot_valid)],
        np.asarray(memory.slot_frame)[np.asarray(memory.slot_valid)],
        err_msg="a slot holds the frame that it says",
    )


def test_fifo_evicts_the_oldest_and_never_a_pin():
    config, memory = fresh(every=1, capacity=4)
    memory = write(memory, config, 0, first=(0, 1))
    for frame in range(1, 20):
        memory = write(memory, config, frame)
    assert frames(memory) == [0, 17, 18, 19]


def test_usage_evicts_the_least_read_but_not_the_newest():
    config, memory = fresh(every=1, capacity=4, eviction="usage")
    memory = write(memory, config, 0, first=(0, 1))
    for frame in (1, 2, 3):
        memory = write(memory, config, frame)
    mass = np.zeros((2, 4), np.float32)
    mass[:, np.asarray(memory.slot_frame) == 1] = 0.9  # frame 1 is read, frame 2 is not, frame 3 is new
    memory = memory_lib.record_usage(memory, jnp.asarray(mass), jnp.ones(2, bool))
    assert frames(write(memory, config, 4)) == [0, 1, 3, 4]


def test_pins_leave_two_slots_and_first_annotations_outlive_corrections():
    config, memory = fresh(num_objects=2, capacity=5, every=1)
    memory = write(memory, config, 0, first=(0,))
    memory = write(memory, config, 1, pinned=True)  # a correction
    memory = write(memory, config, 2, pinned=True)
    assert int(jnp.sum(memory.slot_pinned)) == config.max_pins == 3
    memory = write(memory, config, 3, first=(1,))  # object 1 appears: the oldest correction gives way
    pinned = sorted(int(f) for f in memory.slot_frame[memory.slot_pinned])
    assert pinned == [0, 2, 3]
    memory = write(memory, config, 4, pinned=True)
    assert sorted(int(f) for f in memory.slot_frame[memory.slot_pinned]) == [0, 3, 4]
    for frame in range(5, 12):
        memory = write(memory, config, frame)
    assert frames(memory) == [0, 3, 4, 10, 11]
    assert [int(memory.slot_frame[s]) for s in memory.first_slot] == [0, 3]
    assert int(memory_lib.num_first_pins(memory)) == 2


def test_forgetting_an_object_leaves_the_others_and_frees_its_pin():
    config, memory = fresh(num_objects=2, capacity=4, every=1)
    memory = write(memory, config, 0, first=(0,))
    memory = write(memory, config, 1, first=(1,))
    before = memory
    memory = memory_lib.forget(memory, jnp.asarray([True, False]))
    assert not np.any(memory.object_in_slot[0]) and not np.any(memory.prob[0])
    np.testing.assert_array_equal(memory.object_in_slot[1], before.object_in_slot[1])
    memory = write(memory, config, 2, pinned=True)  # pins are full; the forgotten object's goes
    assert sorted(int(f) for f in memory.slot_frame[memory.slot_pinned]) == [1, 2]


def test_growing_keeps_what_is_known():
    config, memory = fresh(num_objects=1)
    memory = write(memory, config, 0, first=(0,))
    grown = memory_lib.grow(memory, 3)
    np.testing.assert_array_equal(grown.prob[:1], memory.prob)
    assert list(np.asarray(grown.first_slot)) == [int(memory.first_slot[0]), -1, -1]
    assert not np.any(grown.object_in_slot[1:])
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, fresh(num_objects=3)[1])


@pytest.mark.parametrize("wrong", [{"capacity": 2}, {"every": 0}, {"eviction": "lru"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="memory"):
        memory_lib.MemoryConfig(**wrong)
