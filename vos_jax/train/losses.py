"""The terms of one clip's loss (docs/method.md, "Losses and optimiser").

Masks are compared at stride 4, the resolution of the predictions. The ground truth is the share of a cell
that an object covers, so its cross-entropy is the average over the cell's pixels, at a sixteenth of the cost.

Each term is normalised by the counts of its own clip (objects, frames, hard cells). So the loss of a batch is
the mean over clips, independent of their distribution over devices.

Most terms are functions of one predicted frame, `FrameTerm`, listed by `frame_terms`. A new term of the
package is a function, its entry there and its weight in `LossConfig`; a user's own term is an entry of
`LossConfig.terms`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vos_jax import checks, geometry, user_code
from vos_jax.errors import VosError
from vos_jax.models import matching, vos
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib
from vos_jax.ops import masks
from vos_jax.typing import Array, Bool, Float

# The terms of the loss; `LossConfig` has a weight of the same name for each.
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
# Other names in metrics.jsonl.
METRICS = (
    "step",
    "loss",
    "j",
    "j_coarse",
    "j_propagated",
    "correspondence_accuracy",
    "grad_norm",
    "lr",
    "clips_per_s",
    "data_share",
)
# Lower bound of probabilities, so that the logarithm and its gradient are finite.
TINY = 1e-12
# Costs are cosines and IoUs, for which 0.1 is a clear difference.
PRESENCE_TEMPERATURE = 0.1
# Radius in pixels around a point, within which a cell is near it.
CELL = float(geometry.MEMORY_STRIDE)


class PredictedFrame(flax.struct.PyTreeNode):
    """One predicted frame of a clip and its truth; `jit` does not compute what no term uses."""

    prob: Float[Array, "N+1 H/4 W/4"]  # final masks, background first; sum to 1
    truth: Float[Array, "N H/4 W/4"]  # share of a cell that an object covers; 0 outside what is valid
    object_valid: Bool[Array, "N"]  # objects that count
    cell_valid: Bool[Array, "H/4 W/4"]  # cells inside the real frame
    out: vos.Out  # coarse masks, proposals, templates, matching
    prev_prob: Float[Array, "N H/4 W/4"] | None = None  # previous masks, as the model had them
    encoded: state_lib.Encoded | None = None  # key, embedding and backbone features of the frame
    read: read_lib.Read | None = None  # what the memory says about it


FrameTerm = Callable[[PredictedFrame], Float[Array, ""]]
"""Function of one predicted frame that returns a term of the loss. The mean over frames with truth counts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """A term of the loss that is not the package's own.

    Attributes:
      function: `(frame: losses.PredictedFrame) -> []`; its mean over the frames with truth is the term.
      weight: Its factor in the loss; 0 = the term is logged and not learned from.

    Raises:
      VosError: a weight below 0.
    """

    function: Callable
    weight: float = 1.0

    def __post_init__(self):
        checks.at_least(self, 0, "weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms, and settings of the bootstrapped cross-entropy.

    Attributes:
      match: Weight of the squared error of the similarities (`losses.match_loss`).
      presence: Weight of the loss of the null cost (`losses.presence_loss`).
      coarse_iou: Weight of the soft IoU of the coarse masks.
      refined_ce: Weight of the bootstrapped cross-entropy of the final masks.
      refined_iou: Weight of the soft IoU of the final masks.
      objectness: Weight of the proposal network's objectness: whether a location is in an object.
      centerness: Weight of its centerness: how central a location is in its object.
      box: Weight of the GIoU of its boxes.
      mask_bce: Weight of the cross-entropy of its masks.
      mask_dice: Weight of the Dice of its masks.
      correspondence: Weight of the attention of keys to cells of a pseudo-clip that show the same point; 0 =
        not computed.
      match_iou: IoU with the object's ground truth above which a proposal may be its match.
      hard_share: Final share of a clip's cells, those of highest loss, that the cross-entropy uses.
      hard_begin: Step at which that share begins to fall from 1.
      hard_end: Step at which it reaches `hard_share`.
      terms: Further terms by name, `losses.Term`s of a config file (docs/experiments.md). The name is that of
        the term's metric in metrics.jsonl.

    Raises:
      VosError: a value out of range, or a term with a name that is taken.
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
    terms: dict[str, Term] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self):
        checks.at_least(self, 0, *TERMS)
        if taken := sorted({*TERMS, *METRICS} & set(self.terms)):
            raise VosError(f"terms.{taken[0]}: the name is taken; choose another for the term")
        if not 0 < self.hard_share <= 1:
            raise VosError(f"hard_share is {self.hard_share}; it must be in (0, 1]")
        if not 0 <= self.hard_begin <= self.hard_end:
            raise VosError(
                f"hard_begin is {self.hard_begin} and hard_end {self.hard_end}; "
                "set 0 <= hard_begin <= hard_end"
            )


