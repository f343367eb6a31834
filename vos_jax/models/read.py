"""The memory read: the attention of a frame's pixels to the memory (docs/method.md, "Memory").

For object o, query pixel q and memory pixel m the affinity is r(q, m) + log w_o(m). With the weight
w_o = prob_o + eps, the log-mask bias, each object attends to its own pixels; w_o = 1 is the read of STM. The
read returns the value R^v_o, the embedding R^e_o, and the propagated mask R^p_o, which is the attention
without weights applied to the object's masks.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax.numpy as jnp

from vos_jax import checks, user_code
from vos_jax.errors import VosError
from vos_jax.models import memory as memory_lib
from vos_jax.models import search_region
from vos_jax.ops import attention, target
from vos_jax.typing import Array, Bool, Float, Int

EPSILON = 1e-4
"""Weight of a memory pixel outside the object, -9.2 in the logits."""

COVERED = 0.02
"""Share of a memory cell above which the cell belongs to the object that covers it."""

DENSE = 4_500_000
"""Maximum number of affinities of a dense read on CPU: 18 MB, which fits into a last-level cache."""

DENSE_ON_ACCELERATORS = 2**28
"""Maximum number of affinities of all objects that an accelerator stores at a time: 1 GB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """Settings of the read. They combine: STCN has weight "none", STM also affinity "dot".

    Attributes:
      affinity: Similarity of pixels: "l2" (negative squared distance, as STCN), "dot" (as STM), or a callable
        `(query [Q, Ck], key [K, Ck]) -> [Q, K]`. It sees blocks of pixels: entry (q, k) may depend on query q
        and key k only.
      weight: Weight of memory pixels for an object: "mask" (the log-mask bias), "none", or a callable
        `(prob [...]) -> [...]` of the object's mask, at least 0.
      scale: Factor on the affinity, 1/temperature of the softmax; none = 1/sqrt(Ck).
      topk: Memory pixels that each pixel reads; 0 = all. Requires weight "none" and no kernel.
      kernel_sigma: Width in cells of a Gaussian around the query pixel that a memory pixel matches best
        (KMN); 0 = none.
      window: Radius, in cells of 16 pixels around its own position, in which a pixel reads unpinned slots;
        0 = everywhere.
      search_radius: Distance from an object's mask in the previous frame up to which it is searched, as a
        share of the short side; 0 = everywhere. Training skips frames and always searches everywhere.

    Raises:
      VosError: a value out of range, or top-k together with weights or a kernel.
    """

    affinity: str | Callable = "l2"
    weight: str | Callable = "mask"
    scale: float | None = None
    topk: int = 0
    kernel_sigma: float = 0.0
    window: int = 0
    search_radius: float = 0.14

    def __post_init__(self):
        checks.known_name(self, "affinity", AFFINITIES)
        checks.known_name(self, "weight", WEIGHTS)
        checks.at_least(self, 0, "topk", "window", "search_radius", "kernel_sigma")
        if self.topk and (self.weight != "none" or self.kernel_sigma):
            raise VosError(f"topk is {self.topk}; it needs weight none and kernel_sigma 0")


class Read(flax.struct.PyTreeNode):
    """The result of a read for the query frame."""

    value: Float[Array, "N h w Cv"]  # R^v
    embed: Float[Array, "N h w Ce"]  # R^e
    prob: Float[Array, "N h w"]  # R^p, the propagated mask
    slot_attention: Float[Array, "N M"]  # attention of the object's pixels per slot, sums to 1
    region: Bool[Array, "N h w"]  # cells in which the object was searched; mask and embedding are 0 elsewhere


def dot(query: Float[Array, "Q Ck"], key: Float[Array, "K Ck"]) -> Float[Array, "Q K"]:
    """Returns the dot product, the affinity of space-time memory networks."""
    return jnp.einsum("qc,kc->qk", query, key, preferred_element_type=jnp.float32)


def negative_squared_distance(query: Float[Array, "Q Ck"], key: Float[Array, "K Ck"]) -> Float[Array, "Q K"]:
    """Returns -|q - k|^2, the affinity of STCN."""
    query_norm = jnp.sum(jnp.square(query.astype(jnp.float32)), axis=-1)
    key_norm = jnp.sum(jnp.square(key.astype(jnp.float32)), axis=-1)
    return 2.0 * dot(query, key) - query_norm[:, None] - key_norm[None, :]


