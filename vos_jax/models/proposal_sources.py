"""Where a frame's proposals come from: the network, a file, or the truth, behind one signature.

    source(inputs, config=ProposalConfig, key=None) -> Proposals

`SOURCES[name]`; a config may also name any callable of this signature.
"""

import flax.struct
import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.errors import VosError
from vos_jax.models import boxes as box_lib
from vos_jax.models import mask_paste
from vos_jax.models.proposals import Detections, ProposalConfig, Proposals
from vos_jax.typing import Array, Bool, Float, Int, PRNGKeyArray

# The training oracle's boxes: each side moves by up to this share of the box's extent.
JITTER = 0.1


class SourceInputs(flax.struct.PyTreeNode):
    """All that a source may draw on; a source names what it misses."""

    frame_size: Int[Array, "2"]  # real (height, width), pixels
    detections: Detections | None = None  # of the network, on this frame
    supplied: Proposals | None = None  # prepared on the host (data/proposal_files.py)
    truth_prob: Float[Array, "N H4 W4"] | None = None
    truth_valid: Bool[Array, "N"] | None = None


def network(inputs: SourceInputs, *, config: ProposalConfig, key: PRNGKeyArray | None = None) -> Proposals:
    """What the proposal network found."""
    if inputs.detections is None:
        raise VosError(
            "model.proposals.source='network' needs the proposal network's detections; none were given"
        )
    return inputs.detections.proposals


def file(inputs: SourceInputs, *, config: ProposalConfig, key: PRNGKeyArray | None = None) -> Proposals:
    """What another program found, read from a file."""
    if inputs.supplied is None:
        raise VosError(
            "model.proposals.source='file' needs proposals read from a file; none were given for this frame"
        )
    return inputs.supplied


def groundtruth(
    inputs: SourceInputs,
    *,
    config: ProposalConfig,
    key: PRNGKeyArray | None = None,
    jitter: float | Float[Array, ""] = JITTER,
) -> Proposals:
    """The training oracle: one jittered copy of every true object, then distractors.

    Object o stands at place o: its true box with every side moved by up to ±`jitter` of the extent, and its
    mask stretched along. The other places hold the mask of some present object, stretched into a box of its
    own size (halved to doubled) anywhere in the frame: plausible shapes in the wrong place. Scores are the
    boxes' IoU with the truth.

    Args:
      inputs: `truth_prob` [N, H/4, W/4], `truth_valid` [N], `frame_size`.
      config: `capacity` P ≥ N places.
      key: randomness; the same key gives the same proposals.

    Returns:
      `Proposals`; place o is valid if object o is visible here; distractors, if any object is.

    Source: DESIGN §4.
    """
    truth, truth_valid = inputs.truth_prob, inputs.truth_valid
    if truth is None or truth_valid is None or key is None:
        raise VosError(
            "model.proposals.source='groundtruth' needs true masks and a random key: it is for training"
        )
    count, height, width = truth.shape
    if count > config.capacity:
        raise VosError(f"{count} objects do not fit {config.capacity} proposals: raise their capacity")
    jitter_key, choice_key, size_key, place_key = jax.random.split(key, 4)
    boxes, found = jax.vmap(box_lib.of_mask)(truth)
    visible = truth_valid & found
    extent = boxes[:, 2:] - boxes[:, :2]

    offset = jax.random.uniform(jitter_key, (count, 4), minval=-jitter, maxval=jitter)
    jittered = boxes + offset * jnp.concatenate([extent, extent], 1)

    others = config.capacity - count
    logits = jnp.where(visible, 0.0, -jnp.inf)
    logits = jnp.where(visible.any(), logits, 0.0)
    chosen = jax.random.categorical(choice_key, logits, shape=(others,))
    size = extent[chosen] * jnp.exp2(jax.random.uniform(size_key, (others, 2), minval=-1.0, maxval=1.0))
    frame = inputs.frame_size.astype(jnp.float32)[None, :]
    size = jnp.minimum(size, frame)
    corner = jax.random.uniform(place_key, (others, 2)) * (frame - size)
    distractors = jnp.concatenate([corner, corner + size], 1)

    source = jnp.concatenate([jnp.arange(count), chosen])
    targets = jnp.concatenate([jittered, distractors])
    valid = jnp.concatenate([visible, jnp.broadcast_to(visible.any(), (others,))])
    masks = jax.vmap(lambda index, box: mask_paste.move(truth[index], boxes[index], box))(source, targets)
    inside = jnp.arange(height)[:, None] * geometry.MASK_STRIDE < inputs.frame_size[0]
    inside = inside & (jnp.arange(width)[None, :] * geometry.MASK_STRIDE < inputs.frame_size[1])
    masks = jnp.where(valid[:, None, None] & inside[None], masks, 0.0)
    targets = box_lib.clip(targets, inputs.frame_size)
    overlap = jnp.where(visible[None, :], box_lib.pairwise_iou(targets, boxes), 0.0).max(1)
    proposals = Proposals(
        boxes=jnp.where(valid[:, None], targets, 0.0),
        scores=jnp.where(valid, overlap, 0.0),
        masks=masks,
        valid=valid,
    )
    return jax.lax.stop_gradient(proposals)


SOURCES = {"network": network, "file": file, "groundtruth": groundtruth}
