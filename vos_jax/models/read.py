"""Memory reads: how a query frame attends to the memory, streamed slot by slot (DESIGN.md section 3).

For object o, query pixel q, memory pixel m the affinity is r_o(q, m) = r(q, m) + log(prob_o(m) + eps). Since
exp(r_o) = exp(r) * (prob_o + eps), the log-mask bias is a weight on what is read: one exponential per
(q, m) serves all objects and both partition functions, and each object adds one matrix product.

As prob_o + eps >= eps, Z_o is never below eps * Z, so one running maximum keeps both of them from
underflowing; it is kept per object, since objects differ in the slots they may read.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp

from vos_jax import errors
from vos_jax.models import memory as memory_lib
from vos_jax.typing import Array, Bool, Float

# Evidence of a memory pixel outside an object: log(1e-4) = -9.2 in the logits.
EPSILON = 1e-4
# Stands for minus infinity: finite, so that differences of two of them are no NaN.
MASKED = -1e30
# Queries are taken in blocks of rows whose affinity with one slot has at most so many entries: 18 MB, which a
# last-level cache holds.
AFFINITY_BLOCK = 4_500_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How to read.

    Attributes:
      variant: a name in `READS` or a callable of the same signature.
      affinity: a name in `AFFINITIES` or a callable of the same signature (variant "l2" has its own).
      scale: factor on the dot product or squared distance; None: 1/sqrt(Ck).
      topk: only a query pixel's `topk` highest affinities count (variant "topk").
      window: unpinned slots are seen only within so many cells of the query pixel; 0: everywhere.
      sigma: width in cells of the kernel around each memory pixel's best query (variant "kernelized").
    """

    variant: str | Callable = "object"
    affinity: str | Callable = "dot"
    scale: float | None = None
    topk: int = 32
    window: int = 0
    sigma: float = 7.0


@flax.struct.dataclass
class Read:
    """What the memory says about the query frame."""

    value: Float[Array, "N h w Cv"]  # R^v
    embed: Float[Array, "N h w Ce"]  # R^e
    prob: Float[Array, "N h w"]  # R^p, the memory's own propagated mask
    mass: Float[Array, "N M"]  # attention mass per slot, of the object's pixels; sums to 1


@flax.struct.dataclass
class _Slot:
    """One memory frame, flattened to K pixels."""

    key: Float[Array, "K Ck"]
    embed: Float[Array, "K Ce"]
    value: Float[Array, "N K Cv"]
    prob: Float[Array, "N K"]
    pixel_valid: Bool[Array, "K"]
    object_in_slot: Bool[Array, "N"]
    pinned: Bool[Array, ""]


@flax.struct.dataclass
class _Sums:
    """Running sums of one object over the slots seen so far, relative to exp(`maximum`)."""

    maximum: Float[Array, "Q"]
    value: Float[Array, "Q Cv"]
    embed: Float[Array, "Q Ce"]
    partition: Float[Array, "Q"]  # of the weighted affinity: Z_o
    total: Float[Array, "Q"]  # of the plain affinity: Z
    prob: Float[Array, "Q"]  # sum of plain weights times prob_o


def dot(query: Float[Array, "Q Ck"], key: Float[Array, "K Ck"]) -> Float[Array, "Q K"]:
    """Affinity of space-time memory networks: the dot product."""
    return jnp.einsum("qc,kc->qk", query, key, preferred_element_type=jnp.float32)


def negative_squared_distance(query: Float[Array, "Q Ck"], key: Float[Array, "K Ck"]) -> Float[Array, "Q K"]:
    """Affinity of STCN: -|q - k|^2."""
    query_norm = jnp.sum(jnp.square(query.astype(jnp.float32)), axis=-1)
    key_norm = jnp.sum(jnp.square(key.astype(jnp.float32)), axis=-1)
    return 2.0 * dot(query, key) - query_norm[:, None] - key_norm[None, :]


AFFINITIES = {"dot": dot, "l2": negative_squared_distance}


def _named(choice: str | Callable, known: dict[str, Callable], kind: str) -> Callable:
    if callable(choice):
        return choice
    if choice not in known:
        raise errors.VosError(f"model.{kind} is {choice!r}; there are {', '.join(known)}, or any callable")
    return known[choice]


