"""The object-based dynamic memory: a pytree of static shape, passed in and returned (DESIGN.md section 3).

Capacity is fixed, so a video of 100,000 frames costs per frame what one of 100 costs. What a slot holds is
said by masks (`slot_valid`, `object_in_slot`, `pixel_valid`), never by its shape.

With eviction "consolidate" there is one slot more, the last, for the long term. Its pixels are prototypes:
pixels of evicted frames, chosen by usage (`prototypes.choose`). A read takes it for any other slot; it is
pinned, so that windows do not hide it, and shows no frame (`slot_frame` -1).
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from vos_jax import checks
from vos_jax.models import prototypes
from vos_jax.typing import Array, Bool, DTypeLike, Float, Int

# Two slots stay unpinned, so that the newest frame and at least one older one always find room.
UNPINNED_SLOTS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Write policy.

    Attributes:
      capacity: Slots for frames; they bound memory and time however long a video is. At least 3.
      every: One frame in so many is kept.
      eviction: Which unpinned slot leaves a full memory: the oldest ("fifo"), the least read ("usage"), or
        the oldest, whose most used pixels stay in one slot more ("consolidate").
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
        """How many slots annotated frames may hold."""
        return self.capacity - UNPINNED_SLOTS

    @property
    def writes_all(self) -> bool:
        """Whether every frame is written, if only until the next one."""
        return self.previous or self.every == 1

    @property
    def has_long_term(self) -> bool:
        """Whether evicted frames leave prototypes, in slot number `capacity`."""
        return self.eviction == "consolidate"


class Memory(flax.struct.PyTreeNode):
    """What is remembered of M frames and N objects on the h x w grid of the features."""

    key: Float[Array, "M h w Ck"]
    embed: Float[Array, "M h w Ce"]
    value: Float[Array, "N M h w Cv"]
    prob: Float[Array, "N M h w"]
    pixel_valid: Bool[Array, "M h w"]  # padding is never read
    object_in_slot: Bool[Array, "N M"]  # a slot older than an object says nothing about it
    slot_valid: Bool[Array, "M"]
    slot_pinned: Bool[Array, "M"]
    slot_frame: Int[Array, "M"]  # -1: empty
    usage: Float[Array, "M"]  # attention mass received since written
    first_slot: Int[Array, "N"]  # the slot of each object's first annotation, -1: none
    prototype_usage: Float[Array, "h w"] | None = None  # of the long-term slot's pixels, where there is one


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
      capacity: slots for frames; None = `spec.config.capacity`. The long term has one slot more.
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
    """Returns the number of slots for frames: all but that of the long term."""
    return memory.slot_valid.shape[0] - (memory.prototype_usage is not None)


def fifo(memory: Memory, frame_index: Int[Array, ""]) -> Float[Array, "M"]:
    """Eviction order: the oldest slot goes first."""
    del frame_index
    return memory.slot_frame.astype(jnp.float32)


def usage(memory: Memory, frame_index: Int[Array, ""]) -> Float[Array, "M"]:
    """Eviction order: the slot least read per frame of its life goes first; the newest one stays."""
    return jnp.where(memory.slot_frame == frame_index - 1, jnp.inf, usage_rate(memory, frame_index))


EVICTIONS = {"fifo": fifo, "usage": usage, "consolidate": fifo}
"""Who leaves a full bank, by name; "consolidate" keeps prototypes of who does."""


def usage_rate(memory: Memory, frame_index: Int[Array, ""]) -> Float[Array, "M"]:
    """Attention mass received per frame of a slot's life."""
    age = jnp.maximum(frame_index - memory.slot_frame, 1).astype(jnp.float32)
    return memory.usage / age


def is_written(frame_index: Int[Array, ""], pinned: Bool[Array, ""], config: MemoryConfig) -> Bool[Array, ""]:
    """Tells whether frame `frame_index` goes into the memory at all."""
    return pinned | (frame_index % config.every == 0) | config.writes_all


def is_temporary(memory: Memory, frame_index: Int[Array, ""], config: MemoryConfig) -> Bool[Array, "M"]:
    """Marks the previous frame's slot if that frame was not one to keep."""
    return (
        memory.slot_valid
        & ~memory.slot_pinned
        & (memory.slot_frame == frame_index - 1)
        & (memory.slot_frame % config.every != 0)
    )


