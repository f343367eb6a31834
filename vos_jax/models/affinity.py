"""How alike query pixels and memory pixels are: the logits of every memory read (DESIGN.md section 3)."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from vos_jax import errors
from vos_jax.models import memory as memory_lib
from vos_jax.typing import Array, Bool, Float, Int

# Stands for minus infinity: finite, so that differences of two of them are no NaN.
MASKED = -1e30


class Slot(flax.struct.PyTreeNode):
    """One memory frame, flattened to K pixels."""

    key: Float[Array, "K Ck"]
    embed: Float[Array, "K Ce"]
    value: Float[Array, "N K Cv"]
    prob: Float[Array, "N K"]
    pixel_valid: Bool[Array, "K"]
    object_in_slot: Bool[Array, "N"]
    pinned: Bool[Array, ""]
    near: Bool[Array, "N K"] | None


def slot(memory: memory_lib.Memory, index: Array, near: Bool[Array, "N M h w"] | None = None) -> Slot:
    """Returns one memory frame, and which of its pixels are near each object."""
    n, _, h, w = memory.prob.shape

    def flat(x: Array, axis: int) -> Array:
        x = jax.lax.dynamic_index_in_dim(x, index, axis, keepdims=False)
        return x.reshape(*x.shape[:axis], h * w, *x.shape[axis + 2 :])

    return Slot(
        key=flat(memory.key, 0),
        embed=flat(memory.embed, 0),
        value=flat(memory.value, 1),
        prob=flat(memory.prob, 1),
        pixel_valid=flat(memory.pixel_valid, 0),
        object_in_slot=jax.lax.dynamic_index_in_dim(memory.object_in_slot, index, 1, keepdims=False),
        pinned=memory.slot_pinned[index],
        near=None if near is None else flat(near, 1),
    )


def dot(query: Float[Array, "Q Ck"], key: Float[Array, "K Ck"]) -> Float[Array, "Q K"]:
    """Affinity of space-time memory networks: the dot product."""
    return jnp.einsum("qc,kc->qk", query, key, preferred_element_type=jnp.float32)


def negative_squared_distance(query: Float[Array, "Q Ck"], key: Float[Array, "K Ck"]) -> Float[Array, "Q K"]:
    """Affinity of STCN: -|q - k|^2."""
    query_norm = jnp.sum(jnp.square(query.astype(jnp.float32)), axis=-1)
    key_norm = jnp.sum(jnp.square(key.astype(jnp.float32)), axis=-1)
    return 2.0 * dot(query, key) - query_norm[:, None] - key_norm[None, :]


AFFINITIES = {"dot": dot, "l2": negative_squared_distance}


def named(choice: str | Callable, known: dict[str, Callable], kind: str) -> Callable:
    """The callable itself, or the one that is known by this name; raises VosError where there is none."""
    if callable(choice):
        return choice
    if choice not in known:
        raise errors.VosError(f"model.{kind} is {choice!r}; there are {', '.join(known)}, or any callable")
    return known[choice]


def affinity_fn(query: Float[Array, "Q Ck"], config: Any) -> Callable[[Array], Float[Array, "Q K"]]:
    """Returns the function from keys [K, Ck] to their affinity with the query keys, scaled as a read does it.

    Args:
      query: keys of the query pixels.
      config: a `read.ReadConfig`, of which `affinity` and `scale` count.

    Raises:
      VosError: `config.affinity` names no affinity.
    """
    affinity = named(config.affinity, AFFINITIES, "read.affinity")
    scale = query.shape[-1] ** -0.5 if config.scale is None else config.scale
    query = query * jnp.asarray(scale**0.5, query.dtype)
    return lambda key: affinity(query, key * jnp.asarray(scale**0.5, key.dtype))


def logits_fn(
    query: Float[Array, "Q Ck"],
    pixels: Int[Array, "Q"],
    grid: tuple[int, int],
    *,
    config: Any,
    kernelized: bool = False,
) -> Callable[[Slot], Float[Array, "Q K"]]:
    """Returns the function that gives the affinity of the query pixels of these numbers with one slot's."""
    affinity_of = affinity_fn(query, config)
    query_y, query_x = jnp.divmod(pixels, grid[1])
    memory_y, memory_x = jnp.divmod(jnp.arange(grid[0] * grid[1]), grid[1])

    def logits_of(slot: Slot) -> Float[Array, "Q K"]:
        logits = affinity_of(slot.key)
        visible = slot.pixel_valid[None, :]
        if kernelized:
            best = jnp.argmax(jnp.where(visible, logits, MASKED), axis=0)
            squared = jnp.square(query_y[:, None] - query_y[best][None, :])
            squared += jnp.square(query_x[:, None] - query_x[best][None, :])
            logits -= squared / (2.0 * config.kernel_sigma**2)
        if config.window:
            near = jnp.abs(query_y[:, None] - memory_y[None, :]) <= config.window
            near &= jnp.abs(query_x[:, None] - memory_x[None, :]) <= config.window
            visible &= near | slot.pinned
        return jnp.where(visible, logits, MASKED)

    return logits_of
