"""Work on some of a frame's pixels only, and on few at a time, with static shapes."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vos_jax.typing import Array, Bool, Float, Int

# Queries are taken in blocks whose affinity with one slot has at most so many entries: 18 MB, which a
# last-level cache holds.
AFFINITY_BLOCK = 4_500_000
# Pixels are padded to the next of these shares of a frame, and to no fewer than this: each is a program of
# its own. Three sizes less compile in 4 s less and take a tenth longer (docs/performance.md).
SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 1)
FEWEST = 128


def _counts(num_pixels: int) -> list[int]:
    """What numbers of near pixels are padded to."""
    counts = {32 * math.ceil(max(FEWEST, share * num_pixels) / 32) for share in SHARES}
    return sorted(n for n in counts if n < num_pixels) + [num_pixels]


def first(marked: Bool[Array, "K"], count: int) -> Int[Array, "count"]:
    """The numbers of all marked pixels, of which there are at most `count`, and of some others."""
    return jnp.argsort(~marked, stable=True)[:count]


def within(
    near: Bool[Array, "N h w"] | None, numbers: Int[Array, "Q"], prob: Float[Array, "N Q"]
) -> Float[Array, "N Q"]:
    """Each object's mask at the pixels of these numbers, 0 where only others are near; None: all is near."""
    return prob if near is None else jnp.where(near.reshape(near.shape[0], -1)[:, numbers], prob, 0.0)


def switch(number: Int[Array, ""], num_pixels: int, read: Callable[[int], Any]) -> Any:
    """`read(count)` of the smallest count that `number` pixels are padded to; under vmap all are computed."""
    counts = _counts(num_pixels)
    smallest = jnp.searchsorted(jnp.asarray(counts), number)
    return jax.lax.switch(smallest, [functools.partial(read, count) for count in counts])


def in_blocks(
    read_block: Callable[[Float[Array, "Q c"], Int[Array, "Q"]], tuple[Array, ...]],
    image: Float[Array, "h w c"],
    near: Bool[Array, "N h w"] | None = None,
) -> tuple[Array, ...]:
    """Runs `read_block` over pixels that are near any object, a block of Q at a time.

    Args:
      read_block: from the image's values at some pixels and their numbers in raster order to arrays
        [N, Q, ...], and last one that is summed over all pixels.
      image: of one frame.
      near: which pixels are needed for each object; None: all are.

    Returns:
      `read_block`'s arrays on the grid, [N, h, w, ...], zero at pixels near no object up to padding; the sum.
    """
    h, w, channels = image.shape
    num_pixels = h * w

    def read(count: int) -> tuple[Array, ...]:
        if count == num_pixels:
            pixels = jnp.arange(num_pixels)
        else:
            assert near is not None  # else all pixels are read
            pixels = first(jnp.any(near, axis=0).ravel(), count)
        number = math.ceil(count * num_pixels / AFFINITY_BLOCK)
        number = next(n for n in range(number, count + 1) if count % n == 0)
        blocks = image.reshape(num_pixels, channels)[pixels], pixels
        if number == 1:
            *found, total = read_block(*blocks)
        else:
            blocks = jax.tree.map(lambda x: x.reshape(number, count // number, *x.shape[1:]), blocks)
            *found, totals = jax.lax.map(lambda block: read_block(*block), blocks)
            found = [jnp.moveaxis(x, 0, 1).reshape(x.shape[1], count, *x.shape[3:]) for x in found]
            total = jnp.sum(totals, axis=0)
        return *(to_grid(x, pixels) for x in found), total

    def to_grid(x: Float[Array, "N Q *c"], pixels: Int[Array, "Q"]) -> Float[Array, "N h w *c"]:
        if pixels.size < num_pixels:
            x = jnp.zeros((x.shape[0], num_pixels, *x.shape[2:]), x.dtype).at[:, pixels].set(x)
        return x.reshape(x.shape[0], h, w, *x.shape[2:])

    return read(num_pixels) if near is None else switch(jnp.sum(jnp.any(near, axis=0)), num_pixels, read)
