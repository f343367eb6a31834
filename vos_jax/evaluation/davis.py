"""J and F of one object, equal to the official DAVIS toolkit's (docs/method.md, "Scores and protocols")."""

import functools

import cv2
import numpy as np

from vos_jax.typing import Bool, Float, UInt8

TOLERANCE = 0.008
"""Largest distance between two matching boundary pixels, as a share of the frame's diagonal."""

RECALL_THRESHOLD = 0.5
NUM_BINS = 4


def region_similarity(truth: Bool[np.ndarray, "H W"], prediction: Bool[np.ndarray, "H W"]) -> float:
    """Returns J, the intersection over union of two masks; 1 if both are empty.

    Raises:
      ValueError: the masks differ in shape.
    """
    _check_shapes(truth, prediction)
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary_similarity(truth: Bool[np.ndarray, "H W"], prediction: Bool[np.ndarray, "H W"]) -> float:
    """Returns F, the harmonic mean of boundary precision and recall.

    A boundary pixel is matched if the other boundary has a pixel within a disk of radius
    ceil(TOLERANCE * diagonal) around it. F is 1 if neither mask has a boundary (it is empty or fills the
    frame), and 0 if only one of them has.

    Raises:
      ValueError: the masks differ in shape.
    """
    _check_shapes(truth, prediction)
    radius = int(np.ceil(TOLERANCE * np.linalg.norm(truth.shape)))
    # All boundary pixels are in the masks' common box, enlarged by one pixel.
    box = _box(truth | prediction)
    truth_edge, prediction_edge = boundary(truth[box]), boundary(prediction[box])
    num_truth, num_prediction = np.count_nonzero(truth_edge), np.count_nonzero(prediction_edge)
    if not num_truth or not num_prediction:
        return float(num_truth == num_prediction)
    precision = np.count_nonzero(prediction_edge & cv2.dilate(truth_edge, _disk(radius))) / num_prediction
    recall = np.count_nonzero(truth_edge & cv2.dilate(prediction_edge, _disk(radius))) / num_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Returns a 0/1 map of pixels that differ from their right, lower or lower right neighbour."""
    mask = mask.astype(np.uint8)
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def statistics(values: Float[np.ndarray, "T"]) -> dict[str, float]:
    """Returns mean, recall and decay of one object's values per frame.

    Recall is the share of frames above 0.5. Decay is the mean of the first of four bins minus the mean of the
    last. As in the official toolkit, bins share their end frames. Its uint8 bin indices wrap beyond 256
    frames; these do not.

    Raises:
      ValueError: no values; such an object is not scored (`scoring.summarise`).
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"statistics need a non-empty vector of per-frame values, not {values.shape}")
    ends = (np.round(np.linspace(1, len(values), NUM_BINS + 1) + 1e-10) - 1).astype(int)
    first, last = values[: ends[1] + 1], values[ends[-2] :]
    return {
        "mean": float(values.mean()),
        "recall": float((values > RECALL_THRESHOLD).mean()),
        "decay": float(first.mean() - last.mean()),
    }


def _check_shapes(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise ValueError(f"masks to compare must be [H, W] of equal shape: {truth.shape}, {prediction.shape}")


def _box(mask: Bool[np.ndarray, "H W"]) -> tuple[slice, slice]:
    """Returns the rows and columns of the mask's bounding box, enlarged by one, inside the frame."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(max(0, y - 1), y + height + 1), slice(max(0, x - 1), x + width + 1)


@functools.cache
def _disk(radius: int) -> UInt8[np.ndarray, "D D"]:
    """Returns the pixels at distance <= radius from the centre (OpenCV's ellipse has another shape)."""
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.uint8)
