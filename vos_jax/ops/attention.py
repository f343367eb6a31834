"""Attention of query pixels to the pixels of memory slots, for several objects with one affinity.

Object o gives memory pixel m the weight w_o(m). With the affinity r(q, m) its attention is

    a_o(q, m) = exp(r(q, m)) w_o(m) / Z_o(q),   Z_o(q) = sum_m exp(r(q, m)) w_o(m)

over the slots that contain the object. All objects share one exponential per (q, m). The three functions
differ in the affinities that they store at a time: `dense` all, `streamed` those of a block of queries and a
slot, `top` the highest of every query. The running maximum is kept per object, so no partition function
underflows if w_o has a lower bound.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from vos_jax.typing import Array, Bool, Float, Int

MASKED = -1e30
"""Affinity of a pixel that is not visible. Finite, so that the difference of two of them is not NaN."""

QUERY_BLOCK, MEMORY_BLOCK = 416, 304
"""Pixels per block of `streamed`. Small blocks waste less of the last one, large ones give larger matrix
products. Tuned for 480x864 on two CPU cores (docs/performance.md)."""

Logits = Callable[[Int[Array, ""], Int[Array, "Q"]], Float[Array, "Q K"]]
"""Function of a slot and query pixel numbers that returns the affinities of these pixels with the slot's."""


class Source(flax.struct.PyTreeNode):
    """M slots of K pixels for N objects."""

    value: Float[Array, "N M K Cv"]
    embed: Float[Array, "M K Ce"]
    prob: Float[Array, "N M K"]  # the objects' masks
    weight: Float[Array, "N M K"]  # w_o
    in_slot: Bool[Array, "N M"]  # slots that contain the object
    slot_valid: Bool[Array, "M"]


class Attended(flax.struct.PyTreeNode):
    """Contents that each object reads for the queries; zeros if no slot contains the object."""

    value: Float[Array, "N Q Cv"]
    embed: Float[Array, "N Q Ce"]
    prob: Float[Array, "N Q"]  # the masks, read with the attention without weights
    share: Float[Array, "N Q M"]  # of the attention, per slot


def dense(
    logits: Float[Array, "Q M K"], source: Source, memory_region: Bool[Array, "N M K"] | None = None
) -> Attended:
    """Attends with all affinities at once.

    Args:
      logits: affinities; `MASKED` where a pixel is not visible.
      source: the memory slots.
      memory_region: as in `streamed`.
    """
    maximum = jax.lax.stop_gradient(jnp.max(logits, axis=2))
    plain = jnp.where(logits > MASKED / 2, jnp.exp(logits - maximum[..., None]), 0.0)
    seen = source.in_slot[:, None] & source.slot_valid[None, None] & (maximum > MASKED / 2)[None]
    largest = jnp.max(jnp.where(seen, maximum[None], MASKED), axis=2)[..., None]
    scale = jnp.where(seen, jnp.exp(maximum[None] - largest), 0.0)
    dtype = source.value.dtype
    weighted = (plain[None] * scale[..., None] * source.weight[:, None]).astype(dtype)
    partition = jnp.sum(weighted, axis=3, dtype=jnp.float32)
    sums = {"preferred_element_type": jnp.float32}
    total = jnp.einsum("qmk,nqm->nq", plain, scale)
    evidence = jnp.einsum("qmk,nqm,nmk->nq", plain, scale, source.prob)
    z = _positive(jnp.sum(partition, axis=2))
    far = far_value = far_embed = None
    if memory_region is not None:
        near = memory_region & source.in_slot[..., None]
        far_value, far_embed = _far_means(source, near)
        far = jnp.sum(jnp.where(near[:, None], 0, weighted), axis=3, dtype=jnp.float32)
        weighted = jnp.where(near[:, None], weighted, 0)
    value = jnp.einsum("nqmk,nmkc->nqc", weighted, source.value, **sums)
    embed = jnp.einsum("nqmk,mkc->nqc", weighted, source.embed.astype(dtype), **sums)
    if far is not None:
        value += jnp.einsum("nqm,nmc->nqc", far, far_value, **sums)
        embed += jnp.einsum("nqm,nmc->nqc", far, far_embed, **sums)
    return Attended(
        value=value / z[..., None],
        embed=embed / z[..., None],
        prob=evidence / _positive(total),
        share=partition / z[..., None],
    )


