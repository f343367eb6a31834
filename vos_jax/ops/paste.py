"""Transfer of masks from a box's grid to the frame: the inverse of RoIAlign, as two small matrix products."""

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.ops import roi_align
from vos_jax.typing import Array, Float


def _into_box(low: Array, high: Array, count: int, stride: int) -> tuple[Array, Array]:
    """Returns the position of each cell's centre in [low, high), as a fraction, and which are inside."""
    centre = (jnp.arange(count, dtype=jnp.float32) + 0.5) * stride
    length = high - low
    fraction = (centre - low) / jnp.where(length > 0, length, 1.0)
    return fraction, (centre >= low) & (centre < high)


def paste(
    mask: Float[Array, "s t"],
    box: Float[Array, "4"],
    *,
    height: int,
    width: int,
    stride: int = geometry.MASK_STRIDE,
) -> Float[Array, "height width"]:
    """Resamples ONE mask from the grid of its box to the frame: bilinear inside the box, zero outside.

    Args:
      mask: [s, t], fp32 or less; probabilities, not logits, because the outside is 0.
      box: [4] (y0, x0, y1, x1) in pixels; an empty box gives zeros. No gradient flows to it.
      height, width: cells of the result, each `stride` pixels.

    Returns:
      [height, width] fp32; a cell is inside the box if its centre is.
    """

    def matrix(low: Array, high: Array, count: int, grid: int) -> Array:
        fraction, inside = _into_box(low, high, count, stride)
        # Within half a grid cell of the box's border, the outermost cell is repeated.
        position = jnp.clip(fraction * grid - 0.5, 0.0, grid - 1.0)
        return jnp.where(inside[:, None], roi_align.interpolation_matrix(position, grid), 0.0)

    y0, x0, y1, x1 = jax.lax.stop_gradient(box).astype(jnp.float32)
    rows, columns = matrix(y0, y1, height, mask.shape[0]), matrix(x0, x1, width, mask.shape[1])
    return jnp.einsum("hs,st,wt->hw", rows, mask.astype(jnp.float32), columns)


def move(
    mask: Float[Array, "H4 W4"],
    source: Float[Array, "4"],
    target: Float[Array, "4"],
    *,
    stride: int = geometry.MASK_STRIDE,
) -> Float[Array, "H4 W4"]:
    """Resamples the part of ONE frame-sized mask inside box `source` to box `target`.

    Bilinear; zero outside `target`. With `target` equal to `source` the mask inside is unchanged.
    """

    def matrix(source_low: Array, source_high: Array, low: Array, high: Array, count: int) -> Array:
        fraction, inside = _into_box(low, high, count, stride)
        position = (source_low + fraction * (source_high - source_low)) / stride - 0.5
        # Clip to `source`, so that no cell outside it is read.
        position = jnp.clip(
            position, source_low / stride, jnp.maximum(source_low, source_high - stride) / stride
        )
        return jnp.where(inside[:, None], roi_align.interpolation_matrix(position, count), 0.0)

    source, target = (jax.lax.stop_gradient(box).astype(jnp.float32) for box in (source, target))
    rows = matrix(source[0], source[2], target[0], target[2], mask.shape[0])
    columns = matrix(source[1], source[3], target[1], target[3], mask.shape[1])
    return jnp.einsum("hH,HW,wW->hw", rows, mask.astype(jnp.float32), columns)