def total(terms: dict[str, Float[Array, ""]], config: LossConfig) -> Float[Array, ""]:
    """Returns the weighted sum of the given terms."""
    weights = {name: getattr(config, name) for name in TERMS}
    weights |= {name: term.weight for name, term in config.terms.items()}
    weighted: Any = sum(
        weight * terms[name] for name, weight in weights.items() if name in terms
    )  # not empty
    return weighted


def frame_terms(config: LossConfig) -> dict[str, FrameTerm]:
    """Returns the terms that are functions of one predicted frame, by name."""
    own = {name: functools.partial(_checked, name, term.function) for name, term in config.terms.items()}
    return {
        "match": functools.partial(match_loss, match_iou=config.match_iou),
        "presence": presence_loss,
        "coarse_iou": coarse_iou_loss,
        "refined_iou": refined_iou_loss,
        **own,
    }


def mask_losses(
    frame: PredictedFrame, config: LossConfig
) -> tuple[dict[str, Float[Array, ""]], Float[Array, "H4 W4"]]:
    """Computes the terms of ONE predicted frame, except those of the proposal network.

    Args:
      frame: the prediction and its truth.
      config: see `LossConfig`.

    Returns:
      The terms of `frame_terms` and, not part of the loss, the IoUs "j", "j_coarse", "j_propagated" of hard
      masks, means over the valid objects; and the cross-entropy of every cell, for `bootstrapped`, which
      needs all frames of the clip.
    """
    frame = _only_valid(frame)
    terms = {name: term(frame) for name, term in frame_terms(config).items()}
    truth, inside = frame.truth > 0.5, frame.cell_valid[None]
    propagated = frame.out.proposals.masks[-truth.shape[0] :]
    best = masks.one_hot(jnp.argmax(frame.prob, axis=0), truth.shape[0])
    for name, mask in (
        ("j", best & inside),
        ("j_coarse", frame.out.coarse > 0.5),
        ("j_propagated", propagated > 0.5),
    ):
        terms[name] = mean(hard_iou(mask, truth), frame.object_valid)
    return terms, cross_entropy(frame.prob, frame.truth)


def _only_valid(frame: PredictedFrame) -> PredictedFrame:
    """Returns the frame with 0 in the truth and the intermediate masks of what is not valid."""
    inside, out = frame.cell_valid[None], frame.out
    # Propagated masks may reach into the padding.
    proposals = out.proposals.replace(masks=jnp.where(inside, out.proposals.masks, 0.0))
    return frame.replace(
        truth=jnp.where(inside & frame.object_valid[:, None, None], frame.truth, 0.0),
        out=out.replace(proposals=proposals, coarse=jnp.where(inside, out.coarse, 0.0)),
    )


