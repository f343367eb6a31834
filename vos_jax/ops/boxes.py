"""Boxes (y0, x0, y1, x1) in pixels of the padded frame: area, IoU, non-maximum suppression."""

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.ops import target
from vos_jax.typing import Array, Bool, Float


def area(box: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Returns the area of boxes in pixels²; 0 for a box with a negative side."""
    return jnp.maximum(box[..., 2] - box[..., 0], 0.0) * jnp.maximum(box[..., 3] - box[..., 1], 0.0)


def clip(box: Float[Array, "*b 4"], frame_size: Array) -> Float[Array, "*b 4"]:
    """Clips boxes to the real frame, `frame_size` [2] = (height, width)."""
    limit = jnp.concatenate([frame_size, frame_size]).astype(box.dtype)
    return jnp.clip(box, 0.0, limit.reshape((1,) * (box.ndim - 1) + (4,)))


def _intersection(a: Array, b: Array) -> Array:
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    return area(jnp.concatenate([low, high], -1))


def pairwise_iou(a: Float[Array, "K 4"], b: Float[Array, "L 4"]) -> Float[Array, "K L"]:
    """Returns the IoU of every box of `a` with every box of `b`; 0 if both are empty."""
    intersection = _intersection(*jnp.broadcast_arrays(a[:, None], b[None, :]))
    union = area(a)[:, None] + area(b)[None, :] - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1.0), 0.0)


def giou(a: Float[Array, "*b 4"], b: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Returns the generalised IoU of corresponding boxes, in [-1, 1].

    It is the IoU minus the share of the enclosing box that neither box covers.

    Source: Rezatofighi et al., Generalized Intersection over Union, 2019.
    """
    intersection = _intersection(a, b)
    union = area(a) + area(b) - intersection
    low, high = jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])
    hull = area(jnp.concatenate([low, high], -1))
    epsilon = 1e-6  # pixels²; two empty boxes give 0, not NaN
    return intersection / jnp.maximum(union, epsilon) - (hull - union) / jnp.maximum(hull, epsilon)


def of_mask(
    mask: Bool[Array, "h w"] | Float[Array, "h w"], *, stride: int = geometry.MASK_STRIDE
) -> tuple[Float[Array, "4"], Bool[Array, ""]]:
    """Returns the tight box in pixels of a mask, or of prob > 0.5; also whether there is one.

    The box of an empty mask is 0.
    """
    inside = mask if mask.dtype == bool else mask > 0.5

    def extent(present: Array) -> tuple[Array, Array]:
        return jnp.argmax(present), present.shape[0] - jnp.argmax(present[::-1])

    (y0, y1), (x0, x1) = extent(inside.any(1)), extent(inside.any(0))
    found = inside.any()
    box = jnp.stack([y0, x0, y1, x1]).astype(jnp.float32) * stride
    return jnp.where(found, box, 0.0), found


def greedy_nms(
    boxes: Float[Array, "K 4"],
    scores: Float[Array, "K"],
    valid: Bool[Array, "K"],
    *,
    threshold: float | Float[Array, ""],
) -> Float[Array, "K"]:
    """Applies greedy non-maximum suppression, as a fixed point, without a loop over boxes.

    keep_i = valid_i and no kept j before i overlaps it by more than `threshold`. Iterated from "all kept",
    the first n boxes are final after n rounds, so the fixed point equals the sequential result. A few rounds
    are usually enough.

    Args:
      boxes: [K, 4]. scores: [K], descending. valid: [K]; invalid boxes are dropped and suppress none.
      threshold: IoU in [0, 1] above which the lower-scored box is suppressed.

    Returns:
      scores [K], 0 where suppressed or invalid.
    """
    earlier = jnp.tri(boxes.shape[0], k=-1, dtype=bool)
    suppresses = jax.lax.stop_gradient(pairwise_iou(boxes, boxes)) > threshold
    suppresses = suppresses & earlier

    def changed(state: tuple[Array, Array]) -> Array:
        return (state[0] != state[1]).any()

    def settle(state: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, _ = state
        return valid & ~(suppresses & keep[None, :]).any(1), keep

    def settle_often(state: tuple[Array, Array]) -> tuple[Array, Array]:
        # Each round of a while loop waits for the accelerator; rounds beyond the fixed point change nothing.
        for _ in range(4):
            state = settle(state)
        return state

    body = settle if target.is_cpu() else settle_often
    keep, _ = jax.lax.while_loop(changed, body, body((valid, valid)))
    return jnp.where(keep, scores, 0.0)


def matrix_nms(
    boxes: Float[Array, "K 4"],
    scores: Float[Array, "K"],
    valid: Bool[Array, "K"],
    *,
    threshold: float | Float[Array, ""],
) -> Float[Array, "K"]:
    """Applies soft suppression: every score decays by its largest overlap with a better box.

    decay_i = min over better j of f(iou_ij) / f(largest overlap of j), f(u) = exp(-(u / threshold)²).
    Arguments and result as for `greedy_nms`.

    Source: Wang et al., SOLOv2, 2020 (§3.4, Gaussian decay).
    """
    earlier = jnp.tri(boxes.shape[0], k=-1, dtype=bool)
    usable = earlier & valid[None, :] & valid[:, None]
    overlap = jnp.where(usable, jax.lax.stop_gradient(pairwise_iou(boxes, boxes)), 0.0)
    worst = overlap.max(1)
    log_decay = (jnp.square(worst)[None, :] - jnp.square(overlap)) / threshold**2
    decay = jnp.exp(jnp.minimum(jnp.where(usable, log_decay, 0.0).min(1), 0.0))
    return jnp.where(valid, scores * decay, 0.0)


NMS = {"greedy": greedy_nms, "matrix": matrix_nms}
