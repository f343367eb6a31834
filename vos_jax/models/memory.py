"""The object-based dynamic memory (docs/method.md, "Memory"): a pytree of static shape, passed explicitly.

The capacity is fixed, so the cost per frame does not depend on the length of the video. The masks
`slot_valid`, `object_in_slot` and `pixel_valid` mark the valid entries.

Eviction "consolidate" adds one slot, the last, as long-term memory. Its pixels are prototypes: pixels of
evicted frames, chosen by usage (`prototypes.select`). A read treats it like any other slot. It is pinned, so
that windows do not hide it, and belongs to no frame (`slot_frame` -1).
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from vos_jax import checks
from vos_jax.models import prototypes
from vos_jax.typing import Array, Bool, DTypeLike, Float, Int

# Two slots stay unpinned, so that there is always room for the newest frame and at least one older one.
UNPINNED_SLOTS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Write policy.

    Attributes:
      capacity: Slots for frames, at least 3. Memory and time per frame grow with it, not with the video.
      every: Interval, in frames, at which frames are kept.
      eviction: Unpinned slot that a full memory replaces: the oldest ("fifo"), the least read ("usage"), or
        the oldest, whose most used pixels are kept in one additional slot ("consolidate").
      previous: Whether the previous frame has a slot of its own until the next frame replaces it.

    Raises:
      VosError: a value out of range.
    """

    capacity: int = 8
    every: int = 5
    eviction: str = "fifo"
    previous: bool = False

    def __post_init__(self):
        checks.at_least(self, 1 + UNPINNED_SLOTS, "capacity")
        checks.at_least(self, 1, "every")
        checks.one_of(self, "eviction", EVICTIONS)

    @property
    def max_pins(self) -> int:
        """The number of slots that annotated frames may occupy."""
        return self.capacity - UNPINNED_SLOTS

    @property
    def writes_all(self) -> bool:
        """True if every frame is written, even if only until the next one."""
        return self.previous or self.every == 1

    @property
    def has_long_term(self) -> bool:
        """True if evicted frames leave prototypes, in slot number `capacity`."""
        return self.eviction == "consolidate"


class Memory(flax.struct.PyTreeNode):
    """The contents of M slots for N objects, on the h x w grid of the features."""

    key: Float[Array, "M h w Ck"]
    embed: Float[Array, "M h w Ce"]
    value: Float[Array, "N M h w Cv"]
    prob: Float[Array, "N M h w"]
    pixel_valid: Bool[Array, "M h w"]  # padding is never read
    object_in_slot: Bool[Array, "N M"]  # False for slots that are older than the object
    slot_valid: Bool[Array, "M"]
    slot_pinned: Bool[Array, "M"]
    slot_frame: Int[Array, "M"]  # -1: empty
    usage: Float[Array, "M"]  # attention mass received since written
    first_slot: Int[Array, "N"]  # the slot of each object's first annotation, -1: none
    prototype_usage: Float[Array, "h w"] | None = None  # of the pixels of the long-term slot, if it exists


