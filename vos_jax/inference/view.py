"""Test-time augmentation: one view is one scale and flip at which a session sees its frames."""

import dataclasses
from typing import Any

import numpy as np

from vos_jax import errors, geometry
from vos_jax.inference import config as config_lib
from vos_jax.typing import Float, Shaped, UInt8


@dataclasses.dataclass(frozen=True)
class View:
    """The size and the flip at which the model sees the frames of a video.

    Attributes:
      frame_size: (height, width) of the frames in pixels.
      size: (height, width) at which the model sees them.
      flip: mirror left and right.
    """

    frame_size: tuple[int, int]
    size: tuple[int, int]
    flip: bool = False

    @property
    def padded_size(self) -> tuple[int, int]:
        """`size`, enlarged to multiples of `geometry.SIZE_MULTIPLE`."""
        return geometry.padded_size(self.size)

    def see(self, frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a frame as the model takes it, padded."""
        return geometry.pad(geometry.resize_frame(self._mirror(frame), self.size), self.padded_size)

    def see_ids(self, ids: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "h w"]:
        """Returns object ids at the padded size; 0 in the padding."""
        seen = geometry.resize_ids(self._mirror(ids), self.size)
        return geometry.pad(seen, self.padded_size, mode="constant")

    def crop(self, plane: Any) -> Shaped[np.ndarray, "h w"]:
        """Returns a plane of the padded size without its padding."""
        return np.asarray(plane)[: self.size[0], : self.size[1]]

    def full_size(self, prob: Any) -> Float[np.ndarray, "H W"]:
        """Returns a probability map of the padded size at the frames' size, as the frames lie."""
        full = geometry.resize_prob(self.crop(prob), self.frame_size)
        return full[:, ::-1] if self.flip else full

    def _mirror(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[:, ::-1]) if self.flip else array


def make_views(size: tuple[int, int], config: config_lib.InferenceConfig) -> tuple[View, ...]:
    """Returns the views of frames of (height, width) pixels; each scale straight first, then flipped.

    Raises:
      VosError: frames that a view would shrink to next to nothing.
    """
    flips = (False, True) if config.flip else (False,)
    return tuple(
        View(size, geometry.working_size(size, config.min_size, config.max_size, scale), flip)
        for scale in config.scales
        for flip in flips
    )


def check_frame(frame: Any, index: int) -> UInt8[np.ndarray, "H W 3"]:
    """Returns frame `index` as an array; VosError where it is not uint8 RGB."""
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise errors.VosError(
            f"frame {index} is {frame.dtype} {list(frame.shape)}; frames are uint8 RGB [height, width, 3]"
        )
    return frame
