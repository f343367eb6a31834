"""RoIAlign: resamples the features in a box on a fixed grid.

Geometry used everywhere in vos_jax: pixel coordinates are continuous, and feature cell i of a map with stride
s covers the pixels [i*s, (i+1)*s), so its centre is at pixel (i + 0.5) * s (`aligned=True` of detectron2).
The box of exactly one cell, sampled with size 1, therefore returns that cell.
"""

import functools

import jax
import jax.numpy as jnp

from vos_jax.typing import Array, Float


def _clamp(position: Array, length: Array | int) -> tuple[Array, Array]:
    """Clips positions to a line of cells; also returns 1 for those at most one cell outside, else 0."""
    inside = (position >= -1.0) & (position <= length)
    return jnp.clip(position, 0.0, length - 1.0), inside.astype(jnp.float32)


def interpolation_matrix(
    position: Float[Array, "n"], length: int, real_length: Array | None = None
) -> Float[Array, "n {length}"]:
    """Returns the matrix of linear interpolation in a line of `length` cells at fractional positions.

    Args:
      position: [n] in cells; position i is the centre of cell i.
      length: number of cells of the line.
      real_length: number of real cells (default: all); the others are never read.

    Returns:
      [n, length] fp32. Rows sum to 1 for positions inside [-1, real_length], where the nearest cell is
      repeated up to one cell outside the line. Farther outside, the row is zero (detectron's rule).
    """
    clipped, inside = _clamp(position.astype(jnp.float32), length if real_length is None else real_length)
    cells = jnp.arange(length, dtype=jnp.float32)
    hat = jnp.maximum(0.0, 1.0 - jnp.abs(clipped[:, None] - cells[None, :]))
    return inside[:, None] * hat


def _sample_positions(low: Array, high: Array, size: int, stride: int, samples: int) -> Float[Array, "n"]:
    """Returns cell positions of equally spaced points between two pixels; a negative length counts as 0."""
    length = jnp.maximum(high - low, 0.0)
    fraction = (jnp.arange(size * samples, dtype=jnp.float32) + 0.5) / (size * samples)
    return (low + fraction * length) / stride - 0.5


def _matmul(features: Array, rows: Array, columns: Array, real: Array, size: int, samples: int) -> Array:
    """Resamples by two matrix products, columns first: rows first took up to 3.5× as long (CPU, 33 boxes)."""

    def averaged(position: Array, axis: int) -> Array:
        matrix = interpolation_matrix(position, features.shape[axis], real[axis])
        return matrix.reshape(size, samples, features.shape[axis]).mean(1).astype(features.dtype)

    accumulate = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    partial = accumulate("qw,hwc->hqc", averaged(columns, 1), features).astype(features.dtype)
    return accumulate("ph,hqc->pqc", averaged(rows, 0), partial)


def _gather(features: Array, rows: Array, columns: Array, real: Array, size: int, samples: int) -> Array:
    """Resamples by four gathers per sample point, weighted and averaged per bin."""

    def taps(position: Array, axis: int) -> tuple[Array, Array, Array, Array]:
        clipped, inside = _clamp(position, real[axis])
        low = jnp.floor(clipped).astype(jnp.int32)
        high = jnp.minimum(low + 1, features.shape[axis] - 1)
        fraction = clipped - low
        return low, high, inside * (1.0 - fraction), inside * fraction

    height, width, channels = features.shape
    top, bottom, top_weight, bottom_weight = taps(rows, 0)
    left, right, left_weight, right_weight = taps(columns, 1)
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
    frame_size: Array | None = None,
    form: str = "matmul",
) -> Float[Array, "{size} {size} C"]:
    """Resamples the features in ONE box on a size×size grid; `vmap` over boxes.

    Every bin averages `samples`² bilinear reads at equally spaced points. Points more than one cell outside
    the map read zero, nearer ones read the border. A box of zero or negative extent reads its corner point,
    so results and gradients are always finite. The gradient flows to the features, not to the box.

    Args:
      features: [h, w, C], any float dtype; sums are fp32, the result has the dtype of the features.
      box: [4] (y0, x0, y1, x1) in pixels of the padded frame, finite.
      size: bins per side. stride: pixels per feature cell. samples: points per bin and side.
      frame_size: [2] real (height, width) in pixels: cells without a real pixel are not part of the map, so
        padding is never read and its amount changes nothing. None: the whole map is real.
      form: "matmul" or "gather", equal up to rounding (benchmarks/roi_align.py measures both).

    Returns:
      [size, size, C].

    Source: He et al., Mask R-CNN, 2017 (§3), with the half-pixel alignment of detectron2.
    """
    y0, x0, y1, x1 = jax.lax.stop_gradient(box).astype(jnp.float32)
    rows = _sample_positions(y0, y1, size, stride, samples)
    columns = _sample_positions(x0, x1, size, stride, samples)
    real = jnp.array(features.shape[:2], jnp.float32)
    if frame_size is not None:
        real = jnp.minimum(real, jnp.ceil(frame_size / stride))
    return FORMS[form](features, rows, columns, real, size, samples).astype(features.dtype)
