"""The loss of a batch of clips: a pure function of parameters, clips, key and step.

Features, keys and proposals are computed for all frames of a clip at once. Then `lax.scan` runs `track` and
`step.write`, the functions of test time, over the frames. See docs/method.md, "Losses and optimiser".
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vos_jax import checks, geometry
from vos_jax.errors import VosError
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.models import vos
from vos_jax.ops import masks, target
from vos_jax.train import corruption as corruption_lib
from vos_jax.train import losses as losses_lib
from vos_jax.train import optim, oracle, proposal_losses
from vos_jax.typing import Array, Bool, Float, PRNGKeyArray, Shaped, UInt8

Batch = dict[str, Array]  # `data.clips.ClipArrays` with a leading axis B, and optionally "clip" [B]
Metrics = dict[str, Float[Array, ""]]
LossFn = Callable[[Any, Batch, PRNGKeyArray, Array], tuple[Float[Array, ""], Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipLossConfig(losses_lib.LossConfig):
    """Settings of the loss of a clip, in addition to the weights of the terms.

    Attributes:
      remat: Recompute activations for the gradient, frame by frame, instead of storing them: less memory,
        more time.
      unroll: On CPU, unroll the loop over frames. A rolled loop compiles faster, which long clips may need,
        but there the gradients of its convolutions take about 30 times as long (XLA uses Eigen only outside
        loops).
      sampling_begin: Until this step the previous mask is the ground truth.
      sampling_prob: After `sampling_begin`, probability in each frame that the previous mask is the
        prediction.
      oracle_prob: Share of frames at step 0 whose proposals are jittered true boxes with distractors.
      oracle_end: Step at which that share reaches 0; 0 = always the network's own proposals.
      burn_in: Frames after the first that are segmented and written without loss or gradient, so that the
        memory holds the model's own masks, as late in a video.
      corruption: Errors in the masks that are written to the memory.

    Raises:
      VosError: a value out of range.
    """

    remat: bool = False
    unroll: bool = True
    sampling_begin: int = 1000
    sampling_prob: float = 0.5
    oracle_prob: float = 0.5
    oracle_end: int = 0
    burn_in: int = 0
    corruption: corruption_lib.CorruptionConfig = corruption_lib.CorruptionConfig()

    def __post_init__(self):
        super().__post_init__()
        checks.probability(self, "sampling_prob", "oracle_prob")
        checks.at_least(self, 0, "sampling_begin", "oracle_end", "burn_in")


def make_loss_fn(model: vos.VOS, config: ClipLossConfig, frozen: tuple[str, ...] = ()) -> LossFn:
    """Returns `loss_fn(params, clips_batch, key, step) -> (loss, metrics)`.

    `clips_batch` holds `data.clips.ClipArrays` with a leading axis B and optionally "clip" [B], each clip's
    number in the global batch (default: from 0). `key` is the run's key; it is folded with `step` and the
    clip's number. The loss is the mean over clips. Metrics are the scalars "loss", `losses.TERMS`, those of
    `config.terms`, the IoUs of `losses.mask_losses`, and "correspondence_accuracy", without proposal and
    correspondence terms if these are not computed.

    Args:
      model: the method.
      config: see `ClipLossConfig`.
      frozen: prefixes of parameters that are not trained, as `optim.OptimConfig.frozen`; their activations
        are not stored and their gradients not computed.
    """

    # Clips skip frames, so that their frames are as far apart as kept frames of a video: write every frame.
    memory = dataclasses.replace(model.config.memory, every=1)
    model = vos.VOS(config=dataclasses.replace(model.config, memory=memory))

    def loss_fn(
        params: Any, clips_batch: Batch, key: PRNGKeyArray, step: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        params = optim.freeze(params, frozen)
        batch = dict(clips_batch)
        clip = batch.pop("clip", jnp.arange(batch["dataset"].shape[0]))
        step_key = jax.random.fold_in(key, step)
        keys = jax.vmap(lambda number: jax.random.fold_in(step_key, number))(clip)
        of_clip = functools.partial(clip_terms, model, config)
        terms = jax.vmap(of_clip, in_axes=(None, 0, 0, None))(params, batch, keys, step)
        metrics = jax.tree.map(jnp.mean, terms)
        loss = losses_lib.total(metrics, config)
        return loss, {"loss": loss, **metrics}

    return loss_fn


def clip_terms(
    model: vos.VOS, config: ClipLossConfig, params: Any, clip: Batch, key: PRNGKeyArray, step: Array
) -> Metrics:
    """Returns the terms of ONE clip's loss, each normalised by the clip's own counts.

    The ground truth of frame 0 is written to the memory; frames 1.. are predicted in order and their
    predictions written, so gradients flow from later frames to earlier ones. `config.burn_in` frames after
    frame 0 have no loss and no gradient, and `config.corruption` changes the written masks.

    Args:
      model: the method.
      config: see `ClipLossConfig`.
      params: the model's parameters.
      clip: `data.clips.ClipArrays`.
      key: of this clip and step.
      step: of training.
    """
    frames, frame_size = clip["frames"], clip["frame_size"].astype(jnp.float32)
    length = frames.shape[0]
    if config.burn_in > length - 2:
        raise VosError(
            f"train.loss.burn_in is {config.burn_in}, and clips have {length} frames: no frame with a loss "
            f"is left; set it to at most {length - 2}, or make train.data.clip_length larger"
        )
    truth, object_valid = _true_objects(clip)
    grid = truth.shape[2:]
    annotated = clip["truth_valid"] & clip["frame_valid"]
    cell_valid = masks.pixel_valid(frame_size, (grid[0], grid[1]), geometry.MASK_STRIDE)

    params = _choose_lambda(params, clip["dataset"], model.config.dataset)
    still = jax.lax.stop_gradient(params)
    late = slice(1 + config.burn_in, None)
    encoded = _encode(model, config, params, still, frames, frame_size)
    detections = encoded.detections
    oracle_key, sampling_key, corruption_key = jax.random.split(key, 3)
    proposals = _proposals(
        model, config, encoded.proposals, truth, object_valid, annotated, frame_size, oracle_key, step
    )
    encoded = encoded.replace(detections=None, proposals=proposals)

    state = _first_state(model, params, encoded, frames, truth[0], object_valid, frame_size)

    segment = functools.partial(_segment_frame, model, config, object_valid, cell_valid)
    use_truth = _use_truth(config, annotated, sampling_key, step)
    inputs = (encoded, truth, use_truth, jax.random.split(corruption_key, length))
    if config.burn_in:
        early = jax.tree.map(lambda x: x[1 : late.start], inputs)
        state, _ = jax.lax.scan(
            functools.partial(segment, still, learns=False), state, early, unroll=_unroll(config)
        )
    learn = functools.partial(segment, params, learns=True)
    if config.remat:
        learn = jax.checkpoint(learn, prevent_cse=_unroll(config))
    inputs = jax.tree.map(lambda x: x[late], inputs)
    _, (terms, cross_entropy) = jax.lax.scan(learn, state, inputs, unroll=_unroll(config))

    counts = annotated[late]
    terms = {name: losses_lib.mean(values, counts) for name, values in terms.items()}
    hard = counts[:, None, None] & cell_valid[None] & jnp.any(object_valid)
    terms["refined_ce"] = losses_lib.bootstrapped(cross_entropy, hard, step, config)
    if config.correspondence:
        terms |= _correspondence(model, encoded.key, clip, late)
    if detections is not None:
        terms |= _proposal_terms(detections, clip, annotated)
    return terms


def _unroll(config: ClipLossConfig) -> bool:
    """Returns whether the loop over frames is unrolled; on accelerators it would only compile for longer."""
    return config.unroll and target.is_cpu()


def _true_objects(clip: Batch) -> tuple[Float[Array, "T N H/4 W/4"], Bool[Array, "N"]]:
    """Returns the ground truth of the objects in the first frame, and marks these objects."""
    truth = truth_of(clip["ids"], clip["object_valid"].shape[0])
    # An object that the first frame does not show cannot be segmented.
    object_valid = clip["object_valid"] & (jnp.max(truth[0], axis=(1, 2)) > 0)
    return jnp.where(object_valid[None, :, None, None], truth, 0.0), object_valid


def _segment_frame(
    model: vos.VOS,
    config: ClipLossConfig,
    object_valid: Bool[Array, "N"],
    cell_valid: Bool[Array, "H/4 W/4"],
    params: Any,
    state: state_lib.State,
    inputs: tuple[state_lib.Encoded, Float[Array, "N H/4 W/4"], Bool[Array, ""], PRNGKeyArray],
    *,
    learns: bool,
) -> tuple[state_lib.State, tuple]:
    """Segments a frame and writes it to the memory: the body of the scan over frames.

    Args:
      model: the method.
      config: see `ClipLossConfig`.
      object_valid: objects that exist.
      cell_valid: cells inside the real frame.
      params: the parameters; without a gradient if not `learns`.
      state: before the frame.
      inputs: the encoded frame, its ground truth, whether that is the next frame's previous mask, and the key
        of the corruption.
      learns: whether the masks have a gradient.

    Returns:
      The state after the frame, and `losses.mask_losses`.
    """
    encoded, truth, use_truth, key = inputs
    prev_prob = state.prev_prob
    prediction = model.track(params, encoded, state, train=True)
    prob = masks.aggregate(prediction.prob, object_valid)
    prob = prob if learns else jax.lax.stop_gradient(prob)
    corrupted = None
    if config.corruption.enabled:
        corrupted = corruption_lib.corrupt(prob[1:], object_valid, key, config.corruption)
    state = step_lib.write(
        model,
        params,
        encoded,
        state,
        prob,
        prompted=jnp.zeros_like(object_valid),
        slot_attention=prediction.read.slot_attention,
        memory_prob=corrupted,
    )
    predicted = losses_lib.PredictedFrame(
        prob=prob,
        truth=truth,
        object_valid=object_valid,
        cell_valid=cell_valid,
        out=prediction.out,
        prev_prob=prev_prob,
        encoded=encoded,
        read=prediction.read,
    )
    terms = losses_lib.mask_losses(predicted, config)
    return state.replace(prev_prob=jnp.where(use_truth, truth, state.prev_prob)), terms


def _first_state(
    model: vos.VOS,
    params: Any,
    encoded: state_lib.Encoded,
    frames: Shaped[Array, "T H W 3"],
    truth: Float[Array, "N H/4 W/4"],
    object_valid: Bool[Array, "N"],
    frame_size: Float[Array, "2"],
) -> state_lib.State:
    """Returns the state after the first frame, with its ground truth in the memory."""
    length, height, width, _ = frames.shape
    slots = max(length - 1, 1 + memory_lib.UNPINNED_SLOTS)
    capacity = min(model.config.memory.capacity, slots)
    state = state_lib.init_state(model, truth.shape[0], (height, width), frame_size, capacity=capacity)
    state = state.replace(object_valid=object_valid)
    first = jax.tree.map(lambda x: x[0], encoded)
    prob = masks.aggregate(truth, object_valid)
    return step_lib.write(model, params, first, state, prob, prompted=object_valid)


def _correspondence(model: vos.VOS, key: Float[Array, "T h w Ck"], clip: Batch, late: slice) -> Metrics:
    """Returns the correspondence terms of the `late` frames with the first one."""
    origins = jnp.where(clip["frame_valid"][:, None, None, None], clip["origins"], -1.0)
    frame_size = clip["frame_size"].astype(jnp.float32)
    valid = masks.pixel_valid(frame_size, (key.shape[1], key.shape[2]), geometry.MEMORY_STRIDE)
    return losses_lib.correspondence(key[late], key[0], origins[late], origins[0], valid, model.config.read)


def _proposal_terms(
    detections: proposals_lib.Detections, clip: Batch, annotated: Bool[Array, "T"]
) -> Metrics:
    """Returns the terms of the proposal network, as means over the annotated frames."""
    frame_size, valid = clip["frame_size"].astype(jnp.float32), clip["instance_valid"]
    of_frame = functools.partial(proposal_losses.proposal_losses, frame_size=frame_size)
    # The last label is IGNORE.
    labels = truth_of(jnp.minimum(clip["instances"], valid.shape[0] + 1), valid.shape[0] + 1)
    found = jax.vmap(
        lambda detections, labels: of_frame(
            detections, labels[:-1], valid, ignored=labels[-1], exhaustive=clip["exhaustive"]
        )
    )(detections, labels)
    return {name: losses_lib.mean(values, annotated) for name, values in found.items()}


def truth_of(ids: UInt8[Array, "T H W"], num_objects: int) -> Float[Array, "T N H/4 W/4"]:
    """Returns the share of each stride-4 cell that each object 1..N covers."""
    covers = jax.vmap(lambda x: masks.one_hot(x, num_objects).astype(jnp.float32))(ids)
    return masks.downsample(covers, geometry.MASK_STRIDE)


def _choose_lambda(params: Any, dataset: Array, name: str) -> Any:
    """Returns the parameters with the lambda of data set number `dataset` under the model's `name`.

    Data sets are numbered in the sorted order of their names.
    """
    lambdas = params["matcher"]["lambda_logit"]
    chosen = jnp.stack([lambdas[key] for key in sorted(lambdas)])[dataset]
    return {**params, "matcher": {**params["matcher"], "lambda_logit": {name: chosen}}}


def _encode(
    model: vos.VOS,
    config: ClipLossConfig,
    params: Any,
    still: Any,
    frames: Shaped[Array, "T H W 3"],
    frame_size: Float[Array, "2"],
) -> state_lib.Encoded:
    """Encodes all frames of a clip; burn-in frames with the parameters `still`, without a gradient."""
    encode = functools.partial(model.encode, frame_size=frame_size)
    burned = slice(1, 1 + config.burn_in)
    learned = jnp.concatenate([frames[:1], frames[burned.stop :]])
    if config.remat:
        encode_again = jax.checkpoint(encode, prevent_cse=_unroll(config))
        _, encoded = jax.lax.scan(
            lambda none, frame: (none, encode_again(params, frame)), None, learned, unroll=_unroll(config)
        )
    else:
        encoded = jax.vmap(functools.partial(encode, params))(learned)
    if not config.burn_in:
        return encoded
    early = jax.vmap(functools.partial(encode, still))(frames[burned])
    return jax.tree.map(lambda late, early: jnp.concatenate([late[:1], early, late[1:]]), encoded, early)


def _proposals(
    model: vos.VOS,
    config: ClipLossConfig,
    network: proposals_lib.Proposals | None,
    truth: Float[Array, "T N H/4 W/4"],
    object_valid: Bool[Array, "N"],
    annotated: Bool[Array, "T"],
    frame_size: Array,
    key: PRNGKeyArray,
    step: Array,
) -> proposals_lib.Proposals | None:
    """Returns the network's proposals of all frames; early in training, the oracle's in some frames."""
    if network is None or config.oracle_end == 0:
        return network
    places = model.config.proposals.capacity

    def draw(truth: Float[Array, "N H/4 W/4"], key: PRNGKeyArray) -> proposals_lib.Proposals:
        capacity = max(places, truth.shape[0])
        found = oracle.oracle(truth, object_valid, frame_size, key, capacity=capacity)
        return jax.tree.map(lambda x: x[:places], found)

    draw_key, choice_key = jax.random.split(key)
    true = jax.vmap(draw)(truth, jax.random.split(draw_key, truth.shape[0]))
    share = config.oracle_prob * jnp.clip(1.0 - step / config.oracle_end, 0.0, 1.0)
    chosen = annotated & jax.random.bernoulli(choice_key, share, annotated.shape)

    def choose(true: Array, network: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (true.ndim - 1)), true, network.astype(true.dtype))

    return jax.tree.map(choose, true, network)


def _use_truth(
    config: ClipLossConfig, annotated: Bool[Array, "T"], key: PRNGKeyArray, step: Array
) -> Bool[Array, "T"]:
    """Marks the frames whose previous mask is the ground truth (scheduled sampling)."""
    prediction = jnp.where(step >= config.sampling_begin, config.sampling_prob, 0.0)
    return annotated & ~jax.random.bernoulli(key, prediction, annotated.shape)
