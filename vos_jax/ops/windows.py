"""Windows of a few static sizes, to compute only the part of a frame that contains an object."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vos_jax.typing import Array, Bool, Float

# Additional cells around the needed ones, because a window's border changes results close to it.
MARGIN = 1
# Shares of a frame's height and width; each size is compiled separately. Chosen for the least mean area
# on 422 masks of DAVIS and of composites; the first one is for small objects.
SHARES = ((1 / 2, 2 / 5), (9 / 10, 1 / 2), (1, 13 / 20), (1, 1))


def sizes(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns the windows' (height, width) in cells for a frame of `grid` cells, smallest first."""
    found = {(math.ceil(tall * grid[0]), math.ceil(wide * grid[1])) for tall, wide in SHARES}
    return sorted(found, key=math.prod)


def apply(
    function: Callable[[Any], Float[Array, "wH wW"]],
    near: Bool[Array, "h w"],
    images: Any,
    *,
    factor: int,
    outside: float,
) -> Float[Array, "H W"]:
    """Returns `function(images)` in the smallest window with all near cells, and `outside` elsewhere.

    Under `vmap` every window is computed; map over objects with `jax.lax.map`.

    Args:
      function: maps images cropped to the window to one image of `factor` times the resolution of `near`. It
        treats the window's border like the frame's.
      near: the needed cells; if there are none, nothing is computed.
      images: a tree of [f h, f w, ...], each with its own integer f.
      factor: of the result.
      outside: the value outside the window.
    """
    h, w = near.shape
    result = jax.ShapeDtypeStruct((factor * h, factor * w), jnp.float32)
    rows, columns = jnp.any(near, axis=1), jnp.any(near, axis=0)
    first = jnp.stack([jnp.argmax(rows), jnp.argmax(columns)])
    extent = jnp.stack([h - jnp.argmax(rows[::-1]), w - jnp.argmax(columns[::-1])]) - first
    wanted = jnp.minimum(extent + 2 * MARGIN, jnp.asarray(near.shape))

    def window(size: tuple[int, int]) -> Float[Array, "H W"]:
        # The object is in the middle of its window if the frame allows it.
        slack = jnp.asarray(size) - extent
        corner = jnp.clip(first - slack // 2, 0, jnp.asarray([h - size[0], w - size[1]]))

        def cut(image: Float[Array, "fh fw *c"]) -> Float[Array, "fwh fww *c"]:
            f = image.shape[0] // h
            start = (*(f * corner), *(0 for _ in image.shape[2:]))
            return jax.lax.dynamic_slice(image, start, (f * size[0], f * size[1], *image.shape[2:]))

        found = function(jax.tree.map(cut, images)).astype(result.dtype)
        blank = jnp.full(result.shape, outside, result.dtype)
        return jax.lax.dynamic_update_slice(blank, found, tuple(factor * corner))

    windows = sizes((h, w))
    holds = jnp.all(jnp.asarray(windows) >= wanted[None], axis=1)
    index = jnp.where(jnp.any(near), 1 + jnp.argmax(holds), 0)
    branches = [lambda: jnp.full(result.shape, outside, result.dtype)]
    branches += [lambda size=size: window(size) for size in windows]
    return jax.lax.switch(index, branches)
