"""Soft masks of several objects: resizing and soft aggregation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.typing import Array, Bool, Float, Shaped, UInt8

# Probabilities are clamped to [CLAMP, 1 - CLAMP], so that odds stay finite (STM's soft aggregation).
CLAMP = 1e-7


def one_hot(ids: Shaped[Any, "H W"], num_objects: int) -> Bool[Any, "N H W"]:
    """Marks the pixels of objects 1 to N, one map per object.

    Args:
      ids: integer object ids of numpy or JAX, 0 for background; ids above N are in no map.
      num_objects: N.

    Returns:
      Maps of the same library.
    """
    return ids[None] == np.arange(1, num_objects + 1, dtype=ids.dtype)[:, None, None]


def downsample(prob: Float[Array, "*n H W"], factor: int) -> Float[Array, "*n h w"]:
    """Averages `factor` x `factor` pixels: the result is the covered share of each cell."""
    *lead, height, width = prob.shape
    blocks = prob.reshape(*lead, height // factor, factor, width // factor, factor)
    return jnp.mean(blocks, axis=(-3, -1))


def upsample(prob: Float[Array, "*n h w"], factor: int) -> Float[Array, "*n H W"]:
    """Resizes bilinearly by an integer factor, half-pixel aligned."""
    rows, columns = (bilinear_weights(n, factor).astype(prob.dtype) for n in prob.shape[-2:])
    return jnp.einsum("...hw,hH,wW->...HW", prob, rows, columns, precision=jax.lax.Precision.HIGHEST)


def bilinear_weights(size: int, factor: int) -> Float[np.ndarray, "n f*n"]:
    """Returns the weight of each of `size` samples in each of `factor` times as many; columns sum to 1.

    `jax.image.resize` computes them in the program: 100 instructions, where a constant takes one.
    """
    centres = (np.arange(factor * size) + 0.5) / factor - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(centres[None] - np.arange(size)[:, None]))
    return (weights / weights.sum(axis=0)).astype(np.float32)


def aggregate(prob: Float[Array, "N *p"], valid: Bool[Array, "N"]) -> Float[Array, "N+1 *p"]:
    """Merges independent object masks by soft aggregation.

    The background's probability is the product of (1 - p_o); all N + 1 odds p / (1 - p) are normalised to sum
    to 1 at each pixel. Invalid objects get exactly 0 and do not change the others.

    Args:
      prob: each object's own probability in [0, 1].
      valid: objects that exist.

    Returns:
      Probabilities that sum to 1, background first.

    Source: Oh et al., Space-Time Memory Networks, 2019; docs/method.md, "RefineNet".
    """
    valid = valid.reshape(-1, *[1] * (prob.ndim - 1))
    prob = jnp.where(valid, prob, 0.0)
    background = jnp.prod(1.0 - prob, axis=0, keepdims=True)
    clamped = jnp.clip(jnp.concatenate([background, prob]), CLAMP, 1.0 - CLAMP)
    odds = clamped / (1.0 - clamped)
    odds = odds * jnp.concatenate([jnp.ones_like(valid[:1]), valid])
    return odds / jnp.sum(odds, axis=0, keepdims=True)


def pixel_valid(frame_size: Float[Array, "2"], grid: tuple[int, int], stride: int) -> Bool[Array, "h w"]:
    """Marks the cells of a strided grid whose centre is in the real frame of (height, width) pixels."""
    centres = [(jnp.arange(n) + 0.5) * stride for n in grid]
    return (centres[0] < frame_size[0])[:, None] & (centres[1] < frame_size[1])[None, :]


def repeat_border(
    prob: Float[Array, "*n h w"], frame_size: Float[Array, "2"], stride: int
) -> Float[Array, "*n h w"]:
    """Fills each cell of the padding (`pixel_valid` is False) with the nearest real cell's value."""
    last = jnp.ceil(frame_size / stride - 0.5).astype(jnp.int32) - 1
    rows, columns = (jnp.minimum(jnp.arange(n), last[i]) for i, n in enumerate(prob.shape[-2:]))
    return jnp.take(jnp.take(prob, rows, axis=-2, mode="clip"), columns, axis=-1, mode="clip")


def to_ids(prob: Float[Array, "N+1 h w"], factor: int) -> UInt8[Array, "H W"]:
    """Returns the most probable object of each full-size pixel, 0 for background; ties go to the lower."""
    return jnp.argmax(upsample(prob, factor), axis=0).astype(jnp.uint8)