def mask_weight(prob: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the exponential of the log-mask bias: each object attends to its own pixels."""
    return prob + EPSILON


def no_weight(prob: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns ones: the attention is the same for all objects."""
    return jnp.ones(prob.shape, jnp.float32)


AFFINITIES: dict[str, Callable] = {"dot": dot, "l2": negative_squared_distance}
WEIGHTS: dict[str, Callable] = {"mask": mask_weight, "none": no_weight}


def scaled_affinity(
    query: Float[Array, "Q Ck"], config: ReadConfig
) -> Callable[[Array], Float[Array, "Q K"]]:
    """Returns the function from keys [K, Ck] to their scaled affinity with the query keys."""
    scale = query.shape[-1] ** -0.5 if config.scale is None else config.scale
    if not isinstance(config.affinity, str):
        return functools.partial(_users_affinity, config.affinity, scale, query)
    affinity = AFFINITIES[config.affinity]
    # Both of these grow with the square of the keys, and scaling keys costs less than scaling [Q, K].
    query = query * jnp.asarray(scale**0.5, query.dtype)
    return lambda key: affinity(query, key * jnp.asarray(scale**0.5, key.dtype))


def _users_affinity(
    affinity: Callable, scale: float, query: Float[Array, "Q Ck"], key: Float[Array, "K Ck"]
) -> Float[Array, "Q K"]:
    """Returns a user's affinity times `scale`; VosError where its shape is wrong."""
    found = user_code.call("model.read.affinity", affinity, query, key)
    wanted = (query.shape[0], key.shape[0])
    if getattr(found, "shape", None) != wanted:
        raise VosError(
            f"model.read.affinity: the function returned {_shape(found)} for query {_shape(query)} and key "
            f"{_shape(key)}; it must return {list(wanted)}, a similarity per pair"
        )
    return scale * found.astype(jnp.float32)


def _weight_of(prob: Float[Array, "N M K"], config: ReadConfig) -> Float[Array, "N M K"]:
    """Returns the weight of every memory pixel; VosError where a user's function gives another shape."""
    weight = WEIGHTS[config.weight] if isinstance(config.weight, str) else config.weight
    found = user_code.call("model.read.weight", weight, prob)
    if getattr(found, "shape", None) != prob.shape:
        raise VosError(
            f"model.read.weight: the function returned {_shape(found)} for masks {_shape(prob)}; it must "
            "return a weight per pixel, of the same shape"
        )
    return found


def _shape(x: Any) -> Any:
    """Returns what an error says of a value: its shape if it is an array."""
    return list(x.shape) if hasattr(x, "shape") else repr(x)


def read(
    key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    config: ReadConfig,
    region: Bool[Array, "N h w"] | None = None,
) -> Read:
    """Reads the memory for the pixels of the query frame.

    Args:
      key: of the query frame.
      memory: M slots of which the valid ones are read.
      config: the read.
      region: cells in which each object is searched. None: the whole frame.

    Returns:
      Per object the value and embedding read, the propagated mask R^p in [0, 1] and the attention per slot;
      zeros if no slot contains the object. Outside the region, mask and embedding are 0 and the value is the
      last slot's. Computed in fp32, returned in the memory's dtype.
    """
    n, num_slots, h, w = memory.prob.shape
    known = jnp.broadcast_to(jnp.any(memory.object_in_slot, axis=1)[:, None, None], (n, h, w))
    searched = known if region is None else region & known
    attended = _attend(key, memory, config, None if region is None else searched)

    def grid(x: Float[Array, "N Q *c"]) -> Float[Array, "N h w *c"]:
        return x.reshape(n, h, w, *x.shape[2:])

    value = grid(attended.value).astype(memory.value.dtype)
    embed = grid(attended.embed).astype(memory.embed.dtype)
    prob = jnp.clip(grid(attended.prob), 0.0, 1.0)
    if region is not None:
        # Use the last frame's value: RefineNet was never trained on zeros.
        last = jnp.argmax(jnp.where(memory.slot_valid, memory.slot_frame, -1))
        value = jnp.where(searched[..., None], value, memory.value[:, last])
        embed, prob = jnp.where(searched[..., None], embed, 0.0), jnp.where(searched, prob, 0.0)
    # Only the object's own pixels count as usage: background pixels read other slots.
    slots = jnp.einsum("nqm,nq->nm", attended.share, prob.reshape(n, h * w))
    slots = slots / jnp.maximum(jnp.sum(slots, axis=-1, keepdims=True), 1e-6)
    return Read(value=value, embed=embed, prob=prob, slot_attention=slots, region=searched)


def _attend(
    key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    config: ReadConfig,
    region: Bool[Array, "N h w"] | None,
) -> attention.Attended:
    """Attends with all affinities at once if they are few, or on an accelerator; else a block at a time."""
    n, num_slots, h, w = memory.prob.shape
    pixels = h * w
    query, keys = key.reshape(pixels, -1), memory.key.reshape(num_slots, pixels, -1)
    prob = memory.prob.reshape(n, num_slots, pixels)
    visible = memory.pixel_valid.reshape(num_slots, pixels)
    source = attention.Source(
        value=memory.value.reshape(n, num_slots, pixels, -1),
        embed=memory.embed.reshape(num_slots, pixels, -1),
        prob=prob,
        weight=jnp.where(visible[None], _weight_of(prob, config), 0.0),
        in_slot=memory.object_in_slot,
        slot_valid=memory.slot_valid,
    )

    def logits_of(slot: Int[Array, ""], numbers: Int[Array, "Q"]) -> Float[Array, "Q K"]:
        some = query.at[numbers].get(mode="clip")
        logits = scaled_affinity(some, config)(keys[slot])
        shown = visible[slot][None]
        if config.kernel_sigma:
            every = jnp.where(shown, scaled_affinity(query, config)(keys[slot]), attention.MASKED)
            distance = _offsets(numbers, jnp.argmax(every, axis=0), w)
            logits -= sum(jnp.square(x) for x in distance) / (2.0 * config.kernel_sigma**2)
        if config.window:
            near = [jnp.abs(x) <= config.window for x in _offsets(numbers, jnp.arange(pixels), w)]
            shown = shown & ((near[0] & near[1]) | memory.slot_pinned[slot])
        return jnp.where(shown, logits, attention.MASKED)

    queries = None if region is None else jnp.any(region, axis=0).ravel()
    if config.topk:
        k = min(config.topk, pixels)
        return attention.top(logits_of, source, k, pixels, query_region=queries)
    near = None
    if region is not None and config.weight == "mask":
        near = search_region.around(prob.reshape(-1, h, w), (h, w), config.search_radius, COVERED)
        # The mean of far pixels is accurate only for queries near the object. An object that is searched in
        # the whole frame reads every pixel: with the mean, 35 of 35 absent objects had a mask.
        near = near.reshape(n, num_slots, pixels) | jnp.all(region, axis=(1, 2))[:, None, None]
        near &= visible[None] & memory.object_in_slot[..., None]
    if not target.is_cpu():
        most = DENSE_ON_ACCELERATORS
        return attention.dense_in_blocks(logits_of, source, pixels, memory_region=near, most=most)
    if region is None and num_slots * pixels**2 <= DENSE:
        return attention.dense_in_blocks(logits_of, source, pixels, most=n * DENSE)
    # A kernel needs the affinities of all queries in every block, so one block is cheapest.
    block: Any = {"query_block": pixels} if config.kernel_sigma else {}
    return attention.streamed(logits_of, source, pixels, query_region=queries, memory_region=near, **block)


def _offsets(
    numbers: Int[Array, "Q"], others: Int[Array, "K"], width: int
) -> tuple[Int[Array, "Q K"], Int[Array, "Q K"]]:
    """Returns the row and column offsets between two lists of pixel numbers on a grid of this width."""
    (y, x), (other_y, other_x) = jnp.divmod(numbers, width), jnp.divmod(others, width)
    return y[:, None] - other_y[None], x[:, None] - other_x[None]