class Entry(flax.struct.PyTreeNode):
    """One frame to write: its key and embedding, and every object's value and soft mask."""

    key: Float[Array, "h w Ck"]
    embed: Float[Array, "h w Ce"]
    value: Float[Array, "N h w Cv"]
    prob: Float[Array, "N h w"]
    pixel_valid: Bool[Array, "h w"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorySpec:
    """The memory that a model needs.

    Attributes:
      config: The write policy.
      stride: Pixels of the padded frame per cell.
      key_size: Channels of the keys, Ck.
      embed_size: Channels of the embeddings, Ce.
      value_size: Channels of the values, Cv.
      dtype: Of keys, embeddings and values.
    """

    config: MemoryConfig
    stride: int
    key_size: int
    embed_size: int
    value_size: int
    dtype: DTypeLike = jnp.float32


def init(spec: MemorySpec, num_objects: int, size: tuple[int, int], capacity: int | None = None) -> Memory:
    """Returns an empty memory.

    Args:
      spec: what the model needs.
      num_objects: the static number of objects, N.
      size: padded (H, W) of the frames in pixels.
      capacity: slots for frames; None = `spec.config.capacity`. The long-term slot is not counted.
    """
    long_term = spec.config.has_long_term
    slots, n = (capacity or spec.config.capacity) + long_term, num_objects
    grid = size[0] // spec.stride, size[1] // spec.stride
    return Memory(
        key=jnp.zeros((slots, *grid, spec.key_size), spec.dtype),
        embed=jnp.zeros((slots, *grid, spec.embed_size), spec.dtype),
        value=jnp.zeros((n, slots, *grid, spec.value_size), spec.dtype),
        prob=jnp.zeros((n, slots, *grid), jnp.float32),
        pixel_valid=jnp.zeros((slots, *grid), bool),
        object_in_slot=jnp.zeros((n, slots), bool),
        slot_valid=jnp.zeros((slots,), bool),
        slot_pinned=jnp.zeros((slots,), bool),
        slot_frame=jnp.full((slots,), -1, jnp.int32),
        usage=jnp.zeros((slots,), jnp.float32),
        first_slot=jnp.full((n,), -1, jnp.int32),
        prototype_usage=jnp.zeros(grid, jnp.float32) if long_term else None,
    )


def num_frame_slots(memory: Memory) -> int:
    """Returns the number of slots for frames: all but the long-term slot."""
    return memory.slot_valid.shape[0] - (memory.prototype_usage is not None)


def fifo(memory: Memory, frame_index: Int[Array, ""]) -> Float[Array, "M"]:
    """Returns the eviction order, lowest first: the oldest slot."""
    del frame_index
    return memory.slot_frame.astype(jnp.float32)


def usage(memory: Memory, frame_index: Int[Array, ""]) -> Float[Array, "M"]:
    """Returns the eviction order, lowest first: the slot least read per frame; the newest one is last."""
    return jnp.where(memory.slot_frame == frame_index - 1, jnp.inf, usage_rate(memory, frame_index))


EVICTIONS = {"fifo": fifo, "usage": usage, "consolidate": fifo}
"""Eviction policies by name; "consolidate" also keeps prototypes of the evicted slot."""


def usage_rate(memory: Memory, frame_index: Int[Array, ""]) -> Float[Array, "M"]:
    """Returns the attention mass that each slot received per frame since it was written."""
    age = jnp.maximum(frame_index - memory.slot_frame, 1).astype(jnp.float32)
    return memory.usage / age


def is_written(frame_index: Int[Array, ""], pinned: Bool[Array, ""], config: MemoryConfig) -> Bool[Array, ""]:
    """Returns whether frame `frame_index` is written to the memory."""
    return pinned | (frame_index % config.every == 0) | config.writes_all


def is_temporary(memory: Memory, frame_index: Int[Array, ""], config: MemoryConfig) -> Bool[Array, "M"]:
    """Marks the previous frame's slot if that frame is not kept."""
    return (
        memory.slot_valid
        & ~memory.slot_pinned
        & (memory.slot_frame == frame_index - 1)
        & (memory.slot_frame % config.every != 0)
    )


def choose_slot(
    memory: Memory, frame_index: Int[Array, ""], pinned: Bool[Array, ""], config: MemoryConfig
) -> Int[Array, ""]:
    """Returns the slot that frame `frame_index` is written to.

    In this order: the previous frame's slot, if that frame is not kept; an empty slot; the first unpinned
    slot by `config.eviction`. If all but `UNPINNED_SLOTS` slots are pinned, a pinned frame replaces the
    oldest pinned slot that is no object's first annotation. The caller ensures that there is one
    (`inference.objects.check`).
    """
    capacity = num_frame_slots(memory)
    is_first = jnp.any(memory.first_slot[:, None] == jnp.arange(capacity)[None, :], axis=0)
    slot_pinned = memory.slot_pinned[:capacity]
    order = EVICTIONS[config.eviction](memory, frame_index)[:capacity]
    free = jnp.where(slot_pinned, jnp.inf, order)
    free = jnp.where(memory.slot_valid[:capacity], free, -1e9)
    free = jnp.where(is_temporary(memory, frame_index, config)[:capacity], -2e9, free)
    slot_frame = memory.slot_frame[:capacity]
    oldest_pin = jnp.where(slot_pinned & ~is_first, slot_frame.astype(jnp.float32), jnp.inf)
    full = pinned & (jnp.sum(slot_pinned) >= capacity - UNPINNED_SLOTS)
    return jnp.argmin(jnp.where(full, oldest_pin, free))


def consolidate(
    memory: Memory, slot: Int[Array, ""], frame_index: Int[Array, ""]
) -> tuple[Entry, Bool[Array, "N"], Float[Array, "h w"]]:
    """Chooses new prototypes from slot `slot` and the current prototypes.

    A prototype that is older than an object counts as background for it once any prototype contains the
    object.

    Returns:
      The prototypes as an entry; the objects that any of them contains; the prototypes' usage.
    """
    sources = jnp.stack([jnp.asarray(num_frame_slots(memory)), slot])
    h, w = memory.pixel_valid.shape[1:]
    known = memory.object_in_slot[:, sources]
    known_there = jnp.repeat(known, h * w, axis=1)

    def pixels(x: Array, axis: int) -> Array:
        """Concatenates the pixels of the two slots."""
        x = jnp.take(x, sources, axis=axis)
        return x.reshape(*x.shape[:axis], 2 * h * w, *x.shape[axis + 3 :])

    key, valid = pixels(memory.key, 0), pixels(memory.pixel_valid, 0)
    prob = jnp.where(known_there, pixels(memory.prob, 1), 0.0)
    new = prototypes.usage_per_pixel(prob[:, h * w :], known[:, 1], valid[h * w :])
    new *= usage_rate(memory, frame_index)[slot]
    assert memory.prototype_usage is not None  # `has_long_term` is True
    used = jnp.concatenate([memory.prototype_usage.reshape(-1), new])
    chosen = prototypes.select(key, used, valid, h * w)

    def grid(x: Array, axis: int) -> Array:
        x = jnp.take(x, chosen, axis=axis)
        return x.reshape(*x.shape[:axis], h, w, *x.shape[axis + 1 :])

    entry = Entry(
        key=grid(key, 0),
        embed=grid(pixels(memory.embed, 0), 0),
        # Clears the values of removed objects.
        value=grid(jnp.where(known_there[..., None], pixels(memory.value, 1), 0), 1),
        prob=grid(prob, 1),
        pixel_valid=grid(valid, 0),
    )
    return entry, jnp.any(known, axis=1), grid(used, 0)


def _remember(
    memory: Memory,
    slot: Int[Array, ""],
    frame_index: Int[Array, ""],
    written: Bool[Array, ""],
    config: MemoryConfig,
) -> Memory:
    """Updates the prototypes from slot `slot`, which is about to be overwritten if `written`."""
    long = num_frame_slots(memory)
    leaves = written & memory.slot_valid[slot] & ~is_temporary(memory, frame_index, config)[slot]

    def stay(memory: Memory) -> tuple[Entry, Array, Array]:
        assert memory.prototype_usage is not None  # `has_long_term` is True
        return *_get(memory, jnp.asarray(long)), memory.prototype_usage

    # The branches return one slot, because a whole memory would be copied in every frame.
    entry, known, used = jax.lax.cond(leaves, lambda m: consolidate(m, slot, frame_index), stay, memory)
    memory = _put(memory, jnp.asarray(long), entry, known)
    exists = memory.slot_valid[long] | leaves
    return memory.replace(
        slot_valid=memory.slot_valid.at[long].set(exists),
        slot_pinned=memory.slot_pinned.at[long].set(exists),
        prototype_usage=used,
    )


def _get(memory: Memory, slot: Int[Array, ""]) -> tuple[Entry, Bool[Array, "N"]]:
    """Returns the contents of a slot and the objects that it contains."""
    entry = Entry(
        key=memory.key[slot],
        embed=memory.embed[slot],
        value=memory.value[:, slot],
        prob=memory.prob[:, slot],
        pixel_valid=memory.pixel_valid[slot],
    )
    return entry, memory.object_in_slot[:, slot]


def _put(memory: Memory, slot: Int[Array, ""], entry: Entry, known: Bool[Array, "N"]) -> Memory:
    """Returns the memory with `entry`, which contains the objects `known`, in a slot."""
    key, embed = entry.key.astype(memory.key.dtype), entry.embed.astype(memory.embed.dtype)
    sound = jnp.all(jnp.isfinite(key), axis=-1) & jnp.all(jnp.isfinite(embed), axis=-1)
    return memory.replace(
        key=memory.key.at[slot].set(_numbers(key)),
        embed=memory.embed.at[slot].set(_numbers(embed)),
        value=memory.value.at[:, slot].set(_numbers(entry.value.astype(memory.value.dtype))),
        prob=memory.prob.at[:, slot].set(_numbers(entry.prob) * known[:, None, None]),
        pixel_valid=memory.pixel_valid.at[slot].set(entry.pixel_valid & sound),
        object_in_slot=memory.object_in_slot.at[:, slot].set(known),
    )


def write(
    memory: Memory,
    make_entry: Callable[[], Entry],
    *,
    frame_index: Int[Array, ""],
    pinned: Bool[Array, ""],
    first: Bool[Array, "N"],
    object_valid: Bool[Array, "N"],
    config: MemoryConfig,
) -> Memory:
    """Writes a frame to the memory if it is to be kept or pinned.

    NaN and infinity (in the memory's dtype) would damage every later frame: a cell with such a key or
    embedding is marked invalid, such a value is stored as 0.

    Args:
      memory: the memory before.
      make_entry: returns the entry; runs only for frames that are written. Masks of invalid objects are
        ignored.
      frame_index: the frame's number, rising from one write to the next.
      pinned: whether the frame is annotated; its slot is kept (see `choose_slot`).
      first: objects that are annotated for the first time; their slot is never evicted.
      object_valid: objects that exist in this frame's view.
      config: the write policy.
    """
    slot = choose_slot(memory, frame_index, pinned, config)
    written = is_written(frame_index, pinned, config)
    if config.has_long_term:
        memory = _remember(memory, slot, frame_index, written, config)

    def new() -> tuple[Entry, Array]:
        dtype = memory.key.dtype
        entry = make_entry()
        entry = entry.replace(
            key=entry.key.astype(dtype), embed=entry.embed.astype(dtype), value=entry.value.astype(dtype)
        )
        return entry, object_valid

    # The branches return one slot, because a whole memory would be copied in every frame.
    entry, known = new() if config.writes_all else jax.lax.cond(written, new, lambda: _get(memory, slot))
    # An evicted pinned slot may be the first annotation of a removed object: clear the reference to it.
    first_slot = jnp.where(memory.first_slot == slot, -1, memory.first_slot)
    header = {
        "slot_valid": memory.slot_valid.at[slot].set(True),
        "slot_pinned": memory.slot_pinned.at[slot].set(pinned),
        "slot_frame": memory.slot_frame.at[slot].set(frame_index),
        "usage": memory.usage.at[slot].set(0.0),
        "first_slot": jnp.where(first, slot, first_slot),
    }
    header = {name: jnp.where(written, value, getattr(memory, name)) for name, value in header.items()}
    return _put(memory, slot, entry, known).replace(**header)


def _numbers(x: Array) -> Array:
    return jnp.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def record_usage(
    memory: Memory, slot_attention: Float[Array, "N M"], object_valid: Bool[Array, "N"]
) -> Memory:
    """Adds one read's attention mass per slot, averaged over the valid objects."""
    share = jnp.sum(jnp.where(object_valid[:, None], _numbers(slot_attention), 0.0), axis=0)
    return memory.replace(usage=memory.usage + share / jnp.maximum(jnp.sum(object_valid), 1))


def remove_objects(memory: Memory, removed: Bool[Array, "N"]) -> Memory:
    """Returns the memory without the `removed` objects; their first annotations may be evicted."""
    return memory.replace(
        object_in_slot=memory.object_in_slot & ~removed[:, None],
        prob=jnp.where(removed[:, None, None, None], 0.0, memory.prob),
        first_slot=jnp.where(removed, -1, memory.first_slot),
    )


def grow(memory: Memory, num_objects: int) -> Memory:
    """Returns the memory with room for `num_objects` objects; the new ones are in no slot."""
    extra = num_objects - memory.first_slot.shape[0]

    def pad(x: Array, fill=0) -> Array:
        return jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)

    return memory.replace(
        value=pad(memory.value),
        prob=pad(memory.prob),
        object_in_slot=pad(memory.object_in_slot),
        first_slot=pad(memory.first_slot, -1),
    )
