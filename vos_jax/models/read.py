"""Memory reads: how a query frame attends to the memory, streamed slot by slot (DESIGN.md section 3).

For object o, query pixel q, memory pixel m the affinity is r_o(q, m) = r(q, m) + log(prob_o(m) + eps). Since
exp(r_o) = exp(r) * (prob_o + eps), the log-mask bias is a weight on what is read: one exponential per
(q, m) serves all objects and both partition functions, and each object adds one matrix product.

As prob_o + eps >= eps, Z_o is never below eps * Z, so one running maximum keeps both of them from
underflowing; it is kept per object, since objects differ in the slots they may read.

Where `ReadConfig.search_radius` is set, an object is looked for near where it was one frame before, and only
those query pixels read. They hardly look at what the memory holds far from the object in its own frame: of
each slot it is read as one mean, with the weight of all of it; masks and partition functions stay exact.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from vos_jax import checks
from vos_jax.models import affinity as affinity_lib
from vos_jax.models import masks, search_region
from vos_jax.models import memory as memory_lib
from vos_jax.models import pixels as pixels_lib
from vos_jax.typing import Array, Bool, Float, Int

# Evidence of a memory pixel outside an object: log(1e-4) = -9.2 in the logits.
EPSILON = 1e-4
# A memory cell is an object's where so much of it is covered.
COVERED = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How the memory is read.

    Attributes:
      variant: How objects attend: "object" (the paper's), "shared" (STM), "topk", "kernelized" (KMN); or a
        callable of their signature. "shared" with the affinity "l2" is STCN's.
      affinity: Similarity of pixels: "l2" (negative squared distance, as STCN) or "dot" (as STM); or a
        callable of their signature.
      scale: Factor on the affinity; none = 1/sqrt(Ck).
      topk: Memory pixels that a read of kind "topk" keeps.
      window: How far from its own place a pixel reads unpinned slots, in cells of 16 pixels; 0 = everywhere.
      kernel_sigma: Width in cells of the Gaussian of a read of kind "kernelized".
      search_radius: How far from where it was one frame before an object is searched, as a share of the short
        side; 0 = everywhere. Training skips frames and always searches everywhere.

    Raises:
      VosError: a value out of range.
    """

    variant: str | Callable = "object"
    affinity: str | Callable = "l2"
    scale: float | None = None
    topk: int = 32
    window: int = 0
    kernel_sigma: float = 7.0
    search_radius: float = 0.14

    def __post_init__(self):
        checks.known_name(self, "variant", READS)
        checks.known_name(self, "affinity", affinity_lib.AFFINITIES)
        checks.at_least(self, 1, "topk")
        checks.at_least(self, 0, "window", "search_radius")
        checks.above(self, 0, "kernel_sigma")


class Read(flax.struct.PyTreeNode):
    """What the memory says about the query frame."""

    value: Float[Array, "N h w Cv"]  # R^v
    embed: Float[Array, "N h w Ce"]  # R^e
    prob: Float[Array, "N h w"]  # R^p, the memory's own propagated mask
    slot_attention: Float[Array, "N M"]  # share of the attention per slot, of the object's pixels
    near: Bool[Array, "N h w"] | None = None  # where the object was looked for, said by `read`; 0 elsewhere


class _Sums(flax.struct.PyTreeNode):
    """Running sums of one object over the slots seen so far, relative to exp(`maximum`)."""

    maximum: Float[Array, "Q"]
    value: Float[Array, "Q Cv"]
    embed: Float[Array, "Q Ce"]
    partition: Float[Array, "Q"]  # of the weighted affinity: Z_o
    total: Float[Array, "Q"]  # of the plain affinity: Z
    prob: Float[Array, "Q"]  # sum of plain weights times prob_o


def _blockwise(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    read_block: Callable,
    near: Bool[Array, "N h w"] | None,
) -> Read:
    """Reads the query pixels that are near any object, a block at a time, and puts the results together."""
    value, embed, prob, mass = pixels_lib.in_blocks(read_block, query_key, near)
    return Read(
        value=value.astype(memory.value.dtype),
        embed=embed.astype(memory.embed.dtype),
        prob=jnp.clip(prob, 0.0, 1.0),
        slot_attention=mass / jnp.maximum(jnp.sum(mass, axis=-1, keepdims=True), 1e-6),
    )


