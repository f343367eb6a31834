"""The DAVIS measures of one object, equal to the official toolkit's (DESIGN §9)."""

import functools

import cv2
import numpy as np

from vos_jax.typing import Bool, Float, UInt8

TOLERANCE = 0.008
"""Distance at which two boundary pixels still match, as a share of the frame's diagonal."""

RECALL_THRESHOLD = 0.5
NUM_BINS = 4


def region_similarity(truth: Bool[np.ndarray, "H W"], prediction: Bool[np.ndarray, "H W"]) -> float:
    """J: intersection over union of two masks; 1 where both are empty (DESIGN §9).

    Raises:
      ValueError: the masks differ in shape.
    """
    _check_shapes(truth, prediction)
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary_similarity(truth: Bool[np.ndarray, "H W"], prediction: Bool[np.ndarray, "H W"]) -> float:
    """F: harmonic mean of boundary precision and recall (DESIGN §9).

    A boundary pixel is matched if the other boundary has a pixel within a disk of radius
    ceil(TOLERANCE * diagonal) around it. No boundary in either mask (both empty, or both filling the frame)
    gives 1, in only one of them 0.

    Raises:
      ValueError: the masks differ in shape.
    """
    _check_shapes(truth, prediction)
    radius = int(np.ceil(TOLERANCE * np.linalg.norm(truth.shape)))
    # All boundary pixels lie in the masks' common box, grown by one; matches are counted at boundary pixels.
    box = _box(truth | prediction)
    truth_edge, prediction_edge = boundary(truth[box]), boundary(prediction[box])
    num_truth, num_prediction = np.count_nonzero(truth_edge), np.count_nonzero(prediction_edge)
    if not num_truth or not num_prediction:
        return float(num_truth == num_prediction)
    precision = np.count_nonzero(prediction_edge & cv2.dilate(truth_edge, _disk(radius))) / num_prediction
    recall = np.count_nonzero(truth_edge & cv2.dilate(prediction_edge, _disk(radius))) / num_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """0/1 map of pixels that differ from their right, lower or lower right neighbour, if it exists."""
    mask = mask.astype(np.uint8)
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def statistics(values: Float[np.ndarray, "T"]) -> dict[str, float]:
    """Mean, recall and decay of one object's per-frame values (DESIGN §9).

    Recall is the share of frames above 0.5; decay the mean of the first of four bins minus the mean of the
    last. The official bins share their end frames. The official uint8 bin indices wrap beyond 256 frames;
    these do not.

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
        raise ValueError(f"masks to compare are planes of one shape: {truth.shape}, {prediction.shape}")


def _box(mask: Bool[np.ndarray, "H W"]) -> tuple[slice, slice]:
    """Rows and columns of the mask's bounding box and one more on each side, inside the frame."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(max(0, y - 1), y + height + 1), slice(max(0, x - 1), x + width + 1)


@functools.cache
def _disk(radius: int) -> UInt8[np.ndarray, "D D"]:
    """Pixels at distance <= radius from the centre (OpenCV's own ellipse is another shape)."""
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.uint8)
