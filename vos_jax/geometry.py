"""Sizes: strides, the working size, padding, and resizing of frames and masks."""

from collections.abc import Iterable
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax import errors
from vos_jax.typing import Float, Shaped, UInt8

MASK_STRIDE = 4
"""Pixels per cell of the predicted masks and of those in the state, along either axis."""

MEMORY_STRIDE = 16
"""Pixels per cell of the memory, of the templates and of the proposals' regions."""

SIZE_MULTIPLE = 32
"""Padded sides are multiples of this, the coarsest stride of a backbone."""

MIN_SIDE = 16
"""Shortest allowed side after shrinking, in pixels; below it `working_size` raises VosError."""

MAX_ENLARGEMENT = 3.0
"""Largest factor by which frames are enlarged; larger ones were not measured (docs/results.md)."""


def working_size(
    size: tuple[int, int], min_size: int = 0, max_size: int = 0, scale: float = 1.0
) -> tuple[int, int]:
    """Returns the (height, width) of the model's input for frames of `size`, before padding.

    Args:
      size: (height, width) of the frames in pixels.
      min_size: enlarge a shorter short side to this, by `MAX_ENLARGEMENT` at most; 0: do not enlarge.
      max_size: shrink a longer short side to this; 0: do not shrink. Takes precedence over `min_size`.
      scale: factor on the result, above 0.

    Raises:
      VosError: a side would shrink to fewer than `MIN_SIDE` pixels.
    """
    short = min(size)
    target = max(short, min(min_size, MAX_ENLARGEMENT * short))
    if max_size:
        target = min(target, max_size)
    factor = scale * target / short
    height, width = (round(factor * side) for side in size)
    if factor < 1.0 and min(height, width) < MIN_SIDE:
        raise errors.VosError(
            f"frames of {size[1]}x{size[0]} would be segmented at {width}x{height} (width x height); "
            f"--max-size and --scales must leave {MIN_SIDE} pixels per side"
        )
    return height, width


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """Rounds (height, width) up to multiples of `SIZE_MULTIPLE`."""
    height, width = (-(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE for side in size)
    return height, width


def pad(array: Shaped[Any, "H W *c"], size: tuple[int, int], mode: str = "edge") -> Shaped[Any, "h w *c"]:
    """Pads an array at the bottom and right.

    Args:
      array: of numpy or JAX; may be traced.
      size: the result's (height, width), each at least that of `array`.
      mode: "edge" repeats the border, for frames; "constant" fills with zeros, for masks and ids.

    Returns:
      The padded array, of the same library; `array` itself if it has that size.
    """
    margins = [(0, large - small) for large, small in zip(size, array.shape[:2], strict=True)]
    if not any(after for _, after in margins):
        return array
    module: Any = jnp if isinstance(array, jax.Array) else np
    return module.pad(array, [*margins, *[(0, 0)] * (array.ndim - 2)], mode=mode)


def resize_frame(frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Resizes a frame: area average to shrink, bicubic to enlarge."""
    if frame.shape[:2] == tuple(size):
        return frame
    shrinks = size[0] < frame.shape[0]
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def resize_prob(prob: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Resizes a probability map: area average to shrink, half-pixel aligned bilinear to enlarge."""
    prob = np.ascontiguousarray(prob, np.float32)
    if prob.shape == tuple(size):
        return prob
    shrinks = size[0] < prob.shape[0]
    return cv2.resize(prob, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def argmax_resized(
    probs: Iterable[Float[np.ndarray, "h w"]], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """Resizes probability maps one at a time and returns the index of each pixel's largest value."""
    number, best = np.zeros(size, np.uint8), np.full(size, -np.inf, np.float32)
    for index, prob in enumerate(probs):
        prob = resize_prob(prob, size)
        larger = prob > best
        number[larger], best[larger] = index, prob[larger]
    return number


def resize_ids(ids: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Resizes ids by majority, without losing small objects.

    Each pixel gets the id that covers most of it. An object without any such pixel gets the pixel that it
    covers most and that is not another object's only one.
    """
    if ids.shape == tuple(size):
        return ids
    present = np.union1d(np.unique(ids), [0])
    shrinks = size[0] < ids.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    shares = np.stack(
        [cv2.resize((ids == i).astype(np.float32), size[::-1], interpolation=interpolation) for i in present]
    )
    winner = np.argmax(shares, axis=0)
    for index in range(1, len(present)):
        if np.any(winner == index):
            continue
        only = np.bincount(winner.ravel(), minlength=len(present)) == 1
        only[0] = False
        share = np.where(only[winner], 0.0, shares[index])
        if not share.any():
            near = cv2.GaussianBlur(shares[index], (5, 5), 0)
            share = np.where(only[winner], -1.0, near)
        winner.flat[np.argmax(share)] = index
    return present[winner].astype(np.uint8)


def overwrite(ids: UInt8[Any, "H W"], prompt_ids: UInt8[Any, "H W"]) -> UInt8[Any, "H W"]:
    """Replaces the masks of prompted objects by the prompt's, exact to the pixel.

    An object in the prompt keeps no pixel outside its prompted mask, and the prompt's pixels replace all
    other objects.

    Args:
      ids: object ids of numpy or JAX; may be traced.
      prompt_ids: object ids of the same library; 0 where nothing is prompted.

    Returns:
      Object ids of the same library.
    """
    if isinstance(prompt_ids, jax.Array):
        module: Any = jnp
        prompted = jnp.zeros(256, bool).at[prompt_ids].set(True)
    else:
        module = np
        prompted = np.zeros(256, bool)
        prompted[prompt_ids] = True
    rest = module.where(prompted[ids], 0, ids)
    return module.where(prompt_ids > 0, prompt_ids, rest).astype(module.uint8)
