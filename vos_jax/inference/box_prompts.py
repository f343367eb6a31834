"""Boxes to masks: by the proposal network's mask head, sharpened by GrabCut."""

from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax import errors, geometry
from vos_jax.models import state as state_lib
from vos_jax.models import vos
from vos_jax.ops import masks
from vos_jax.typing import Bool, Float, UInt8

CERTAIN = 0.9
"""Least probability, for or against, at which GrabCut keeps what the mask head says."""

ROUNDS = 3


class BoxPrompts:
    """Finds objects in boxes; compiles once per padded size of frame.

    Args:
      model, params: one without proposals of its own, as the training-free one, leaves all to GrabCut.
    """

    def __init__(self, model: state_lib.Model, params: Any):
        self._params = params
        self._head = None
        if isinstance(model, vos.VOS) and model.config.uses_network:

            def mask_of_box(
                params: Any, frame: jax.Array, box: jax.Array, frame_size: jax.Array
            ) -> jax.Array:
                encoded = model.encode(params, frame, frame_size)
                prob = model.mask_of_box(params, encoded, box, frame_size)
                return masks.upsample(prob, geometry.MASK_STRIDE)

            self._head = jax.jit(mask_of_box)

    def __call__(
        self, frame: UInt8[np.ndarray, "H W 3"], box: tuple[float, float, float, float]
    ) -> Bool[np.ndarray, "H W"]:
        """Returns the mask of the object in a box; nothing outside of the box is in it.

        Args:
          frame: RGB.
          box: (y0, x0, y1, x1) in pixels; any two opposite corners.

        Raises:
          VosError: the box is less than 4 pixels wide or high, or nothing in it stands out.
        """
        inside = _inside(frame, box)
        if self._head is None:
            return grab_cut(frame, inside)
        size = frame.shape[:2]
        padded = geometry.pad(frame, geometry.padded_size(size), mode="constant")
        prob = self._head(
            self._params, padded, jnp.asarray(inside, jnp.float32), jnp.asarray(size, jnp.float32)
        )
        return grab_cut(frame, inside, np.asarray(prob)[: size[0], : size[1]])


def _inside(
    frame: UInt8[np.ndarray, "H W 3"], box: tuple[float, float, float, float]
) -> tuple[int, int, int, int]:
    """Returns the part of a box that lies inside the frame, as (y0, x0, y1, x1)."""
    (y0, y1), (x0, x1) = (sorted(pair) for pair in zip(box[:2], box[2:], strict=True))
    height, width = frame.shape[:2]
    y0, x0, y1, x1 = max(round(y0), 0), max(round(x0), 0), min(round(y1), height), min(round(x1), width)
    if x1 - x0 < 4 or y1 - y0 < 4:
        raise errors.VosError("the box is too small: take two opposite corners around the object")
    return y0, x0, y1, x1


def grab_cut(
    frame: UInt8[np.ndarray, "H W 3"],
    box: tuple[int, int, int, int],
    prob: Float[np.ndarray, "H W"] | None = None,
) -> Bool[np.ndarray, "H W"]:
    """Separates object and background in a box (y0, x0, y1, x1) by colour (OpenCV's GrabCut).

    Args:
      frame: RGB.
      box: inside the frame.
      prob: an idea of the mask in [0, 1], kept where it is certain; None: all of the box is in doubt.

    Raises:
      VosError: nothing in the box stands out.
    """
    height, width = frame.shape[:2]
    y0, x0, y1, x1 = box
    if prob is None and (x1 - x0) * (y1 - y0) == height * width:
        y0, x0, y1, x1 = 1, 1, height - 1, width - 1  # GrabCut needs some background
    inside = np.zeros((height, width), bool)
    inside[y0:y1, x0:x1] = True
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    if prob is not None:
        labels[inside & (prob <= 0.5)] = cv2.GC_PR_BGD
        labels[inside & (prob < 1 - CERTAIN)] = cv2.GC_BGD
        labels[inside & (prob > CERTAIN)] = cv2.GC_FGD
    there = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if there.any() and not there.all():
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        none: Any = None  # no box, for the labels say it; OpenCV's stubs want one
        image = np.ascontiguousarray(frame[:, :, ::-1])
        cv2.grabCut(image, labels, none, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
        there = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not there.any():
        raise errors.VosError("nothing in the box stands out; paint the object instead")
    return there
