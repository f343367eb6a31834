"""RoIAlign: the features under a box, resampled on a fixed grid.

Geometry used everywhere in vos_jax: pixels are continuous, and feature cell i of a map with stride s
covers the pixels [i*s, (i+1)*s), so its centre lies at pixel (i + 0.5) * s (`aligned=True` of detectron2).
So the box of exactly one cell, sampled with size 1, returns that cell.
"""

import functools

import jax
import jax.numpy as jnp

from vos_jax.typing import Array, Float


def interpolation_matrix(position: Float[Array, "n"], length: int) -> Float[Array, "n {length}"]:
    """The matrix that reads a line of `length` cells at fractional cell positions, linearly.

    Args:
      position: [n] in cells; position i is the centre of cell i.
      length: number of cells of the line.

    Returns:
      [n, length] fp32. Rows sum to 1 for positions inside [-1, length]: up to one cell outside the line
      the nearest cell repeats. Beyond, the row is zero (detectron's rule).
    """
    position = position.astype(jnp.float32)
    inside = (position >= -1.0) & (position <= float(length))
    clipped = jnp.clip(position, 0.0, float(length - 1))
    cells = jnp.arange(length, dtype=jnp.float32)
    hat = jnp.maximum(0.0, 1.0 - jnp.abs(clipped[:, None] - cells[None, :]))
    return jnp.where(inside[:, None], hat, 0.0)


def _sample_positions(low: Array, high: Array, size: int, stride: int, samples: int) -> Float[Array, "n"]:
    """Cell positions of equally spaced points between two pixels; a negative length counts as zero."""
    length = jnp.maximum(high - low, 0.0)
    fraction = (jnp.arange(size * samples, dtype=jnp.float32) + 0.5) / (size * samples)
    return (low + fraction * length) / stride - 0.5


def _matmul(features: Array, rows: Array, columns: Array, size: int, samples: int) -> Array:
    """Two small matrix products, columns first: the other order took up to 3.5× as long (CPU, 33 boxes)."""

    def averaged(position: Array, length: int) -> Array:
        matrix = interpolation_matrix(position, length).reshape(size, samples, length).mean(1)
        return matrix.astype(features.dtype)

    height, width, _ = features.shape
    accumulate = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    partial = accumulate("qw,hwc->hqc", averaged(columns, width), features).astype(features.dtype)
    return accumulate("ph,hqc->pqc", averaged(rows, height), partial)


def _gather(features: Array, rows: Array, columns: Array, size: int, samples: int) -> Array:
    """Four gathers per sample point, weighted and averaged per bin."""

    def taps(position: Array, length: int) -> tuple[Array, Array, Array, Array]:
        inside = ((position >= -1.0) & (position <= float(length))).astype(jnp.float32)
        clipped = jnp.clip(position, 0.0, float(length - 1))
        low = jnp.floor(clipped).astype(jnp.int32)
        fraction = clipped - low
        return low, jnp.minimum(low + 1, length - 1), inside * (1.0 - fraction), inside * fraction

    height, width, channels = features.shape
    top, bottom, top_weight, bottom_weight = taps(rows, height)
    left, right, left_weight, right_weight = taps(columns, width)
    flat = features.reshape(height * width, channels)
    total = 0.0
    for row, row_weight in ((top, top_weight), (bottom, bottom_weight)):
        for column, column_weight in ((left, left_weight), (right, right_weight)):
            index = row[:, None] * width + column[None, :]
            weight = row_weight[:, None] * column_weight[None, :]
            taken = jnp.take(flat, index, axis=0, mode="clip").astype(jnp.float32)
            total = total + weight[:, :, None] * taken
    return total.reshape(size, samples, size, samples, channels).mean((1, 3))


FORMS = {"matmul": _matmul, "gather": _gather}


def roi_align(
    features: Float[Array, "h w C"],
    box: Float[Array, "4"],
    *,
    size: int,
    stride: int,
    samples: int = 2,
    form: str = "matmul",
) -> Float[Array, "{size} {size} C"]:
    """Resamples the features under ONE box on a size×size grid; `vmap` over boxes.

    Every bin averages `samples`² bilinear reads at equally spaced points. Points more than one cell outside
    the map read zero, nearer ones read the border. A box of zero or negative extent reads its corner point:
    finite, as is every gradient. The gradient reaches the features; boxes are constants here, they learn by
    their own loss.

    Args:
      features: [h, w, C], any float dtype; sums are fp32, the result has the features' dtype.
      box: [4] (y0, x0, y1, x1) in pixels of the padded frame, finite.
      size: bins per side. stride: pixels per feature cell. samples: points per bin and side.
      form: "matmul" or "gather", equal up to rounding (benchmarks/roi_align.py measures both).

    Returns:
      [size, size, C].

    Source: DESIGN §1, §4, §5; He et al., Mask R-CNN, 2017 (§3), with the half-pixel alignment of detectron2.
    """
    y0, x0, y1, x1 = jax.lax.stop_gradient(box).astype(jnp.float32)
    rows = _sample_positions(y0, y1, size, stride, samples)
    columns = _sample_positions(x0, x1, size, stride, samples)
    return FORMS[form](features, rows, columns, size, samples).astype(features.dtype)
