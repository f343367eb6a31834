"""At what size frames are followed, and how frames and masks get there and back."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np
from ml_collections import config_dict

from vos_jax import errors
from vos_jax.typing import Float, UInt8

MIN_SIDE = 16
"""A frame that shrinks to a shorter side holds no feature to speak of and is refused."""

MAX_ENLARGEMENT = 3.0
"""Frames grow by no more than this: what would be gained beyond was not measured (docs/results.md)."""


@dataclasses.dataclass(frozen=True)
class Sizing:
    """From the size of frames to the size at which they are followed.

    Attributes:
      min_size: frames with a shorter short side are enlarged to it, by MAX_ENLARGEMENT at most; 0: none are.
      max_size: frames with a longer short side are shrunk to it; 0: none are. It has the last word.
    """

    min_size: int = 0
    max_size: int = 0

    @classmethod
    def of_config(cls, inference: config_dict.ConfigDict) -> "Sizing":
        """What a config's `inference` section asks for."""
        return cls(min_size=inference.min_size, max_size=inference.max_size)

    def seen(self, size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """The (height, width) at which frames of (height, width) pixels are followed, times `scale`.

        Raises:
          VosError: a side would shrink to fewer than MIN_SIDE pixels.
        """
        short = min(size)
        target = max(short, min(self.min_size, MAX_ENLARGEMENT * short))
        if self.max_size:
            target = min(target, self.max_size)
        factor = scale * target / short
        height, width = (round(factor * side) for side in size)
        if factor < 1.0 and min(height, width) < MIN_SIDE:
            raise errors.VosError(
                f"frames of {size[1]}x{size[0]} would be followed at {width}x{height} (width x height); "
                f"--max_size and --scales must leave {MIN_SIDE} pixels a side"
            )
        return height, width


AS_THEY_ARE = Sizing()


def resize_frame(frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Resizes a frame: averaged where it shrinks, bicubic where it grows."""
    if frame.shape[:2] == tuple(size):
        return frame
    shrinks = size[0] < frame.shape[0]
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def resize_plane(plane: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Resizes probabilities: averaged where they shrink, bilinear, half-pixel aligned, where they grow."""
    plane = np.ascontiguousarray(plane, np.float32)
    if plane.shape == tuple(size):
        return plane
    shrinks = size[0] < plane.shape[0]
    return cv2.resize(plane, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def most_likely(
    planes: Iterable[Float[np.ndarray, "h w"]], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """Per pixel at `size`, the number of the plane that is largest there; one plane at a time is enlarged."""
    number, best = np.zeros(size, np.uint8), np.full(size, -np.inf, np.float32)
    for index, plane in enumerate(planes):
        plane = resize_plane(plane, size)
        larger = plane > best
        number[larger], best[larger] = index, plane[larger]
    return number


def resize_ids(ids: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Resizes ids: of each pixel, the one that covers most of it; no object is lost, however small.

    Of an object that covers most of no pixel, the pixel stays that it covers best.
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
        if not np.any(winner == index):
            winner.flat[np.argmax(shares[index])] = index
    return present[winner].astype(np.uint8)