def dense_in_blocks(
    logits_of: Logits,
    source: Source,
    num_queries: int,
    *,
    memory_region: Bool[Array, "N M K"] | None = None,
    most: int,
) -> Attended:
    """Runs `dense` on blocks of queries, with about `most` affinities of all objects at a time."""
    n, num_slots, num_pixels = source.prob.shape

    def attend(queries: Int[Array, "Q"]) -> Attended:
        logits = jax.vmap(logits_of, in_axes=(0, None), out_axes=1)(jnp.arange(num_slots), queries)
        return dense(logits, source, memory_region)

    size = max(most // (n * num_slots * num_pixels), 1)
    return _by_block(attend, num_queries, None, min(size, num_queries))


class _Near(flax.struct.PyTreeNode):
    """The near pixels of each slot, which are read one by one, and the mean of the far ones.

    Attributes:
      order: numbers of the near pixels in blocks, padded with K.
      most: blocks that are not only padding, maximum over the objects.
      weight: of the near pixels; 0 for far ones.
      far: weighted mean of the contents of the far pixels.
    """

    order: Int[Array, "N M blocks size"]
    most: Int[Array, "M"]
    weight: Float[Array, "N M K"]
    far: Float[Array, "N M Cv+Ce"]


def _find_near(source: Source, region: Bool[Array, "N M K"]) -> _Near:
    num_pixels = source.prob.shape[2]
    near = region & source.in_slot[..., None]
    far_value, far_embed = _far_means(source, near)
    size = min(MEMORY_BLOCK, num_pixels)
    order, number = jax.vmap(jax.vmap(lambda near: _in_blocks(near, size)))(near)
    return _Near(
        order=order,
        most=jnp.max(number, axis=0),
        weight=jnp.where(near, source.weight, 0.0),
        far=jnp.concatenate([far_value, far_embed], axis=-1),
    )


def _far_means(
    source: Source, near: Bool[Array, "N M K"]
) -> tuple[Float[Array, "N M Cv"], Float[Array, "N M Ce"]]:
    """Returns the weighted means of the value and the embedding of each slot's far pixels."""
    dtype = source.value.dtype
    weight = jnp.where(near, 0.0, source.weight)
    weight /= jnp.maximum(jnp.sum(weight, axis=2, keepdims=True), 1e-30)
    weight = weight.astype(dtype)
    value = jnp.einsum("nmk,nmkc->nmc", weight, source.value)
    return value, jnp.einsum("nmk,mkc->nmc", weight, source.embed.astype(dtype))


_product = functools.partial(jnp.einsum, "kq,kc->qc", preferred_element_type=jnp.float32)


class _Sums(flax.struct.PyTreeNode):
    """Running sums over the slots so far, relative to exp(`maximum`)."""

    maximum: Float[Array, "N Q"]
    partition: Float[Array, "N Q"]  # of the weighted attention
    total: Float[Array, "N Q"]  # of the attention without weights
    evidence: Float[Array, "N Q"]  # of the attention without weights, times the mask
    contents: Float[Array, "N Q Cv+Ce"]


def streamed(
    logits_of: Logits,
    source: Source,
    num_queries: int,
    *,
    query_region: Bool[Array, "Q"] | None = None,
    memory_region: Bool[Array, "N M K"] | None = None,
    query_block: int | None = None,
) -> Attended:
    """Attends with a block of queries at a time; without regions equal to `dense` up to rounding.

    Empty slots are skipped. There is no gradient with regions.

    Args:
      logits_of: returns affinities.
      source: the memory slots.
      num_queries: Q.
      query_region: queries to compute; all others get zeros. None: all.
      memory_region: near pixels, which are read one by one. The far pixels of a slot are read as their
        weighted mean, an approximation, with the exact partition function. None: all pixels are near.
      query_block: queries at a time; None = `QUERY_BLOCK`.
    """
    near = None if memory_region is None else _find_near(source, memory_region)
    return _by_block(
        functools.partial(_attend_block, logits_of, source, near),
        num_queries,
        query_region,
        min(query_block or QUERY_BLOCK, num_queries),
    )


def _attend_block(
    logits_of: Logits, source: Source, near: _Near | None, queries: Int[Array, "Q"]
) -> Attended:
    n, num_slots, _ = source.prob.shape
    size, dtype, num_values = queries.shape[0], source.value.dtype, source.value.shape[-1]
    zeros = jnp.zeros((n, size))
    empty = _Sums(
        maximum=jnp.full((n, size), MASKED),
        partition=zeros,
        total=zeros,
        evidence=zeros,
        contents=jnp.zeros((n, size, num_values + source.embed.shape[-1])),
    )

    def add_slot(sums: _Sums, slot: Int[Array, ""]) -> tuple[_Sums, tuple[Array, Array]]:
        # Memory pixels are the first axis, so that a gather of some of them copies whole rows.
        logits = logits_of(slot, queries).T
        maximum = jax.lax.stop_gradient(jnp.max(logits, axis=0))
        plain = jnp.where(logits > MASKED / 2, jnp.exp(logits - maximum[None]), 0.0).astype(dtype)
        weight, prob = source.weight[:, slot], source.prob[:, slot]
        columns = jnp.stack([weight, prob, jnp.ones_like(prob)], axis=-1).astype(dtype)
        of_masks = jax.vmap(functools.partial(_product, plain))(columns)
        contents = _read_slot(source, near, slot, plain, of_masks[..., 0])
        maximum = jnp.where(source.in_slot[:, slot, None], maximum[None], MASKED)
        return _add(sums, maximum, of_masks, contents)

    def skip_slot(sums: _Sums, slot: Int[Array, ""]) -> tuple[_Sums, tuple[Array, Array]]:
        del slot
        return sums, (empty.maximum, zeros)

    def step(sums: _Sums, slot: Int[Array, ""]) -> tuple[_Sums, tuple[Array, Array]]:
        return jax.lax.cond(source.slot_valid[slot], add_slot, skip_slot, sums, slot)

    sums, (slot_maximum, slot_partition) = jax.lax.scan(step, empty, jnp.arange(num_slots))
    # `_positive` acts before the division: after one by almost 0, gradients would be 0 times infinity.
    z = _positive(sums.partition)
    contents = sums.contents / z[..., None]
    share = slot_partition * jnp.exp(slot_maximum - sums.maximum[None]) / z[None]
    return Attended(
        value=contents[..., :num_values],
        embed=contents[..., num_values:],
        prob=sums.evidence / _positive(sums.total),
        share=jnp.moveaxis(share, 0, -1),
    )


def _read_slot(
    source: Source,
    near: _Near | None,
    slot: Int[Array, ""],
    plain: Float[Array, "K Q"],
    partition: Float[Array, "N Q"],
) -> Float[Array, "N Q Cv+Ce"]:
    """Returns each object's read of one slot, before the division by the partition function."""
    n, dtype = source.prob.shape[0], source.value.dtype
    value, embed = source.value[:, slot], source.embed[slot].astype(dtype)
    if near is None:
        weight = source.weight[:, slot, :, None].astype(dtype)
        contents = jnp.concatenate([value, jnp.broadcast_to(embed[None], (n, *embed.shape))], axis=-1)
        return jax.vmap(functools.partial(_product, plain))(contents * weight)
    weight, order, far = near.weight[:, slot], near.order[:, slot], near.far[:, slot]

    def add(index: Array, sums: Float[Array, "N Q C+1"]) -> Float[Array, "N Q C+1"]:
        def one(order: Array, value: Array, weight: Array) -> Array:
            own = weight.at[order].get(mode="fill", fill_value=0).astype(dtype)[:, None]
            rows = [value.at[order].get(mode="clip"), embed.at[order].get(mode="clip"), jnp.ones_like(own)]
            # The last column sums the attention itself.
            return _product(plain.at[order].get(mode="clip"), jnp.concatenate(rows, axis=-1) * own)

        return sums + jax.vmap(one)(order[:, index], value, weight)

    sums = jnp.zeros((n, plain.shape[1], far.shape[-1] + 1))
    sums = jax.lax.fori_loop(0, near.most[slot], add, sums)
    rest = jnp.maximum(partition - sums[..., -1], 0.0)
    return sums[..., :-1] + rest[..., None] * far[:, None]


def _add(
    sums: _Sums,
    maximum: Float[Array, "N Q"],
    of_masks: Float[Array, "N Q 3"],
    contents: Float[Array, "N Q Cv+Ce"],
) -> tuple[_Sums, tuple[Float[Array, "N Q"], Float[Array, "N Q"]]]:
    """Adds a slot to the running sums; also returns the slot's maximum and partition function."""
    new_maximum = jnp.maximum(sums.maximum, maximum)
    keep = jnp.exp(sums.maximum - new_maximum)
    take = jnp.where(maximum > MASKED / 2, jnp.exp(maximum - new_maximum), 0.0)
    partition, evidence, total = of_masks[..., 0], of_masks[..., 1], of_masks[..., 2]
    new = _Sums(
        maximum=new_maximum,
        partition=keep * sums.partition + take * partition,
        total=keep * sums.total + take * total,
        evidence=keep * sums.evidence + take * evidence,
        contents=keep[..., None] * sums.contents + take[..., None] * contents,
    )
    return new, (maximum, jnp.where(maximum > MASKED / 2, partition, 0.0))


def _by_block(
    attend: Callable[[Int[Array, "Q"]], Attended],
    num_queries: int,
    region: Bool[Array, "Q"] | None,
    size: int,
) -> Attended:
    """Runs `attend` on blocks of the queries in a region; all others get zeros."""
    if region is None and size == num_queries:
        return attend(jnp.arange(num_queries))
    every = jnp.ones(num_queries, bool) if region is None else region
    queries, number = _in_blocks(every, size)
    # A loop of static length has a gradient.
    count: Any = queries.shape[0] if region is None else number
    found = jax.eval_shape(attend, queries[0])
    found = jax.tree.map(lambda x: jnp.zeros((queries.size, x.shape[0], *x.shape[2:]), x.dtype), found)

    def add(index: Array, found: Attended) -> Attended:
        def put(x: Array, block: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(x, jnp.moveaxis(block, 1, 0), index * size, 0)

        return jax.tree.map(put, found, attend(jnp.minimum(queries[index], num_queries - 1)))

    found = jax.lax.fori_loop(0, count, add, found)
    place = jnp.full(num_queries, queries.size).at[queries.ravel()].set(jnp.arange(queries.size), mode="drop")

    def to_queries(x: Array) -> Array:
        return jnp.moveaxis(x.at[place].get(mode="fill", fill_value=0), 0, 1)

    return jax.tree.map(to_queries, found)


def top(
    logits_of: Logits,
    source: Source,
    k: int,
    num_queries: int,
    *,
    query_region: Bool[Array, "Q"] | None = None,
    query_block: int | None = None,
) -> Attended:
    """Attends to each query's `k` highest affinities over all slots, without weights.

    Affinities of slots that do not contain an object are ignored for it. Contents are gathered for these k
    pixels only, so they cost k per query instead of M K.

    Args:
      logits_of, source, num_queries, query_region, query_block: as in `streamed`.
      k: at most K.
    """
    _, num_slots, num_pixels = source.prob.shape

    def of_block(pixels: Int[Array, "Q"]) -> Attended:
        size = pixels.shape[0]

        def merge_slot(best: tuple[Array, Array], slot: Array) -> tuple[Array, Array]:
            highest, found = jax.lax.top_k(logits_of(slot, pixels), k)
            highest = jnp.concatenate([best[0], highest], axis=-1)
            found = jnp.concatenate([best[1], found + slot * num_pixels], axis=-1)
            highest, order = jax.lax.top_k(highest, k)
            return highest, jnp.take_along_axis(found, order, axis=-1)

        def step(best: tuple[Array, Array], slot: Array) -> tuple[tuple[Array, Array], None]:
            return jax.lax.cond(source.slot_valid[slot], merge_slot, lambda b, _: b, best, slot), None

        none = jnp.full((size, k), MASKED), jnp.zeros((size, k), jnp.int32)
        (highest, found), _ = jax.lax.scan(step, none, jnp.arange(num_slots))
        maximum = jax.lax.stop_gradient(jnp.max(highest, axis=-1, keepdims=True))
        plain = jnp.where(highest > MASKED / 2, jnp.exp(highest - maximum), 0.0)
        slots = found // num_pixels

        def read_object(value: Array, prob: Array, in_slot: Array) -> tuple[Array, ...]:
            weights = jnp.where(in_slot[slots], plain, 0.0)
            weights /= jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-30)

            def gather(x: Float[Array, "M K *c"]) -> Float[Array, "Q c"]:
                x = x.reshape(num_slots * num_pixels, -1)[found]
                return jnp.einsum(
                    "qk,qkc->qc", weights.astype(x.dtype), x, preferred_element_type=jnp.float32
                )

            share = jnp.einsum("qk,qkm->qm", weights, jax.nn.one_hot(slots, num_slots))
            return gather(value), gather(source.embed), gather(prob)[:, 0], share

        found = jax.vmap(read_object)(source.value, source.prob, source.in_slot)
        return Attended(*found)

    return _by_block(of_block, num_queries, query_region, min(query_block or QUERY_BLOCK, num_queries))


def _in_blocks(marked: Bool[Array, "K"], size: int) -> tuple[Int[Array, "blocks size"], Int[Array, ""]]:
    """Returns the marked pixels' numbers in blocks, padded with K, and the count of non-empty blocks."""
    count = math.ceil(marked.size / size)
    number = jnp.sum(marked)
    order = jnp.argsort(~marked, stable=True)
    order = jnp.where(jnp.arange(marked.size) < number, order, marked.size)
    order = jnp.pad(order, (0, count * size - marked.size), constant_values=marked.size)
    return order.reshape(count, size), (number + size - 1) // size


def _positive(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.where(x > 0, x, 1.0)
