"""Choosing a few memory pixels that stand for many: much used, and unlike each other."""

import jax
import jax.numpy as jnp

from vos_jax.typing import Array, Bool, Float, Int

# Distances to all candidates are taken for so many of them at a time.
BLOCK = 512


def share(prob: Float[Array, "N K"], known: Bool[Array, "N"], valid: Bool[Array, "K"]) -> Float[Array, "K"]:
    """How a slot's attention falls to its K pixels, summing to 1 (0 where none is valid).

    An object's attention mass is that of its own pixels, and inside a slot the mask bias hands it on in
    proportion to prob_o. Each object, and the background as one of them, counts the same, however large.

    Args:
      prob: soft masks.
      known: objects that the slot knows.
      valid: pixels of the real frame.
    """
    prob = jnp.where(known[:, None] & valid[None, :], prob, 0.0)
    background = jnp.where(valid, jnp.clip(1.0 - jnp.sum(prob, axis=0), 0.0, 1.0), 0.0)
    parties = jnp.concatenate([background[None], prob])
    total = jnp.sum(parties, axis=1, keepdims=True)
    parties = parties / jnp.maximum(total, 1e-6)
    # A party of less than half a pixel is noise, not to be blown up to a party of its own.
    present = total > 0.5
    return jnp.sum(jnp.where(present, parties, 0.0), axis=0) / jnp.maximum(jnp.sum(present), 1)


def choose(
    key: Float[Array, "K Ck"], usage: Float[Array, "K"], valid: Bool[Array, "K"], count: int
) -> Int[Array, "count"]:
    """Returns the indices of the `count` most valuable candidates, the best first; valid ones go first.

    A candidate is worth its usage times its squared distance to the nearest one that is more used (the
    density peaks of Rodriguez and Laio, 2014): what is like something better adds nothing.
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
    # The most used one has no better; it is as far from all as anybody.
    farthest = jnp.max(jnp.where(jnp.isfinite(distance), distance, 0.0))
    worth = usage * jnp.where(jnp.isfinite(distance), distance, farthest)
    return jax.lax.top_k(jnp.where(valid, worth, -1.0), count)[1]