def _slot(memory: memory_lib.Memory, index: Array) -> _Slot:
    n, _, h, w = memory.prob.shape

    def flat(x: Array, axis: int) -> Array:
        x = jax.lax.dynamic_index_in_dim(x, index, axis, keepdims=False)
        return x.reshape(*x.shape[:axis], h * w, *x.shape[axis + 2 :])

    return _Slot(
        key=flat(memory.key, 0),
        embed=flat(memory.embed, 0),
        value=flat(memory.value, 1),
        prob=flat(memory.prob, 1),
        pixel_valid=flat(memory.pixel_valid, 0),
        object_in_slot=jax.lax.dynamic_index_in_dim(memory.object_in_slot, index, 1, keepdims=False),
        pinned=memory.slot_pinned[index],
    )


def _positions(rows: Array, width: int) -> tuple[Array, Array]:
    """Row and column of every cell of the given rows, flattened."""
    y = jnp.repeat(rows, width, total_repeat_length=rows.shape[0] * width)
    return y, jnp.tile(jnp.arange(width), rows.shape[0])


def _logits_fn(
    query: Float[Array, "Q Ck"],
    query_rows: Array,
    grid: tuple[int, int],
    *,
    config: ReadConfig,
    kernelized: bool = False,
) -> Callable[[_Slot], Float[Array, "Q K"]]:
    """Returns the function that gives the affinity of some rows of query pixels with one slot's pixels."""
    affinity = _named(config.affinity, AFFINITIES, "affinity")
    scale = query.shape[-1] ** -0.5 if config.scale is None else config.scale
    query = query * jnp.asarray(scale**0.5, query.dtype)
    query_y, query_x = _positions(query_rows, grid[1])
    memory_y, memory_x = _positions(jnp.arange(grid[0]), grid[1])

    def logits_of(slot: _Slot) -> Float[Array, "Q K"]:
        logits = affinity(query, slot.key * jnp.asarray(scale**0.5, slot.key.dtype))
        visible = slot.pixel_valid[None, :]
        if kernelized:
            best = jnp.argmax(jnp.where(visible, logits, MASKED), axis=0)
            squared = jnp.square(query_y[:, None] - query_y[best][None, :])
            squared += jnp.square(query_x[:, None] - query_x[best][None, :])
            logits -= squared / (2.0 * config.sigma**2)
        if config.window:
            near = jnp.abs(query_y[:, None] - memory_y[None, :]) <= config.window
            near &= jnp.abs(query_x[:, None] - memory_x[None, :]) <= config.window
            visible &= near | slot.pinned
        return jnp.where(visible, logits, MASKED)

    return logits_of


def _blockwise(
    query_key: Float[Array, "h w Ck"], memory: memory_lib.Memory, read_block: Callable, rows: int
) -> Read:
    """Reads `rows` rows of query pixels at a time and puts the results together."""
    h, w, channels = query_key.shape
    blocks = query_key.reshape(h // rows, rows * w, channels), jnp.arange(h).reshape(h // rows, rows)
    if rows == h:
        results = jax.tree.map(lambda x: x[None], read_block(blocks[0][0], blocks[1][0]))
    else:
        results = jax.lax.map(lambda block: read_block(*block), blocks)
    value, embed, prob, mass = results
    mass = jnp.sum(mass, axis=0)

    def to_grid(x: Float[Array, "B N Q *c"]) -> Float[Array, "N h w *c"]:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], h, w, *x.shape[3:])

    return Read(
        value=to_grid(value).astype(memory.value.dtype),
        embed=to_grid(embed).astype(memory.embed.dtype),
        prob=jnp.clip(to_grid(prob), 0.0, 1.0),
        mass=mass / jnp.maximum(jnp.sum(mass, axis=-1, keepdims=True), 1e-6),
    )


