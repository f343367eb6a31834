"""Oracle proposals: jittered true boxes and distractors, for use early in training."""

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.errors import VosError
from vos_jax.models.proposals import Proposals
from vos_jax.ops import boxes as box_lib
from vos_jax.ops import paste
from vos_jax.typing import Array, Bool, Float, PRNGKeyArray

JITTER = 0.1
"""Largest offset of each side of a true box, as a share of the box's extent."""


def oracle(
    truth: Float[Array, "N H/4 W/4"],
    object_valid: Bool[Array, "N"],
    frame_size: Float[Array, "2"],
    key: PRNGKeyArray,
    *,
    capacity: int,
    jitter: float | Float[Array, ""] = JITTER,
) -> Proposals:
    """Returns one jittered copy of every true object, then distractors.

    Proposal o < N is object o: its true box with every side moved by up to ±`jitter` of the extent, and its
    mask stretched with it. The others are distractors: the mask of a random visible object, stretched to half
    to twice its size, anywhere in the frame. Scores are the boxes' IoU with the ground truth.

    Args:
      truth: share of each cell that an object covers.
      object_valid: objects that exist.
      frame_size: real (height, width) in pixels.
      key: of the draws.
      capacity: P >= N.

    Returns:
      P proposals; proposal o is valid if object o is visible; distractors are valid if any object is.

    Raises:
      VosError: more objects than `capacity`.
    """
    count, height, width = truth.shape
    if count > capacity:
        raise VosError(f"{count} objects do not fit {capacity} proposals: raise model.proposals.capacity")
    jitter_key, choice_key, size_key, place_key = jax.random.split(key, 4)
    boxes, found = jax.vmap(box_lib.of_mask)(truth)
    visible = object_valid & found
    extent = boxes[:, 2:] - boxes[:, :2]

    offset = jax.random.uniform(jitter_key, (count, 4), minval=-jitter, maxval=jitter)
    jittered = boxes + offset * jnp.concatenate([extent, extent], 1)

    others = capacity - count
    logits = jnp.where(visible, 0.0, -jnp.inf)
    logits = jnp.where(visible.any(), logits, 0.0)
    chosen = jax.random.categorical(choice_key, logits, shape=(others,))
    size = extent[chosen] * jnp.exp2(jax.random.uniform(size_key, (others, 2), minval=-1.0, maxval=1.0))
    frame = frame_size.astype(jnp.float32)[None, :]
    size = jnp.minimum(size, frame)
    corner = jax.random.uniform(place_key, (others, 2)) * (frame - size)
    distractors = jnp.concatenate([corner, corner + size], 1)

    source = jnp.concatenate([jnp.arange(count), chosen])
    targets = jnp.concatenate([jittered, distractors])
    valid = jnp.concatenate([visible, jnp.broadcast_to(visible.any(), (others,))])
    masks = jax.vmap(lambda index, box: paste.move(truth[index], boxes[index], box))(source, targets)
    inside = jnp.arange(height)[:, None] * geometry.MASK_STRIDE < frame_size[0]
    inside = inside & (jnp.arange(width)[None, :] * geometry.MASK_STRIDE < frame_size[1])
    masks = jnp.where(valid[:, None, None] & inside[None], masks, 0.0)
    targets = box_lib.clip(targets, frame_size)
    overlap = jnp.where(visible[None, :], box_lib.pairwise_iou(targets, boxes), 0.0).max(1)
    proposals = Proposals(
        boxes=jnp.where(valid[:, None], targets, 0.0),
        scores=jnp.where(valid, overlap, 0.0),
        masks=masks,
        valid=valid,
    )
    return jax.lax.stop_gradient(proposals)