def _stream(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    *,
    config: ReadConfig,
    near: Bool[Array, "N h w"] | None,
    memory_near: Bool[Array, "N M h w"] | None = None,
    weight: Callable = lambda prob: prob + EPSILON,
    kernelized: bool = False,
) -> Read:
    """Reads every slot once, keeping running sums: nothing of size Q x (M K) is ever made."""
    n, num_slots, h, w = memory.prob.shape

    def read_block(query: Float[Array, "Q Ck"], pixels: Int[Array, "Q"]) -> tuple[Array, ...]:
        q = query.shape[0]
        logits_of = affinity_lib.logits_fn(query, pixels, (h, w), config=config, kernelized=kernelized)

        def add_slot(sums: _Sums, index: Array) -> tuple[_Sums, tuple[Array, Array]]:
            slot = affinity_lib.slot(memory, index, memory_near)
            logits = logits_of(slot)
            maximum = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
            plain = jnp.where(logits > affinity_lib.MASKED / 2, jnp.exp(logits - maximum[:, None]), 0.0)
            plain = plain.astype(slot.key.dtype)
            of_masks = jax.vmap(functools.partial(_masks, plain, weight))(slot.prob)
            contents = _contents(plain, weight, of_masks[..., 0], slot)
            add = functools.partial(_add_object, maximum=maximum)
            return jax.vmap(add)(sums, of_masks, *contents, slot.object_in_slot)

        def skip_slot(sums: _Sums, index: Array) -> tuple[_Sums, tuple[Array, Array]]:
            del index
            return sums, (jnp.full((n, q), affinity_lib.MASKED), jnp.zeros((n, q)))

        def step(sums: _Sums, index: Array) -> tuple[_Sums, tuple[Array, Array]]:
            # Empty slots cost nothing: early frames are cheap.
            return jax.lax.cond(memory.slot_valid[index], add_slot, skip_slot, sums, index)

        sums = _Sums(
            maximum=jnp.full((n, q), affinity_lib.MASKED),
            value=jnp.zeros((n, q, memory.value.shape[-1])),
            embed=jnp.zeros((n, q, memory.embed.shape[-1])),
            partition=jnp.zeros((n, q)),
            total=jnp.zeros((n, q)),
            prob=jnp.zeros((n, q)),
        )
        sums, (slot_maximum, slot_partition) = jax.lax.scan(step, sums, jnp.arange(num_slots))
        return _finish(sums, slot_maximum, slot_partition, functools.partial(pixels_lib.within, near, pixels))

    # KMN's kernel needs each memory pixel's best query among all of them.
    return _blockwise(query_key, memory, read_block, None if kernelized else near)


def _product(plain: Float[Array, "Q K"], columns: Float[Array, "K c"]) -> Float[Array, "Q c"]:
    return jnp.einsum("qk,kc->qc", plain, columns, preferred_element_type=jnp.float32)


def _masks(plain: Float[Array, "Q K"], weight: Callable, prob: Float[Array, "K"]) -> Float[Array, "Q 3"]:
    """One object's weighted affinity Z_o, its plain affinity with the object's pixels, and Z, of one slot."""
    columns = jnp.stack([weight(prob), prob, jnp.ones_like(prob)], axis=-1)
    return _product(plain, columns.astype(plain.dtype))


def _contents(
    plain: Float[Array, "Q K"], weight: Callable, partition: Float[Array, "N Q"], slot: affinity_lib.Slot
) -> tuple[Float[Array, "N Q Cv"], Float[Array, "N Q Ce"]]:
    """Values and embeddings of one slot, summed by weighted affinity for each object."""
    num_pixels = plain.shape[-1]

    def read(count: int) -> tuple[Array, Array]:
        of_object = functools.partial(_distinct, plain, weight, slot, count)
        return jax.vmap(of_object)(slot.value, slot.prob, slot.near, partition)

    if slot.near is None:
        return read(num_pixels)
    near = slot.near & slot.pixel_valid[None, :]
    slot = slot.replace(near=near)
    most = jnp.max(jnp.sum(near & slot.object_in_slot[:, None], axis=-1))
    return pixels_lib.switch(most, num_pixels, read)