def _stream(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    *,
    config: ReadConfig,
    weight: Callable = lambda prob: prob + EPSILON,
    kernelized: bool = False,
) -> Read:
    """Reads every slot once, keeping running sums: nothing of size Q x (M K) is ever made."""
    n, num_slots, h, w = memory.prob.shape

    def read_block(query: Float[Array, "Q Ck"], query_rows: Array) -> tuple[Array, ...]:
        q = query.shape[0]
        logits_of = _logits_fn(query, query_rows, (h, w), config=config, kernelized=kernelized)

        def add_slot(sums: _Sums, index: Array) -> tuple[_Sums, tuple[Array, Array]]:
            slot = _slot(memory, index)
            logits = logits_of(slot)
            maximum = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
            plain = jnp.where(logits > MASKED / 2, jnp.exp(logits - maximum[:, None]), 0.0)
            plain = plain.astype(slot.key.dtype)
            add = functools.partial(
                _add_object, plain=plain, maximum=maximum, embed=slot.embed, weight=weight
            )
            return jax.vmap(add)(sums, slot.value, slot.prob, slot.object_in_slot)

        def skip_slot(sums: _Sums, index: Array) -> tuple[_Sums, tuple[Array, Array]]:
            del index
            return sums, (jnp.full((n, q), MASKED), jnp.zeros((n, q)))

        def step(sums: _Sums, index: Array) -> tuple[_Sums, tuple[Array, Array]]:
            # Empty slots cost nothing: early frames are cheap.
            return jax.lax.cond(memory.slot_valid[index], add_slot, skip_slot, sums, index)

        sums = _Sums(
            maximum=jnp.full((n, q), MASKED),
            value=jnp.zeros((n, q, memory.value.shape[-1])),
            embed=jnp.zeros((n, q, memory.embed.shape[-1])),
            partition=jnp.zeros((n, q)),
            total=jnp.zeros((n, q)),
            prob=jnp.zeros((n, q)),
        )
        sums, (slot_maximum, slot_partition) = jax.lax.scan(step, sums, jnp.arange(num_slots))
        return _finish(sums, slot_maximum, slot_partition)

    # KMN's kernel needs each memory pixel's best query among all of them.
    return _blockwise(query_key, memory, read_block, h if kernelized else _block_rows(h, w))


def _block_rows(height: int, width: int) -> int:
    """The most rows that divide the height and whose affinity with one slot fits `AFFINITY_BLOCK`."""
    rows = [n for n in range(1, height + 1) if height % n == 0]
    return max((n for n in rows if n * width * height * width <= AFFINITY_BLOCK), default=1)


def _add_object(
    sums: _Sums,
    value: Float[Array, "K Cv"],
    prob: Float[Array, "K"],
    in_slot: Bool[Array, ""],
    *,
    plain: Float[Array, "Q K"],
    maximum: Float[Array, "Q"],
    embed: Float[Array, "K Ce"],
    weight: Callable,
) -> tuple[_Sums, tuple[Array, Array]]:
    """Adds one slot to one object's running sums; also returns the slot's own maximum and Z_o."""
    maximum = jnp.where(in_slot, maximum, MASKED)
    new_maximum = jnp.maximum(sums.maximum, maximum)
    keep = jnp.exp(sums.maximum - new_maximum)
    take = jnp.where(maximum > MASKED / 2, jnp.exp(maximum - new_maximum), 0.0)
    weights = weight(prob).astype(plain.dtype)

    def product(columns: Float[Array, "K c"]) -> Float[Array, "Q c"]:
        return jnp.einsum("qk,kc->qc", plain, columns, preferred_element_type=jnp.float32)

    masks = product(jnp.stack([weights, prob.astype(plain.dtype), jnp.ones_like(weights)], axis=-1))
    partition, evidence, total = masks[:, 0], masks[:, 1], masks[:, 2]
    new = _Sums(
        maximum=new_maximum,
        value=keep[:, None] * sums.value + take[:, None] * product(weights[:, None] * value),
        embed=keep[:, None] * sums.embed + take[:, None] * product(weights[:, None] * embed),
        partition=keep * sums.partition + take * partition,
        total=keep * sums.total + take * total,
        prob=keep * sums.prob + take * evidence,
    )
    return new, (maximum, jnp.where(maximum > MASKED / 2, partition, 0.0))


def _finish(sums: _Sums, slot_maximum: Float[Array, "M N Q"], slot_partition: Float[Array, "M N Q"]):
    """Divides by the partition functions; an object that no slot knows reads zeros."""
    # Chosen before the division: behind one by almost nothing, gradients would be 0 times infinity.
    partition = jnp.where(sums.partition > 0, sums.partition, 1.0)
    prob = sums.prob / jnp.where(sums.total > 0, sums.total, 1.0)
    share = slot_partition * jnp.exp(slot_maximum - sums.maximum[None]) / partition[None]
    # Only the object's own pixels say which slots it needs.
    mass = jnp.einsum("mnq,nq->nm", share, prob)
    return sums.value / partition[..., None], sums.embed / partition[..., None], prob, mass


def _uniform(prob: Float[Array, "K"]) -> Float[Array, "K"]:
    """No log-mask bias. Independent of the object, so that what all objects read alike is read once."""
    return jnp.ones(prob.shape, jnp.float32)


