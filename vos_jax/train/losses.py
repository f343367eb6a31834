"""What the model learns from: the terms of one clip's loss, each alone (DESIGN §8).

All masks are compared at stride 4, where they are predicted: the truth is the share of a cell that an object
covers, so cross-entropy against it is what full-size pixels would say on average, at a sixteenth of the cost.

A clip normalises its own terms - objects, frames, hard cells - and knows of no other clip, so that a batch's
loss is the mean over clips however they are spread over devices.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vos_jax import checks, geometry
from vos_jax.errors import VosError
from vos_jax.models import matching, vos
from vos_jax.models import read as read_lib
from vos_jax.models.proposals import Proposals
from vos_jax.ops import masks
from vos_jax.typing import Array, Bool, Float

# The terms of the loss; each has a weight of its name in `LossConfig`.
TERMS = (
    "match",
    "presence",
    "coarse_iou",
    "refined_ce",
    "refined_iou",
    "objectness",
    "centerness",
    "box",
    "mask_bce",
    "mask_dice",
    "correspondence",
)
# Probabilities below are as wrong as can be; the logarithm stays finite, and so does its gradient.
TINY = 1e-12
# Costs are cosines and IoUs: a tenth is a clear difference.
PRESENCE_TEMPERATURE = 0.1
# A cell within so many pixels of a point shows it.
CELL = float(geometry.MEMORY_STRIDE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms, and which cells count in the bootstrapped cross-entropy.

    Attributes:
      match: Weight of the similarities against who is who.
      presence: Weight of the null cost against who is there.
      coarse_iou: Weight of the soft IoU of the coarse masks.
      refined_ce: Weight of the bootstrapped cross-entropy of the final masks.
      refined_iou: Weight of the soft IoU of the final masks.
      objectness: Weight of the proposal network's objectness: which locations lie in an object.
      centerness: Weight of its centerness: how central a location is in its object.
      box: Weight of the GIoU of its boxes.
      mask_bce: Weight of the cross-entropy of its masks.
      mask_dice: Weight of the Dice of its masks.
      correspondence: Weight of the attention of keys to cells of a pseudo-clip that show the same point; at 0
        it is not computed.
      match_iou: A proposal is nobody's match unless its IoU with the object's truth is above this.
      hard_share: Share of a clip's cells, the worst, that cross-entropy counts in the end.
      hard_begin: Step at which that share begins to fall from 1.
      hard_end: Step at which it has fallen.

    Raises:
      VosError: a value out of range.
    """

    match: float = 1.0
    presence: float = 0.1
    coarse_iou: float = 1.0
    refined_ce: float = 1.0
    refined_iou: float = 1.0
    objectness: float = 1.0
    centerness: float = 1.0
    box: float = 1.0
    mask_bce: float = 1.0
    mask_dice: float = 1.0
    correspondence: float = 0.0
    match_iou: float = 0.0
    hard_share: float = 0.15
    hard_begin: int = 1000
    hard_end: int = 5000

    def __post_init__(self):
        checks.at_least(self, 0, *TERMS)
        if not 0 < self.hard_share <= 1:
            raise VosError(f"hard_share is {self.hard_share}; it must be in (0, 1]")
        if not 0 <= self.hard_begin <= self.hard_end:
            raise VosError(
                f"hard_begin is {self.hard_begin} and hard_end {self.hard_end}; they must not fall "
                "and not be negative"
            )


def total(terms: dict[str, Float[Array, ""]], config: LossConfig) -> Float[Array, ""]:
    """The weighted sum of those `TERMS` that there are."""
    weighted: Any = sum(getattr(config, name) * terms[name] for name in TERMS if name in terms)  # never none
    return weighted


