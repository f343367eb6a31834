"""The choice of prototypes: memory pixels that are used often and differ from each other."""

import jax
import jax.numpy as jnp

from vos_jax.typing import Array, Bool, Float, Int

# Candidates whose distances to all others are computed at a time; limits the memory.
BLOCK = 512


def usage_per_pixel(
    prob: Float[Array, "N K"], known: Bool[Array, "N"], valid: Bool[Array, "K"]
) -> Float[Array, "K"]:
    """Returns each pixel's share of its slot's attention.

    The shares sum to 1, or are 0 if no pixel is valid. Within a slot, the mask bias distributes an object's
    attention in proportion to prob_o. Every object, and the background, has the same weight, whatever its
    size.

    Args:
      prob: soft masks.
      known: objects that the slot contains.
      valid: pixels of the real frame.
    """
    prob = jnp.where(known[:, None] & valid[None, :], prob, 0.0)
    background = jnp.where(valid, jnp.clip(1.0 - jnp.sum(prob, axis=0), 0.0, 1.0), 0.0)
    parties = jnp.concatenate([background[None], prob])
    total = jnp.sum(parties, axis=1, keepdims=True)
    parties = parties / jnp.maximum(total, 1e-6)
    # Less than half a pixel is noise and gets no weight.
    present = total > 0.5
    return jnp.sum(jnp.where(present, parties, 0.0), axis=0) / jnp.maximum(jnp.sum(present), 1)


def select(
    key: Float[Array, "K Ck"], usage: Float[Array, "K"], valid: Bool[Array, "K"], count: int
) -> Int[Array, "count"]:
    """Returns the indices of the `count` best candidates, best first, invalid ones last.

    A candidate's value is its usage times its squared distance to the nearest candidate with a higher usage
    (density peaks; Rodriguez and Laio, 2014), so near-duplicates have a low value.
    """
    usage = jnp.where(valid, usage, -1.0)
    key = key.astype(jnp.float32)
    norm, number = jnp.sum(jnp.square(key), axis=-1), jnp.arange(key.shape[0])

    def isolation(candidate: tuple[Array, ...]) -> Float[Array, ""]:
        own_key, own_norm, own_usage, own_number = candidate
        squared = jnp.maximum(own_norm + norm - 2.0 * (key @ own_key), 0.0)
        better = valid & ((usage > own_usage) | ((usage == own_usage) & (number < own_number)))
        return jnp.min(jnp.where(better, squared, jnp.inf))

    distance = jax.lax.map(isolation, (key, norm, usage, number), batch_size=min(BLOCK, key.shape[0]))
    # No candidate has a higher usage than the first one, so it gets the largest distance.
    farthest = jnp.max(jnp.where(jnp.isfinite(distance), distance, 0.0))
    worth = usage * jnp.where(jnp.isfinite(distance), distance, farthest)
    return jax.lax.top_k(jnp.where(valid, worth, -1.0), count)[1]