def _checked(name: str, term: FrameTerm, frame: PredictedFrame) -> Float[Array, ""]:
    """Returns a user's term; VosError where it is no number."""
    value = user_code.call(f"train.loss.terms.{name}", term, frame)
    if not isinstance(value, int | float) and getattr(value, "shape", None) != ():
        found = f"an array {list(value.shape)}" if hasattr(value, "shape") else repr(value)
        raise VosError(
            f"train.loss.terms.{name}: the function returned {found}; return a number, such as "
            "losses.mean(values, counts)"
        )
    return jnp.asarray(value, jnp.float32)


def coarse_iou_loss(frame: PredictedFrame) -> Float[Array, ""]:
    """Returns 1 - the soft IoU of the masks before refinement, the mean over valid objects."""
    return mean(1.0 - soft_iou(frame.out.coarse, frame.truth), frame.object_valid)


def refined_iou_loss(frame: PredictedFrame) -> Float[Array, ""]:
    """Returns 1 - the soft IoU of the final masks, the mean over valid objects."""
    prob = jnp.where(frame.cell_valid[None], frame.prob[1:], 0.0)
    return mean(1.0 - soft_iou(prob, frame.truth), frame.object_valid)


def match_loss(frame: PredictedFrame, match_iou: float = 0.0) -> Float[Array, ""]:
    """Returns L_match of DMM-Net: mean squared error of the similarities against the true assignment.

    The true assignment is greedy: the pair of highest IoU first, each object and proposal once. An object
    without an overlapping proposal gets none. The mean is over pairs of a valid object and a valid
    proposal.

    Args:
      frame: the prediction and its truth.
      match_iou: least IoU of a match, exclusive.
    """
    proposals, object_valid = frame.out.proposals, frame.object_valid
    iou = jax.lax.stop_gradient(matching.mask_iou(frame.truth > 0.5, proposals.masks > 0.5))
    # Costs are -IoU, so an object without a higher IoU takes its null column.
    null_cost = jnp.full(object_valid.shape, -max(match_iou, 1e-6))
    assignment = matching.greedy(
        -iou, null_cost, object_valid, proposals.valid, config=matching.MatchingConfig()
    )
    target = jax.lax.stop_gradient(assignment[:, :-1])
    counts = object_valid[:, None] & proposals.valid[None, :]
    return mean(jnp.square(frame.out.match.similarity.astype(jnp.float32) - target), counts)


def presence_loss(frame: PredictedFrame) -> Float[Array, ""]:
    """Trains the null cost to exceed the best cost of a present object and stay below an absent one's.

    Logistic loss of their difference. An object is present if some proposal has an IoU above 0.5 with its
    ground truth. There is no gradient to the other costs, which `match_loss` trains.
    """
    proposals, match = frame.out.proposals, frame.out.match
    best = jnp.min(jnp.where(proposals.valid[None, :], match.cost, jnp.inf), axis=1)
    iou = matching.mask_iou(frame.truth > 0.5, proposals.masks > 0.5)
    present = jnp.max(jnp.where(proposals.valid[None, :], iou, 0.0), axis=1) > 0.5
    best = jax.lax.stop_gradient(jnp.where(jnp.isfinite(best), best, 0.0))
    margin = (match.null_cost - best) / PRESENCE_TEMPERATURE
    entropy = optax.losses.sigmoid_binary_cross_entropy(margin, present.astype(jnp.float32))
    return mean(entropy, frame.object_valid)


def soft_iou(prob: Float[Array, "N H4 W4"], truth: Float[Array, "N H4 W4"]) -> Float[Array, "N"]:
    """Returns the IoU of soft masks; one cell is added to both areas, so that two empty masks give 1."""
    prob = prob.astype(jnp.float32)
    intersection = jnp.sum(prob * truth, axis=(1, 2))
    union = jnp.sum(prob + truth - prob * truth, axis=(1, 2))
    return (intersection + 1.0) / (union + 1.0)