def mask_losses(
    out: vos.Out,
    prob: Float[Array, "N+1 H4 W4"],
    truth: Float[Array, "N H4 W4"],
    object_valid: Bool[Array, "N"],
    cell_valid: Bool[Array, "H4 W4"],
    config: LossConfig,
) -> tuple[dict[str, Float[Array, ""]], Float[Array, "H4 W4"]]:
    """The losses of ONE predicted frame but those of the proposal network.

    Args:
      out: the model's intermediates.
      prob: final probabilities, background first.
      truth: share of each cell that the object covers; zero for invalid objects.
      object_valid: objects that count.
      cell_valid: cells inside the real frame.
      config: see `LossConfig`.

    Returns:
      The terms "match", "presence", "coarse_iou", "refined_iou" and, not part of the loss, the IoUs "j",
      "j_coarse", "j_propagated" of hard masks, all means over the valid objects; and every cell's
      cross-entropy, for `bootstrapped`, which looks at all frames of the clip.
    """
    inside = cell_valid[None]
    truth = jnp.where(inside & object_valid[:, None, None], truth, 0.0)
    # What a memory propagates does not end where the frame does.
    candidates = out.proposals.replace(masks=jnp.where(inside, out.proposals.masks, 0.0))
    coarse = jnp.where(inside, out.coarse, 0.0)
    propagated = candidates.masks[-truth.shape[0] :]

    def mean(per_object: Float[Array, "N"]) -> Float[Array, ""]:
        return _mean(per_object, object_valid)

    best = masks.one_hot(jnp.argmax(prob, axis=0), truth.shape[0])
    terms = {
        "match": match_loss(out.match.similarity, candidates, truth, object_valid, config.match_iou),
        "presence": presence_loss(out.match.cost, out.match.null_cost, candidates, truth, object_valid),
        "coarse_iou": mean(1.0 - soft_iou(coarse, truth)),
        "refined_iou": mean(1.0 - soft_iou(jnp.where(inside, prob[1:], 0.0), truth)),
        "j": mean(hard_iou(best & inside, truth > 0.5)),
        "j_coarse": mean(hard_iou(coarse > 0.5, truth > 0.5)),
        "j_propagated": mean(hard_iou(propagated > 0.5, truth > 0.5)),
    }
    return terms, cross_entropy(prob, truth)


def match_loss(
    similarity: Float[Array, "N P"],
    proposals: Proposals,
    truth: Float[Array, "N H4 W4"],
    object_valid: Bool[Array, "N"],
    match_iou: float = 0.0,
) -> Float[Array, ""]:
    """L_match of DMM-Net: mean squared error of `sim` against who should get which proposal.

    That is greedy: the pair of highest IoU first, each object and proposal once; an object that is not there,
    or that no proposal shows, gets none. The mean is over pairs of a valid object and a valid proposal.
    """
    iou = jax.lax.stop_gradient(matching.mask_iou(truth > 0.5, proposals.masks > 0.5))
    # Costs are -IoU; whoever finds no IoU above this prefers its null column.
    nobody = jnp.full(object_valid.shape, -max(match_iou, 1e-6))
    assignment = matching.greedy(
        -iou, nobody, object_valid, proposals.valid, config=matching.MatchingConfig()
    )
    target = jax.lax.stop_gradient(assignment[:, :-1])
    counts = object_valid[:, None] & proposals.valid[None, :]
    return _mean(jnp.square(similarity.astype(jnp.float32) - target), counts)


def presence_loss(
    cost: Float[Array, "N P"],
    null_cost: Float[Array, "N"],
    proposals: Proposals,
    truth: Float[Array, "N H4 W4"],
    object_valid: Bool[Array, "N"],
) -> Float[Array, ""]:
    """What the null cost learns from: it shall lie above a present object's best cost, below an absent one's.

    Logistic in their difference. An object is present where some proposal overlaps its truth by half; with
    none to choose, the null column is right. The costs themselves learn by `match_loss`.
    """
    best = jnp.min(jnp.where(proposals.valid[None, :], cost, jnp.inf), axis=1)
    iou = matching.mask_iou(truth > 0.5, proposals.masks > 0.5)
    present = jnp.max(jnp.where(proposals.valid[None, :], iou, 0.0), axis=1) > 0.5
    best = jax.lax.stop_gradient(jnp.where(jnp.isfinite(best), best, 0.0))
    margin = (null_cost - best) / PRESENCE_TEMPERATURE
    return _mean(optax.losses.sigmoid_binary_cross_entropy(margin, present.astype(jnp.float32)), object_valid)


def soft_iou(prob: Float[Array, "N H4 W4"], truth: Float[Array, "N H4 W4"]) -> Float[Array, "N"]:
    """Intersection over union of soft masks; one cell is added to both, so that two empty masks give 1."""
    prob = prob.astype(jnp.float32)
    intersection = jnp.sum(prob * truth, axis=(1, 2))
    union = jnp.sum(prob + truth - prob * truth, axis=(1, 2))
    return (intersection + 1.0) / (union + 1.0)


def hard_iou(mask: Bool[Array, "N H4 W4"], truth: Bool[Array, "N H4 W4"]) -> Float[Array, "N"]:
    """Intersection over union, 1 where both masks are empty."""
    intersection, union = jnp.sum(mask & truth, axis=(1, 2)), jnp.sum(mask | truth, axis=(1, 2))
    return jnp.where(union > 0, intersection / jnp.maximum(union, 1), 1.0)