def _distinct(
    plain: Float[Array, "Q K"],
    weight: Callable,
    slot: affinity_lib.Slot,
    count: int,
    value: Float[Array, "K Cv"],
    prob: Float[Array, "K"],
    near: Bool[Array, "K"] | None,
    partition: Float[Array, "Q"],
) -> tuple[Float[Array, "Q Cv"], Float[Array, "Q Ce"]]:
    """One object's `_contents`: its near pixels, at most `count`, one by one, all others as their mean."""
    weights = weight(prob).astype(plain.dtype)
    if near is None:
        return _product(plain, weights[:, None] * value), _product(plain, weights[:, None] * slot.embed)
    # Whatever `count` is padded to, and by whom: a pixel is read for itself if it is near, else it is not.
    own_weights = jnp.where(near, weights, 0.0)
    far_weights = jnp.where(slot.pixel_valid & ~near, weights, 0.0)
    far_weights /= jnp.maximum(jnp.sum(far_weights), 1e-30)
    own = slice(None)
    if count < prob.size:
        own = pixels_lib.first(near, count)
        plain = jnp.take(plain, own, axis=1)
    own_weights = own_weights[own]
    far_affinity = jnp.maximum(partition - _product(plain, own_weights[:, None])[:, 0], 0.0)

    def read(content: Float[Array, "K c"]) -> Float[Array, "Q c"]:
        far = far_affinity[:, None] * (far_weights @ content)[None, :]
        return _product(plain, own_weights[:, None] * content[own]) + far

    return read(value), read(slot.embed)


def _add_object(
    sums: _Sums,
    of_masks: Float[Array, "Q 3"],
    value: Float[Array, "Q Cv"],
    embed: Float[Array, "Q Ce"],
    in_slot: Bool[Array, ""],
    *,
    maximum: Float[Array, "Q"],
) -> tuple[_Sums, tuple[Array, Array]]:
    """Adds one slot to one object's running sums; also returns the slot's own maximum and Z_o."""
    maximum = jnp.where(in_slot, maximum, affinity_lib.MASKED)
    new_maximum = jnp.maximum(sums.maximum, maximum)
    keep = jnp.exp(sums.maximum - new_maximum)
    take = jnp.where(maximum > affinity_lib.MASKED / 2, jnp.exp(maximum - new_maximum), 0.0)
    partition, evidence, total = of_masks[:, 0], of_masks[:, 1], of_masks[:, 2]
    new = _Sums(
        maximum=new_maximum,
        value=keep[:, None] * sums.value + take[:, None] * value,
        embed=keep[:, None] * sums.embed + take[:, None] * embed,
        partition=keep * sums.partition + take * partition,
        total=keep * sums.total + take * total,
        prob=keep * sums.prob + take * evidence,
    )
    return new, (maximum, jnp.where(maximum > affinity_lib.MASKED / 2, partition, 0.0))


def _finish(
    sums: _Sums,
    slot_maximum: Float[Array, "M N Q"],
    slot_partition: Float[Array, "M N Q"],
    within: Callable[[Float[Array, "N Q"]], Float[Array, "N Q"]],
) -> tuple[Array, ...]:
    """Divides by the partition functions; an object that no slot knows reads zeros."""
    # Chosen before the division: behind one by almost nothing, gradients would be 0 times infinity.
    partition = jnp.where(sums.partition > 0, sums.partition, 1.0)
    prob = sums.prob / jnp.where(sums.total > 0, sums.total, 1.0)
    share = slot_partition * jnp.exp(slot_maximum - sums.maximum[None]) / partition[None]
    # Only the object's own pixels say which slots it needs.
    mass = jnp.einsum("mnq,nq->nm", share, within(prob))
    return sums.value / partition[..., None], sums.embed / partition[..., None], prob, mass


def _uniform(prob: Float[Array, "K"]) -> Float[Array, "K"]:
    """No log-mask bias. Independent of the object, so that what all objects read alike is read once."""
    return jnp.ones(prob.shape, jnp.float32)


def object_based(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    config: ReadConfig,
    near: Bool[Array, "N h w"] | None = None,
) -> Read:
    """The paper's object-based memory: each object attends to its own pixels (DESIGN.md section 3)."""
    memory_near = None
    if near is not None:
        n, num_slots, h, w = memory.prob.shape
        seen = memory.prob.reshape(n * num_slots, h, w)
        memory_near = masks.reachable(seen, (h, w), config.search_radius, COVERED).reshape(memory.prob.shape)
        # The mean of far pixels serves queries near the object only. An object that is looked for in the
        # whole frame reads every pixel: with the mean, 35 of 35 absent objects had a mask.
        memory_near |= jnp.all(near, axis=(1, 2))[:, None, None, None]
    return _stream(query_key, memory, config=config, near=near, memory_near=memory_near)


def shared(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    config: ReadConfig,
    near: Bool[Array, "N h w"] | None = None,
) -> Read:
    """STM: one affinity for all objects, no mask bias."""
    return _stream(query_key, memory, config=config, near=near, weight=_uniform)


