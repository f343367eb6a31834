"""The memory's write policy: what is kept, what goes, and who is pinned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax import errors
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib

GRID = (2, 3)


@functools.partial(jax.jit, static_argnames="config")
def jitted_write(memory, entry, **settings):
    return memory_lib.write(memory, lambda: entry, **settings)


def fresh(num_objects=2, **kwargs):
    config = memory_lib.MemoryConfig(**{"capacity": 5, "every": 3, "previous": True} | kwargs)
    spec = memory_lib.MemorySpec(config=config, stride=1, key_size=1, embed_size=1, value_size=1)
    return config, memory_lib.init(spec, num_objects, GRID)


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
    return jitted_write(
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


def test_without_a_slot_for_the_previous_frame_only_kept_and_annotated_frames_are_written():
    config, memory = fresh(previous=False)
    memory = write(memory, config, 0, first=(0,))
    seen = []
    for frame in range(1, 9):
        before = memory
        memory = write(memory, config, frame, first=(1,) if frame == 4 else ())
        seen.append(frames(memory))
        if frame not in frames(memory):
            jax.tree.map(np.testing.assert_array_equal, memory, before)
    assert seen == [[0], [0], [0, 3], [0, 3, 4], [0, 3, 4], [0, 3, 4, 6], [0, 3, 4, 6], [0, 3, 4, 6]]
    assert [int(memory.slot_frame[s]) for s in memory.first_slot] == [0, 4]


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
    attention = np.zeros((2, 4), np.float32)
    attention[:, np.asarray(memory.slot_frame) == 1] = 0.9  # frame 1 is read, frame 2 is not, frame 3 is new
    memory = memory_lib.record_usage(memory, jnp.asarray(attention), jnp.ones(2, bool))
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
    assert len(np.unique(memory.first_slot[memory.first_slot >= 0])) == 2


def test_forgetting_an_object_leaves_the_others_and_frees_its_pin():
    config, memory = fresh(num_objects=2, capacity=4, every=1)
    memory = write(memory, config, 0, first=(0,))
    memory = write(memory, config, 1, first=(1,))
    before = memory
    memory = memory_lib.remove_objects(memory, jnp.asarray([True, False]))
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
    with pytest.raises(errors.VosError, match=next(iter(wrong))):
        memory_lib.MemoryConfig(**wrong)


def patterned(num_objects, frame, size=3):
    """An entry whose every pixel has a key, value and mask of its own; object 0 fills the upper row."""
    rng = np.random.default_rng(frame)
    prob = np.zeros((num_objects, *GRID), np.float32)
    prob[0, 0] = 1.0
    return memory_lib.Entry(
        key=jnp.asarray(rng.normal(size=(*GRID, size)), jnp.float32),
        embed=jnp.asarray(rng.normal(size=(*GRID, size)), jnp.float32),
        value=jnp.asarray(rng.normal(size=(num_objects, *GRID, size)), jnp.float32),
        prob=jnp.asarray(prob),
        pixel_valid=jnp.ones(GRID, bool),
    )


def bank(eviction, *, capacity=4, num_objects=2, size=3):
    config = memory_lib.MemoryConfig(capacity=capacity, every=1, eviction=eviction)
    spec = memory_lib.MemorySpec(config=config, stride=1, key_size=size, embed_size=size, value_size=size)
    return config, memory_lib.init(spec, num_objects, GRID)


def run(config, memory, length, *, entry_of=patterned, valid=(True, True), attention=None):
    """Writes frames 0..length-1, every slot read alike, or as `attention` says of its frame."""
    n = memory.first_slot.shape[0]
    for frame in range(length):
        read = np.ones((n, memory.usage.shape[0]), np.float32)
        if attention is not None:
            read = np.tile([attention(int(f)) for f in memory.slot_frame], (n, 1)).astype(np.float32)
        memory = memory_lib.record_usage(memory, jnp.asarray(read), jnp.ones(n, bool))
        memory = jitted_write(
            memory,
            entry_of(n, frame),
            frame_index=jnp.asarray(frame),
            pinned=jnp.asarray(frame == 0),
            first=jnp.asarray([frame == 0] * n),
            object_valid=jnp.asarray(valid),
            config=config,
        )
    return memory


def rows(*arrays):
    return {tuple(np.concatenate([np.ravel(x) for x in row]).tolist()) for row in zip(*arrays, strict=True)}


def pixels_of(memory_or_entry, slot=None):
    """Key, embedding, every object's value and mask of each pixel, as comparable rows."""
    m = memory_or_entry
    at = (
        (lambda x, axis: np.take(np.asarray(x), slot, axis))
        if slot is not None
        else lambda x, _: np.asarray(x)
    )
    flat = [at(x, 0).reshape(-1, x.shape[-1]) for x in (m.key, m.embed)]
    value, prob = at(m.value, 1), at(m.prob, 1)
    flat.append(np.moveaxis(value, 0, 2).reshape(len(flat[0]), -1))
    flat.append(np.moveaxis(prob, 0, 2).reshape(len(flat[0]), -1))
    return rows(*flat)