def choose_slot(
    memory: Memory, frame_index: Int[Array, ""], pinned: Bool[Array, ""], config: MemoryConfig
) -> Int[Array, ""]:
    """Returns the slot that frame `frame_index` is written to (docs/method.md).

    In this order: the previous frame's slot, if that frame was not one to keep; an empty slot; the first
    unpinned slot by `config.eviction`. A pinned frame that finds all but `UNPINNED_SLOTS` slots pinned
    replaces the oldest pin that is no object's first annotation. The caller ensures that there is one
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
    """Chooses the best of slot `slot` and of the prototypes so far.

    For an object that came later than a prototype, the prototype counts as "not it", as soon as there is one
    that knows the object.

    Returns:
      The prototypes, as if they were a frame; the objects that some of them know; their usage.
    """
    sources = jnp.stack([jnp.asarray(num_frame_slots(memory)), slot])
    h, w = memory.pixel_valid.shape[1:]
    known = memory.object_in_slot[:, sources]
    known_there = jnp.repeat(known, h * w, axis=1)

    def pixels(x: Array, axis: int) -> Array:
        """The two slots' pixels in a row."""
        x = jnp.take(x, sources, axis=axis)
        return x.reshape(*x.shape[:axis], 2 * h * w, *x.shape[axis + 3 :])

    key, valid = pixels(memory.key, 0), pixels(memory.pixel_valid, 0)
    prob = jnp.where(known_there, pixels(memory.prob, 1), 0.0)
    new = prototypes.share(prob[:, h * w :], known[:, 1], valid[h * w :])
    new *= usage_rate(memory, frame_index)[slot]
    assert memory.prototype_usage is not None  # there is a slot for the long term
    used = jnp.concatenate([memory.prototype_usage.reshape(-1), new])
    chosen = prototypes.choose(key, used, valid, h * w)

    def grid(x: Array, axis: int) -> Array:
        x = jnp.take(x, chosen, axis=axis)
        return x.reshape(*x.shape[:axis], h, w, *x.shape[axis + 1 :])

    entry = Entry(
        key=grid(key, 0),
        embed=grid(pixels(memory.embed, 0), 0),
        # What a removed object left there is nobody's.
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
        assert memory.prototype_usage is not None  # there is a slot for the long term
        return *_get(memory, jnp.asarray(long)), memory.prototype_usage

    # The branches give one slot and not the memory, which would be copied in every frame.
    entry, known, used = jax.lax.cond(leaves, lambda m: consolidate(m, slot, frame_index), stay, memory)
    memory = _put(memory, jnp.asarray(long), entry, known)
    exists = memory.slot_valid[long] | leaves
    return memory.replace(
        slot_valid=memory.slot_valid.at[long].set(exists),
        slot_pinned=memory.slot_pinned.at[long].set(exists),
        prototype_usage=used,
    )


def _get(memory: Memory, slot: Int[Array, ""]) -> tuple[Entry, Bool[Array, "N"]]:
    """Returns the pixels of a slot, and the objects that it knows."""
    entry = Entry(
        key=memory.key[slot],
        embed=memory.embed[slot],
        value=memory.value[:, slot],
        prob=memory.prob[:, slot],
        pixel_valid=memory.pixel_valid[slot],
    )
    return entry, memory.object_in_slot[:, slot]


def _put(memory: Memory, slot: Int[Array, ""], entry: Entry, known: Bool[Array, "N"]) -> Memory:
    """Returns the memory with the pixels of `entry`, and the objects that it knows, in a slot."""
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
    """Writes a frame into the memory if it is one to keep or to pin; never with NaN or infinity in it.

    What is no number in the memory's type would spoil every later frame: a cell without key is not read, a
    value is 0 there.

    Args:
      memory: the memory before.
      make_entry: returns what to write; runs only for frames that are written. Masks of invalid objects are
        ignored.
      frame_index: the frame's number, rising from one write to the next.
      pinned: whether the frame was annotated; such a slot is kept (see `choose_slot`).
      first: objects whose first annotation this is; their slot is never evicted.
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

    # The branches give one slot and not the memory, which would be copied in every frame.
    entry, known = new() if config.writes_all else jax.lax.cond(written, new, lambda: _get(memory, slot))
    # An evicted pin may have been a removed object's first; nobody may go on pointing at it.
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
