"""The region of a frame in which each object is searched (docs/method.md, "Search region")."""

import jax
import jax.numpy as jnp

from vos_jax.models import memory as memory_lib
from vos_jax.ops import masks
from vos_jax.typing import Array, Bool, Float

SHRUNKEN = 0.25
"""Share of its largest mask below which an object is searched in the whole frame: it is hidden or lost.
Chosen on composites of held-back sequences (docs/results.md)."""


def search_region(
    prev_prob: Float[Array, "N H/4 W/4"], memory: memory_lib.Memory, radius: float
) -> Bool[Array, "N h w"]:
    """Marks the cells near each object's previous mask; all cells for an object that is missing or shrunken.

    Args:
      prev_prob: the objects' masks one frame before, in [0, 1].
      memory: their masks in the frames that it holds.
      radius: how far an object may have moved, as a share of the frame's short side.
    """
    grid = memory.prob.shape[2], memory.prob.shape[3]
    return around(prev_prob, grid, radius) | shrunken(prev_prob, memory)[:, None, None]


def around(
    prob: Float[Array, "N H W"], grid: tuple[int, int], radius: float, threshold: float = 0.5
) -> Bool[Array, "N h w"]:
    """Marks the cells within a radius of each object; all cells for an object without a mask.

    Objects move little from frame to frame, and similar objects are usually farther away.

    Args:
      prob: each object's mask in another frame; H, W are (h, w) or a multiple of it.
      grid: (h, w).
      radius: along either axis, as a share of the frame's short side; at least one cell.
      threshold: a pixel above it belongs to the object.
    """
    h, w = grid
    n, height, _ = prob.shape
    cells = jnp.max(prob.reshape(n, h, height // h, w, -1), axis=(2, 4)) > threshold
    size = 2 * max(1, round(radius * min(h, w))) + 1
    # One axis after the other: an n x n window at the cost of 2 n.
    near = cells.astype(jnp.float32)
    for window in ((1, size, 1), (1, 1, size)):
        near = jax.lax.reduce_window(near, 0.0, jax.lax.max, window, (1, 1, 1), "SAME")
    return (near > 0) | ~jnp.any(cells, axis=(1, 2), keepdims=True)


def shrunken(prev_prob: Float[Array, "N H/4 W/4"], memory: memory_lib.Memory) -> Bool[Array, "N"]:
    """Marks objects whose previous mask is less than `SHRUNKEN` of their largest one in memory.

    Padding is ignored, and so is the prototypes' slot, which holds pixels of many frames.
    """
    cells = masks.downsample(prev_prob, prev_prob.shape[1] // memory.prob.shape[2])
    is_frame = memory.slot_valid & (memory.slot_frame >= 0)
    real = jnp.any(memory.pixel_valid & is_frame[:, None, None], axis=0)
    known = memory.object_in_slot & is_frame[None, :]
    areas = jnp.sum(jnp.where(memory.pixel_valid[None], memory.prob, 0.0), axis=(2, 3))
    largest = jnp.max(jnp.where(known, areas, 0.0), axis=1)
    return jnp.sum(jnp.where(real[None], cells, 0.0), axis=(1, 2)) < SHRUNKEN * largest