def test_prototypes_are_pixels_of_evicted_slots_and_of_nothing_else():
    config, memory = bank("consolidate")
    memory = run(config, memory, 4)
    assert not memory.slot_valid[4] and frames(memory) == [0, 1, 2, 3], "nothing was evicted"
    memory = run(config, bank("consolidate")[1], 5)
    assert frames(memory) == [0, 2, 3, 4] and memory.slot_valid[4] and memory.slot_pinned[4]
    assert pixels_of(memory, 4) == pixels_of(patterned(2, 1)), "the first one evicted is kept whole"
    memory = run(config, bank("consolidate")[1], 12)
    assert frames(memory) == [0, 9, 10, 11], "who stays in the bank is fifo's"
    evicted = [pixels_of(patterned(2, frame)) for frame in range(1, 9)]
    found = pixels_of(memory, 4)
    assert len(found) == 6 and found <= set().union(*evicted)
    assert sum(bool(found & pixels) for pixels in evicted) > 1, "of several frames"


def test_a_frame_that_was_only_the_previous_one_leaves_no_prototypes():
    config, memory = fresh(eviction="consolidate", every=3)
    memory = write(memory, config, 0, first=(0, 1))
    for frame in range(1, 9):
        memory = write(memory, config, frame)
    assert frames(memory) == [0, 3, 6, 8] and not memory.slot_valid[5]


def test_the_more_used_leave_more_prototypes():
    config, memory = bank("consolidate")
    memory = run(config, memory, 6, attention=lambda frame: 1.0 if frame == 1 else 1e-6)
    assert pixels_of(memory, 4) == pixels_of(patterned(2, 1)), "frame 2 was hardly read"
    memory = run(config, bank("consolidate")[1], 6, attention=lambda frame: 1.0 if frame == 2 else 1e-6)
    assert pixels_of(memory, 4) == pixels_of(patterned(2, 2)), "its pixels take the places of frame 1's"


def test_what_is_alike_is_kept_once():
    def still(num_objects, frame):
        return patterned(num_objects, 1 if frame != 3 else 3)

    config, memory = bank("consolidate", capacity=3)
    memory = run(config, memory, 6, entry_of=still)  # evicted: frames 1, 2, 3, of which 1 and 2 are the same
    found = pixels_of(memory, 3)
    assert len(found) == 6, "no pixel twice"
    assert found & pixels_of(patterned(2, 1)) and found & pixels_of(patterned(2, 3))