def hard_iou(mask: Bool[Array, "N H4 W4"], truth: Bool[Array, "N H4 W4"]) -> Float[Array, "N"]:
    """Returns the IoU, 1 if both masks are empty."""
    intersection, union = jnp.sum(mask & truth, axis=(1, 2)), jnp.sum(mask | truth, axis=(1, 2))
    return jnp.where(union > 0, intersection / jnp.maximum(union, 1), 1.0)


def cross_entropy(prob: Float[Array, "N+1 H4 W4"], truth: Float[Array, "N H4 W4"]) -> Float[Array, "H4 W4"]:
    """Returns each cell's cross-entropy against the shares of background and objects."""
    background = jnp.clip(1.0 - jnp.sum(truth, axis=0, keepdims=True), 0.0, 1.0)
    shares = jnp.concatenate([background, truth])
    return -jnp.sum(shares * jnp.log(jnp.maximum(prob.astype(jnp.float32), TINY)), axis=0)


def bootstrapped(
    cross_entropy: Float[Array, "T H4 W4"],
    counts: Bool[Array, "T H4 W4"],
    step: Array,
    config: LossConfig,
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of a clip's hardest cells, whose share falls during training.

    The share is 1 until `config.hard_begin` and falls linearly to `config.hard_share` at `config.hard_end`.
    Only cells marked in `counts` are used; the result is 0 if there are none.
    """
    run = max(config.hard_end - config.hard_begin, 1)
    progress = jnp.clip((step - config.hard_begin) / run, 0.0, 1.0)
    share = 1.0 + progress * (config.hard_share - 1.0)
    values = jnp.where(counts, jax.lax.stop_gradient(cross_entropy), -1.0).ravel()
    number = jnp.ceil(share * jnp.sum(counts)).astype(jnp.int32)
    threshold = jnp.sort(values, descending=True)[jnp.maximum(number - 1, 0)]
    return mean(cross_entropy, counts & (cross_entropy >= threshold))


def correspondence(
    query_key: Float[Array, "T h w Ck"],
    memory_key: Float[Array, "h w Ck"],
    query_origins: Float[Array, "T h w 3"],
    memory_origins: Float[Array, "h w 3"],
    memory_valid: Bool[Array, "h w"],
    config: read_lib.ReadConfig,
) -> dict[str, Float[Array, ""]]:
    """Trains the keys of later frames to attend to the cells of frame 0 that show the same point.

    A memory cell is near a cell if it shows the same layer within `CELL` pixels of its origin; a cell counts
    if some memory cell is near. The loss of a cell is -log of the attention to near cells, with the attention
    as the softmax of the read's affinity over all memory cells. Attention to a single near cell is enough:
    trained keys attend to one or two.

    Args:
      query_key: keys of frames 1...
      memory_key: keys of frame 0.
      query_origins: (layer, x, y) of their cells, x and y in pixels, layer -1 for unknown (`data.origins`).
      memory_origins: of the cells of frame 0.
      memory_valid: cells inside the real frame.
      config: settings of the read.

    Returns:
      "correspondence", the mean loss of the cells that count, and "correspondence_accuracy", the share of
      them whose best memory cell is near; both 0 if no cell counts.

    Source: docs/method.md, "Correspondence".
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
    # Cells that do not count are near all cells here, so that no infinity is multiplied by 0.
    of_near = jax.nn.logsumexp(logits, axis=-1, where=near | ~counts[:, None])
    loss = jax.nn.logsumexp(logits, axis=-1, where=valid[None] | ~counts[:, None]) - of_near
    best = jnp.argmax(jnp.where(valid[None], logits, -jnp.inf), axis=-1)
    found = jnp.take_along_axis(near, best[:, None], axis=-1)[:, 0]
    return {
        "correspondence": mean(loss, counts),
        "correspondence_accuracy": mean(found.astype(jnp.float32), counts),
    }


def mean(x: Float[Array, "*n"], counts: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Returns the mean of the entries that count; 0 if none does."""
    return jnp.sum(jnp.where(counts, x, 0.0)) / jnp.maximum(jnp.sum(counts), 1)