def topk(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    config: ReadConfig,
    near: Bool[Array, "N h w"] | None = None,
) -> Read:
    """`shared` over each query pixel's `config.topk` highest affinities.

    They are the highest over all slots; those in slots older than an object do not count for that object.
    Only what they point at is gathered, so values cost k per query pixel and not M K.
    """
    n, num_slots, h, w = memory.prob.shape
    k = min(config.topk, h * w)

    def read_block(query: Float[Array, "Q Ck"], numbers: Int[Array, "Q"]) -> tuple[Array, ...]:
        logits_of = affinity_lib.logits_fn(query, numbers, (h, w), config=config)

        def merge_slot(best: tuple[Array, Array], index: Array) -> tuple[Array, Array]:
            highest, pixels = jax.lax.top_k(logits_of(affinity_lib.slot(memory, index)), k)
            highest = jnp.concatenate([best[0], highest], axis=-1)
            pixels = jnp.concatenate([best[1], pixels + index * (h * w)], axis=-1)
            highest, order = jax.lax.top_k(highest, k)
            return highest, jnp.take_along_axis(pixels, order, axis=-1)

        def step(best: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
            return jax.lax.cond(memory.slot_valid[index], merge_slot, lambda b, _: b, best, index), None

        none = jnp.full((query.shape[0], k), affinity_lib.MASKED), jnp.zeros((query.shape[0], k), jnp.int32)
        (highest, pixels), _ = jax.lax.scan(step, none, jnp.arange(num_slots))
        visible = highest > affinity_lib.MASKED / 2
        maximum = jax.lax.stop_gradient(jnp.max(highest, axis=-1, keepdims=True))
        plain = jnp.where(visible, jnp.exp(highest - maximum), 0.0)
        slots = pixels // (h * w)

        def read_object(value: Array, prob: Array, in_slot: Array) -> tuple[Array, ...]:
            weights = jnp.where(in_slot[slots], plain, 0.0)
            weights /= jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-30)

            def gather(x: Float[Array, "M h w *c"]) -> Float[Array, "Q c"]:
                x = x.reshape(num_slots * h * w, -1)[pixels]
                return jnp.einsum(
                    "qk,qkc->qc", weights.astype(x.dtype), x, preferred_element_type=jnp.float32
                )

            return gather(value), gather(memory.embed), gather(prob)[:, 0], weights

        *found, prob, weights = jax.vmap(read_object)(memory.value, memory.prob, memory.object_in_slot)
        shares = weights * pixels_lib.within(near, numbers, prob)[..., None]
        mass = jnp.zeros((n, num_slots)).at[:, slots.ravel()].add(shares.reshape(n, -1))
        return *found, prob, mass

    return _blockwise(query_key, memory, read_block, near)


def kernelized(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    config: ReadConfig,
    near: Bool[Array, "N h w"] | None = None,
) -> Read:
    """KMN: `shared`, with a Gaussian around the query pixel that each memory pixel matches best."""
    return _stream(query_key, memory, config=config, near=near, weight=_uniform, kernelized=True)


READS = {"object": object_based, "shared": shared, "topk": topk, "kernelized": kernelized}


def read(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    config: ReadConfig,
    prev_prob: Float[Array, "N H/4 W/4"] | None = None,
) -> Read:
    """Reads the memory for the pixels of the query frame.

    Args:
      query_key: key of the current frame.
      memory: M slots of which the valid ones are read.
      config: the variant and its settings.
      prev_prob: the objects' masks one frame before, for `config.search_radius`.

    Returns:
      Per object the value and embedding read, the propagated mask R^p in [0, 1] and the attention per slot;
      zeros where no slot knows the object. Outside the search region, mask and embedding are 0 and the value
      is the last slot's. Computed in fp32, returned in the memory's dtype.

    Raises:
      VosError: `config.variant` names no read, or `config.affinity` no affinity.
    """
    variant = affinity_lib.named(config.variant, READS, "read.variant")
    n, _, h, w = memory.prob.shape
    known = jnp.any(memory.object_in_slot, axis=1)
    near = jnp.broadcast_to(known[:, None, None], (n, h, w))
    if config.search_radius == 0 or prev_prob is None:
        return variant(query_key, memory, config).replace(near=near)
    near &= search_region.search_region(prev_prob, memory, config.search_radius)
    read = variant(query_key, memory, config, near)
    # Of each object alone: what is read around another one changes nothing. Elsewhere stands what the last
    # frame held there: RefineNet has never seen a value of nothing.
    last = jnp.argmax(jnp.where(memory.slot_valid, memory.slot_frame, -1))
    return read.replace(
        value=jnp.where(near[..., None], read.value, memory.value[:, last]),
        embed=jnp.where(near[..., None], read.embed, 0.0),
        prob=jnp.where(near, read.prob, 0.0),
        near=near,
    )
