"""The losses of the proposal network: FCOS targets and five terms for ONE frame."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vos_jax import geometry
from vos_jax.models import fpn
from vos_jax.models.proposals import Detections
from vos_jax.ops import boxes as box_lib
from vos_jax.ops import roi_align
from vos_jax.typing import Array, Bool, Float, Int

# A level takes boxes whose farthest side is at a distance in (low, high] strides from the location (FCOS).
# The first level also takes all smaller boxes, the last all larger ones.
RANGE_IN_STRIDES = (4.0, 8.0)
CENTRE_RADIUS = 1.5  # in strides, around the centre of a box: locations within it may be positive
UNLABELLED_PROB = 0.25  # objectness above which an unlabelled location may be an unlabelled object
MASK_IOU = 0.5  # IoU of a proposal's box with a true box above which its mask has a loss


class Targets(struct.PyTreeNode):
    """The targets of each location."""

    positive: Bool[Array, "L"]
    object_index: Int[Array, "L"]  # object of the assigned box; 0 if not positive
    centerness: Float[Array, "L"]  # [0, 1]


def assign(
    locations: Float[Array, "L 2"],
    strides: Float[Array, "L"],
    location_valid: Bool[Array, "L"],
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, "N"],
) -> Targets:
    """Assigns a true box to every location: centre sampling, one range of sizes per level.

    If several boxes fit a location, it takes the smallest. All coordinates are in pixels.

    Source: Tian et al., FCOS, 2019 (§3.2) and its centre sampling.
    """
    before = locations[:, None] - boxes[None, :, :2]  # [L, N, 2]: distances to the top and left sides
    after = boxes[None, :, 2:] - locations[:, None]
    distances = jnp.concatenate([before, after], -1)
    inside = (distances > 0).all(-1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    radius = CENTRE_RADIUS * strides[:, None]
    central = jnp.abs(locations[:, None] - middle[None]).max(-1) < radius
    low = jnp.where(strides == fpn.STRIDES[0], 0.0, RANGE_IN_STRIDES[0] * strides)[:, None]
    high = jnp.where(strides == fpn.STRIDES[-1], jnp.inf, RANGE_IN_STRIDES[1] * strides)[:, None]
    farthest = distances.max(-1)
    claimed = inside & central & (farthest > low) & (farthest <= high)
    claimed = claimed & valid[None, :] & location_valid[:, None]
    index = jnp.where(claimed, box_lib.area(boxes)[None, :], jnp.inf).argmin(1)
    positive = claimed.any(1)
    index = jnp.where(positive, index, 0)
    own = jnp.take_along_axis(distances, index[:, None, None], axis=1)[:, 0]
    own = jnp.where(positive[:, None], own, 1.0)
    ratio = jnp.minimum(own[:, :2], own[:, 2:]) / jnp.maximum(own[:, :2], own[:, 2:])
    return Targets(positive, index, jnp.where(positive, jnp.sqrt(ratio.prod(-1)), 0.0))


def mask_losses(
    mask_logits: Float[Array, "K s s"],
    boxes: Float[Array, "K 4"],
    valid: Bool[Array, "K"],
    truth_prob: Float[Array, "N H4 W4"],
    truth_valid: Bool[Array, "N"],
) -> dict[str, Float[Array, ""]]:
    """Returns cross-entropy and dice of the masks whose boxes have an IoU above 0.5 with a true box.

    Each mask is compared with the object of highest IoU, resampled on the box's grid.

    Returns:
      {"mask_bce", "mask_dice"}: means over these masks; 0 if there are none.
    """
    truth_prob = truth_prob.astype(jnp.float32)
    truth_boxes, found = jax.vmap(box_lib.of_mask)(truth_prob)
    overlap = jnp.where((truth_valid & found)[None, :], box_lib.pairwise_iou(boxes, truth_boxes), 0.0)
    counts = valid & (overlap.max(1) > MASK_IOU)
    size, stride = mask_logits.shape[-1], geometry.MASK_STRIDE

    def target_of(index: Array, box: Array) -> Array:
        region = roi_align.roi_align(truth_prob[index][..., None], box, size=size, stride=stride)
        return (region[..., 0] > 0.5).astype(jnp.float32)

    targets = jax.lax.stop_gradient(jax.vmap(target_of)(overlap.argmax(1), boxes))
    logits = mask_logits.astype(jnp.float32)
    bce = optax.losses.sigmoid_binary_cross_entropy(logits, targets).mean((1, 2))
    dice = optax.losses.dice_loss(logits[..., None], targets[..., None], reduction="none")[:, 0]
    number = jnp.maximum(counts.sum(), 1)
    return {
        "mask_bce": jnp.where(counts, bce, 0.0).sum() / number,
        "mask_dice": jnp.where(counts, dice, 0.0).sum() / number,
    }


def proposal_losses(
    detections: Detections,
    truth_prob: Float[Array, "N H4 W4"],
    truth_valid: Bool[Array, "N"],
    frame_size: Float[Array, "2"],
    *,
    ignored: Float[Array, "H4 W4"] | None = None,
    exhaustive: Bool[Array, ""] | bool = True,
) -> dict[str, Float[Array, ""]]:
    """Computes the losses of the proposal network on ONE frame, normalised by this frame's counts.

    A location without an assigned box is a negative, with two exceptions. Locations on ignored pixels have no
    loss. If labels are not exhaustive, an unlabelled location is a negative only while its objectness is at
    most UNLABELLED_PROB: above, the network may have found an unlabelled object. Without these negatives the
    objectness of background would drift upwards. Locations on a labelled object are always negatives. After
    the background recalibration loss (Zhang et al. 2020), which inverts such negatives.

    Args:
      detections: of the network on this frame.
      truth_prob: [N, H/4, W/4] true masks in [0, 1]; the object is where they exceed 0.5.
      truth_valid: [N]; other objects, and objects without a pixel, are ignored.
      frame_size: [2] real (height, width); the truth outside is ignored.
      ignored: share of each cell that is neither background nor one of the objects; None: 0.
      exhaustive: whether all unlabelled pixels are background.

    Returns:
      "objectness" (focal, per positive location), "centerness" (cross-entropy, mean over positives),
      "box" (1 − GIoU, centerness-weighted mean over positives), "mask_bce", "mask_dice" (see `mask_losses`).
      All ≥ 0 and unweighted; without any object only "objectness" is not 0.

    Source: docs/method.md, "Instances"; FCOS 2019; Mask R-CNN 2017.
    """
    inside = fpn.real_cells(truth_prob.shape[1:], frame_size, geometry.MASK_STRIDE)
    truth_prob = jnp.where(inside[None], truth_prob.astype(jnp.float32), 0.0)
    truth_boxes, found = jax.vmap(box_lib.of_mask)(truth_prob)
    # A stride-4 cell may extend outside the frame; true boxes are clipped like proposals.
    truth_boxes = box_lib.clip(truth_boxes, frame_size)
    d = detections
    targets = assign(d.locations, d.strides, d.location_valid, truth_boxes, truth_valid & found)
    positive = targets.positive
    number = jnp.maximum(positive.sum(), 1)

    row, column = (
        jnp.clip((d.locations[:, axis] // geometry.MASK_STRIDE).astype(jnp.int32), 0, inside.shape[axis] - 1)
        for axis in (0, 1)
    )
    labelled = jnp.where(truth_valid[:, None, None], truth_prob, 0.0).sum(0)[row, column] > 0.5
    prob = jax.nn.sigmoid(jax.lax.stop_gradient(d.objectness_logits.astype(jnp.float32)))
    unknown = ~labelled & ~jnp.asarray(exhaustive) & (prob > UNLABELLED_PROB)
    if ignored is not None:
        unknown |= ignored[row, column] > 0
    counts = d.location_valid & (positive | ~unknown)

    focal = optax.losses.sigmoid_focal_loss(
        d.objectness_logits.astype(jnp.float32), positive.astype(jnp.float32), alpha=0.25, gamma=2.0
    )
    centerness = optax.losses.sigmoid_binary_cross_entropy(
        d.centerness_logits.astype(jnp.float32), targets.centerness
    )
    box = 1.0 - box_lib.giou(d.boxes.astype(jnp.float32), truth_boxes[targets.object_index])
    weight = targets.centerness
    return {
        "objectness": jnp.where(counts, focal, 0.0).sum() / number,
        "centerness": jnp.where(positive, centerness, 0.0).sum() / number,
        "box": jnp.where(positive, weight * box, 0.0).sum() / jnp.maximum(weight.sum(), 1e-6),
        **mask_losses(d.mask_logits, d.proposals.boxes, d.proposals.valid, truth_prob, truth_valid),
    }
