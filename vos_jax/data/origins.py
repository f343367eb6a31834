"""Origins of the stride-16 cells of a clip: the points of its layers that they show.

Source: docs/method.md, "Correspondence".

Origins are float32 [T, h, w, 3], with h and w in cells: (layer, x, y) of each cell's centre. Layer 0 is a
pseudo-clip's photo, 1.. are its pasted objects, UNKNOWN is everything else. (x, y) are pixels of the crop in
the original frame, before any motion. Two cells of one layer show the same point if their (x, y) are equal.
"""

import numpy as np

from vos_jax.data import motion
from vos_jax.typing import Float, Shaped

STRIDE = motion.STRIDE
"""Pixels per cell. Cell centres are the points of the motion's lattice."""

UNKNOWN = -1
"""Layer, x and y of an unknown cell: of a real video, or of padding."""


def grid(size: tuple[int, int]) -> tuple[int, int]:
    """Returns the rows and columns of cells of a frame of (height, width) pixels, rounded up."""
    height, width = (-(-side // STRIDE) for side in size)
    return height, width


def unknown(length: int, size: tuple[int, int]) -> Float[np.ndarray, "T h w 3"]:
    """Returns unknown origins of `length` frames of (height, width) pixels."""
    return np.full((length, *grid(size), 3), UNKNOWN, np.float32)


def at_centres(array: Shaped[np.ndarray, "H W"], outside: int) -> Shaped[np.ndarray, "h w"]:
    """Returns the value of an array at each cell's centre; `outside` for centres outside the array."""
    inner = array[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    out = np.full(grid((array.shape[0], array.shape[1])), outside, array.dtype)
    out[: inner.shape[0], : inner.shape[1]] = inner
    return out


def of_layer(
    path: Float[np.ndarray, "T G 2"], shape: tuple[int, int], layer: int
) -> Float[np.ndarray, "T h w 3"]:
    """Returns the origins of frames that show one layer only.

    Args:
      path: of each lattice point of each frame, the point in frame 0 (`motion.Motion.path`).
      shape: rows and columns of the lattice, its margins included.
      layer: number of the layer.
    """
    inside = slice(motion.MARGIN, -motion.MARGIN)
    points = path.reshape(len(path), *shape, 2)[:, inside, inside]
    return np.insert(points, 0, layer, axis=-1).astype(np.float32)


def pad(origins: Float[np.ndarray, "T h w 3"], size: tuple[int, int]) -> Float[np.ndarray, "T h w 3"]:
    """Pads origins at the bottom and right with UNKNOWN to the cells of (height, width) pixels."""
    out = unknown(len(origins), size)
    out[:, : origins.shape[1], : origins.shape[2]] = origins
    return out