@pytest.mark.parametrize("length", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_what_only_evicted_frames_showed_is_still_read(length):
    """Object 0 looks blue in frame 2 alone, which leaves the bank; blue is read as object 0 ever after."""
    colours = {"red": (3.0, 0, 0), "blue": (0, 3.0, 0), "ground": (0, 0, 3.0)}

    def scene(num_objects, frame):
        key = np.tile(np.asarray(colours["ground"], np.float32), (*GRID, 1))
        key[0] = colours["blue" if frame == 2 else "red"]
        entry = patterned(num_objects, frame)
        return entry.replace(key=jnp.asarray(key), value=jnp.full_like(entry.value, float(frame == 2)))

    query = np.tile(np.asarray(colours["ground"], np.float32), (*GRID, 1))
    query[0] = colours["blue"]
    found, read = {}, jax.jit(read_lib.read, static_argnames="config")
    for eviction in ("fifo", "consolidate"):
        config, memory = bank(eviction)
        memory = run(config, memory, length, entry_of=scene)
        assert 2 not in frames(memory)
        found[eviction] = read(
            jnp.asarray(query), memory, read_lib.ReadConfig(affinity="l2", scale=1.0, search_radius=0.0)
        )
    assert np.all(found["consolidate"].prob[0, 0] > 0.95) and np.all(found["consolidate"].prob[0, 1] < 0.05)
    assert np.all(found["consolidate"].value[0, 0] > 0.95), "its value is that of frame 2"
    assert np.all(found["fifo"].prob[0, 0] < 0.6) and np.all(found["fifo"].value[0, 0] < 0.05)


def test_memory_of_the_long_term_stays_flat():
    config, memory = bank("consolidate")
    before = jax.tree.map(lambda x: (x.shape, x.dtype), memory)
    memory = run(config, memory, 40)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), memory) == before
    assert memory.key.shape[0] == config.capacity + 1 and config.max_pins == config.capacity - 2


def test_removed_objects_leave_no_prototypes_and_later_ones_are_not_in_them():
    config, memory = bank("consolidate")
    memory = run(config, memory, 8)
    memory = memory_lib.remove_objects(memory, jnp.asarray([True, False]))
    assert not np.any(memory.prob[0, 4]) and list(np.asarray(memory.object_in_slot[:, 4])) == [False, True]
    for frame in (8, 9):
        memory = jitted_write(
            memory,
            patterned(2, frame),
            frame_index=jnp.asarray(frame),
            pinned=jnp.asarray(False),
            first=jnp.zeros(2, bool),
            object_valid=jnp.asarray([False, True]),
            config=config,
        )
    assert not np.any(memory.value[0, 4]) and np.any(memory.value[1, 4])
    assert list(np.asarray(memory.object_in_slot[:, 4])) == [False, True]


def test_padding_never_becomes_a_prototype_that_is_read():
    def padded(num_objects, frame):
        entry = patterned(num_objects, frame)
        return entry.replace(pixel_valid=entry.pixel_valid.at[1].set(False))

    config, memory = bank("consolidate")
    memory = run(config, memory, 12, entry_of=padded)
    inside = set().union(
        *(rows(np.asarray(patterned(2, f).key[0])) for f in range(1, 9))  # the upper row is real
    )
    kept = np.asarray(memory.key[4])[np.asarray(memory.pixel_valid[4])]
    assert len(kept) == 6 and rows(kept) <= inside


@pytest.mark.parametrize("eviction", ["fifo", "usage"])
def test_without_a_long_term_the_memory_is_what_it_was(eviction):
    config, memory = bank(eviction)
    assert memory.prototype_usage is None and memory.key.shape[0] == config.capacity
    assert not [path for path, _ in jax.tree_util.tree_leaves_with_path(memory) if "prototype" in str(path)]
    memory = run(config, memory, 12, attention=lambda frame: float(frame == 3))
    assert frames(memory) == ([0, 9, 10, 11] if eviction == "fifo" else [0, 3, 10, 11])
    for slot in range(4):
        assert pixels_of(memory, slot) == pixels_of(patterned(2, int(memory.slot_frame[slot])))