def cross_entropy(prob: Float[Array, "N+1 H4 W4"], truth: Float[Array, "N H4 W4"]) -> Float[Array, "H4 W4"]:
    """Cross-entropy of each cell against the shares that background and objects have of it."""
    background = jnp.clip(1.0 - jnp.sum(truth, axis=0, keepdims=True), 0.0, 1.0)
    shares = jnp.concatenate([background, truth])
    return -jnp.sum(shares * jnp.log(jnp.maximum(prob.astype(jnp.float32), TINY)), axis=0)


def bootstrapped(
    cross_entropy: Float[Array, "T H4 W4"],
    counts: Bool[Array, "T H4 W4"],
    step: Array,
    config: LossConfig,
) -> Float[Array, ""]:
    """The mean cross-entropy of a clip's hardest cells, of which ever fewer count (DESIGN §8).

    The share is 1 until `config.hard_begin` and falls linearly to `config.hard_share` at `config.hard_end`.
    Cells that do not count in `counts` are never among them; a clip without any gives 0.
    """
    run = max(config.hard_end - config.hard_begin, 1)
    progress = jnp.clip((step - config.hard_begin) / run, 0.0, 1.0)
    share = 1.0 + progress * (config.hard_share - 1.0)
    values = jnp.where(counts, jax.lax.stop_gradient(cross_entropy), -1.0).ravel()
    number = jnp.ceil(share * jnp.sum(counts)).astype(jnp.int32)
    threshold = jnp.sort(values, descending=True)[jnp.maximum(number - 1, 0)]
    return _mean(cross_entropy, counts & (cross_entropy >= threshold))


def correspondence(
    query_key: Float[Array, "T h w Ck"],
    memory_key: Float[Array, "h w Ck"],
    query_origins: Float[Array, "T h w 3"],
    memory_origins: Float[Array, "h w 3"],
    memory_valid: Bool[Array, "h w"],
    config: read_lib.ReadConfig,
) -> dict[str, Float[Array, ""]]:
    """Compares what the keys of later frames attend to in frame 0 with the cells that show the same point.

    A memory cell is near a cell if it shows the same layer within `CELL` pixels of its origin; a cell counts
    if some memory cell is near. The loss of a cell is -log of the share of attention, the softmax of the
    read's own affinity over all memory cells, that goes to near ones. It does not punish attention to a
    single near cell: trained keys attend to one or two.

    Args:
      query_key: keys of frames 1...
      memory_key: keys of frame 0.
      query_origins: (layer, x, y) of their cells, x and y in pixels, layer -1 for unknown (`data.origins`).
      memory_origins: likewise for frame 0.
      memory_valid: cells inside the real frame.
      config: how the memory is read.

    Returns:
      "correspondence", the mean loss of the cells that count, and "correspondence_accuracy", the
      share of them whose best memory cell is one that makes them count; both 0 where no cell counts.
    """
    valid = memory_valid.ravel()
    layer, points = query_origins[..., 0].ravel(), query_origins[..., 1:].reshape(-1, 2)
    memory_layer, memory_points = memory_origins[..., 0].ravel(), memory_origins[..., 1:].reshape(-1, 2)
    same = (layer[:, None] == memory_layer[None]) & (layer[:, None] >= 0) & valid[None]
    squared = jnp.sum(jnp.square(points[:, None] - memory_points[None]), axis=-1)
    near = same & (squared <= CELL**2)
    counts = jnp.any(near, axis=-1)

    channels = query_key.shape[-1]
    affinity_of = read_lib.scaled_affinity(query_key.reshape(-1, channels), config)
    logits = affinity_of(memory_key.reshape(-1, channels)).astype(jnp.float32)
    # Cells that do not count are near everything here, so that nothing infinite is multiplied by 0.
    of_near = jax.nn.logsumexp(logits, axis=-1, where=near | ~counts[:, None])
    loss = jax.nn.logsumexp(logits, axis=-1, where=valid[None] | ~counts[:, None]) - of_near
    best = jnp.argmax(jnp.where(valid[None], logits, -jnp.inf), axis=-1)
    found = jnp.take_along_axis(near, best[:, None], axis=-1)[:, 0]
    return {
        "correspondence": _mean(loss, counts),
        "correspondence_accuracy": _mean(found.astype(jnp.float32), counts),
    }


def mean_over_frames(terms: Float[Array, "T"], counts: Bool[Array, "T"]) -> Float[Array, ""]:
    """The mean of a term over the frames that count; 0 if none does."""
    return _mean(terms, counts)


def _mean(x: Array, counts: Array) -> Float[Array, ""]:
    return jnp.sum(jnp.where(counts, x, 0.0)) / jnp.maximum(jnp.sum(counts), 1)