def object_based(query_key: Float[Array, "h w Ck"], memory: memory_lib.Memory, config: ReadConfig) -> Read:
    """The paper's object-based memory: each object attends to its own pixels (DESIGN.md section 3)."""
    return _stream(query_key, memory, config=config)


def shared(query_key: Float[Array, "h w Ck"], memory: memory_lib.Memory, config: ReadConfig) -> Read:
    """STM: one affinity for all objects, no mask bias."""
    return _stream(query_key, memory, config=config, weight=_uniform)


def topk(query_key: Float[Array, "h w Ck"], memory: memory_lib.Memory, config: ReadConfig) -> Read:
    """`shared` over each query pixel's `config.topk` highest affinities.

    They are the highest over all slots; those in slots older than an object do not count for that object.
    Only what they point at is gathered, so values cost k per query pixel and not M K.
    """
    n, num_slots, h, w = memory.prob.shape
    k = min(config.topk, h * w)

    def read_block(query: Float[Array, "Q Ck"], query_rows: Array) -> tuple[Array, ...]:
        logits_of = _logits_fn(query, query_rows, (h, w), config=config)

        def merge_slot(best: tuple[Array, Array], index: Array) -> tuple[Array, Array]:
            highest, pixels = jax.lax.top_k(logits_of(_slot(memory, index)), k)
            highest = jnp.concatenate([best[0], highest], axis=-1)
            pixels = jnp.concatenate([best[1], pixels + index * (h * w)], axis=-1)
            highest, order = jax.lax.top_k(highest, k)
            return highest, jnp.take_along_axis(pixels, order, axis=-1)

        def step(best: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
            return jax.lax.cond(memory.slot_valid[index], merge_slot, lambda b, _: b, best, index), None

        none = jnp.full((query.shape[0], k), MASKED), jnp.zeros((query.shape[0], k), jnp.int32)
        (highest, pixels), _ = jax.lax.scan(step, none, jnp.arange(num_slots))
        visible = highest > MASKED / 2
        maximum = jax.lax.stop_gradient(jnp.max(highest, axis=-1, keepdims=True))
        plain = jnp.where(visible, jnp.exp(highest - maximum), 0.0)
        slots = pixels // (h * w)

        def read_object(value: Array, prob: Array, in_slot: Array) -> tuple[Array, ...]:
            weights = jnp.where(in_slot[slots], plain, 0.0)
            weights /= jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-30)

            def gather(x: Float[Array, "M h w c"]) -> Float[Array, "Q c"]:
                x = x.reshape(num_slots * h * w, -1)[pixels]
                return jnp.einsum(
                    "qk,qkc->qc", weights.astype(x.dtype), x, preferred_element_type=jnp.float32
                )

            read_prob = gather(prob)[:, 0]
            shares = weights * read_prob[:, None]
            mass = jnp.zeros(num_slots).at[slots.ravel()].add(shares.ravel())
            return gather(value), gather(memory.embed), read_prob, mass

        return jax.vmap(read_object)(memory.value, memory.prob, memory.object_in_slot)

    return _blockwise(query_key, memory, read_block, _block_rows(h, w))


def kernelized(query_key: Float[Array, "h w Ck"], memory: memory_lib.Memory, config: ReadConfig) -> Read:
    """KMN: `shared`, with a Gaussian around the query pixel that each memory pixel matches best."""
    return _stream(query_key, memory, config=config, weight=_uniform, kernelized=True)


def l2(query_key: Float[Array, "h w Ck"], memory: memory_lib.Memory, config: ReadConfig) -> Read:
    """STCN: `shared` by negative squared distance."""
    return shared(query_key, memory, dataclasses.replace(config, affinity="l2"))


READS = {"object": object_based, "shared": shared, "topk": topk, "kernelized": kernelized, "l2": l2}


def read(query_key: Float[Array, "h w Ck"], memory: memory_lib.Memory, config: ReadConfig) -> Read:
    """Reads the memory for every pixel of the query frame.

    Args:
      query_key: key of the current frame.
      memory: M slots of which the valid ones are read.
      config: the variant and its settings.

    Returns:
      Per object the value and embedding read, the propagated mask R^p in [0, 1] and the mass per slot; zeros
      where no slot knows the object. Computed in fp32, returned in the memory's dtype.

    Raises:
      VosError: `config.variant` names no read, or `config.affinity` no affinity.
    """
    return _named(config.variant, READS, "read")(query_key, memory, config)
