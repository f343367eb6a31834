"""The loss of a batch of clips: a pure function of parameters, clips, key and step (DESIGN §8).

What depends on a frame alone - features, keys, proposals - is computed for all frames of a clip at once; then
`rollout.frame_step`, the same as at test time, carries the memory through the clip under `lax.scan`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vos_jax import checks, geometry
from vos_jax.errors import VosError
from vos_jax.inference import rollout
from vos_jax.models import masks, proposal_sources, vos
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib
from vos_jax.train import corruption as corruption_lib
from vos_jax.train import losses as losses_lib
from vos_jax.train import optim, proposal_losses
from vos_jax.typing import Array, Bool, Float, PRNGKeyArray, Shaped, UInt8

Batch = dict[str, Array]  # `data.clips.ClipArrays` with a leading axis B, and optionally "clip" [B]
Metrics = dict[str, Float[Array, ""]]
LossFn = Callable[[Any, Batch, PRNGKeyArray, Array], tuple[Float[Array, ""], Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipLossConfig(losses_lib.LossConfig):
    """How a clip is learned from, besides the weights of the terms.

    Attributes:
      remat: Whether activations are computed again for the gradient, frame by frame, instead of kept: less
        memory, more time.
      unroll: Whether the program holds every frame of a clip, or one frame and a loop. A loop compiles
        faster, which long clips may need, but on CPU the gradients of its convolutions take some 30 times as
        long (XLA rewrites them for Eigen outside of loops only).
      sampling_begin: Until this step the previous mask is the true one.
      sampling_prob: From then on it is the prediction with this probability, in each frame of each clip.
      oracle_prob: Share of frames whose proposals are jittered true boxes with distractors, at step 0.
      oracle_end: Step at which that share has fallen to 0; 0 = the network's own proposals always.
      burn_in: Frames after the first that are segmented and remembered without loss or gradient: the memory
        then holds the model's own masks, as late in a video.
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

    `clips_batch` holds `data.clips.ClipArrays` with a leading axis B and optionally "clip" [B], each
    clip's number in the batch of all devices, by which its randomness is drawn; without it, clips count from
    0. `key` is the run's: it is folded by `step` and clip. The loss is the mean over clips; metrics are the
    scalars "loss", `losses.TERMS`, the IoUs of `losses.mask_losses`, and "correspondence_accuracy". Terms of
    proposals and of correspondence are there only where they are computed.

    Args:
      model: the method.
      config: how a clip is learned from.
      frozen: prefixes of parameters that do not learn, as `optim.OptimConfig.frozen`; of what they compute no
        activation is kept and no gradient computed.
    """

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
    """The terms of ONE clip's loss, each normalised by the clip's own counts.

    The truth of frame 0 goes into the memory; frames 1.. are predicted in order and written back as they
    were predicted, so gradients flow from later frames to earlier ones. `config.burn_in` frames after frame 0
    have no loss and no gradient, and `config.corruption` changes what is written.

    Args:
      model: the method; matching is soft here whatever `model.hard` says.
      config: see `ClipLossConfig`.
      params: the model's parameters.
      clip: `data.clips.ClipArrays`.
      key: this clip's, at this step.
      step: of training.
    """
    frames, frame_size = clip["frames"], clip["frame_size"].astype(jnp.float32)
    length, height, width = frames.shape[:3]
    if config.burn_in > length - 2:
        raise VosError(
            f"train.loss.burn_in is {config.burn_in}, and clips have {length} frames: none is left to learn "
            f"from behind the first; set it to at most {length - 2}, or make train.data.clip_length larger"
        )
    num_objects = clip["object_valid"].shape[0]
    truth = truth_of(clip["ids"], num_objects)
    # What the first frame does not show has nothing to be followed by.
    object_valid = clip["object_valid"] & (jnp.max(truth[0], axis=(1, 2)) > 0)
    truth = jnp.where(object_valid[None, :, None, None], truth, 0.0)
    annotated = clip["truth_valid"] & clip["frame_valid"]
    grid = truth.shape[2], truth.shape[3]
    cell_valid = masks.pixel_valid(frame_size, grid, geometry.MASK_STRIDE)

    still = jax.lax.stop_gradient(params)
    burned = slice(1, 1 + config.burn_in)
    look = functools.partial(_look, model, frame_size=frame_size)
    learned = jnp.concatenate([frames[:1], frames[burned.stop :]])
    if config.remat:
        look_again = jax.checkpoint(look, prevent_cse=config.unroll)
        _, (encoded, detections) = jax.lax.scan(
            lambda none, frame: (none, look_again(params, frame)), None, learned, unroll=config.unroll
        )
    else:
        encoded, detections = jax.vmap(functools.partial(look, params))(learned)
    if config.burn_in:
        early = jax.vmap(functools.partial(look, still))(frames[burned])
        encoded, detections = jax.tree.map(
            lambda late, early: jnp.concatenate([late[:1], early, late[1:]]), (encoded, detections), early
        )
    oracle_key, sampling_key, corruption_key = jax.random.split(key, 3)
    supplied = _proposals(
        model, config, detections, truth, object_valid, annotated, frame_size, oracle_key, step
    )

    follower = _follower(model, length)
    size = (height, width)
    state = state_lib.init_state(follower, num_objects, size, frame_size, clip["dataset"])
    given = state_lib.Given(
        prob=masks.one_hot(clip["ids"][0], num_objects).astype(jnp.float32),
        valid=object_valid,
        remove=jnp.zeros_like(object_valid),
    )
    first = _Ahead(model=follower, encoded=jax.tree.map(lambda x: x[0], encoded), first=True)
    state, _, _ = rollout.frame_step(first, params, state, frames[0], given)
    use_truth = _use_truth(config, annotated, sampling_key, step)

    def follow(state: state_lib.State, inputs: tuple, *, learns: bool) -> tuple[state_lib.State, tuple]:
        weights = params if learns else still
        frame, encoded, supplied, truth, use_truth, key = inputs
        ahead = _Ahead(model=follower, encoded=encoded, first=False)
        nothing = state_lib.no_given(num_objects, size).replace(proposals=supplied)
        state, _, prob, prediction = rollout.segment(ahead, weights, state, frame, nothing)
        objects = prob[1:] if learns else jax.lax.stop_gradient(prob[1:])
        remembered = None
        if config.corruption.enabled:
            remembered = corruption_lib.corrupt(objects, object_valid, key, config.corruption)
        state = rollout.write(
            ahead,
            weights,
            state,
            encoded,
            objects,
            given=nothing,
            mass=prediction.read.mass,
            remembered=remembered,
        )
        terms = losses_lib.mask_losses(prediction.out, prob, truth, object_valid, cell_valid, config)
        return state.replace(prev_prob=jnp.where(use_truth, truth, state.prev_prob)), terms

    keys = jax.random.split(corruption_key, length)
    inputs = (frames, encoded, supplied, truth, use_truth, keys)
    if config.burn_in:
        early = jax.tree.map(lambda x: x[burned], inputs)
        state, _ = jax.lax.scan(functools.partial(follow, learns=False), state, early, unroll=config.unroll)
    learn = functools.partial(follow, learns=True)
    if config.remat:
        learn = jax.checkpoint(learn, prevent_cse=config.unroll)
    late = jax.tree.map(lambda x: x[burned.stop :], inputs)
    _, (terms, cross_entropy) = jax.lax.scan(learn, state, late, unroll=config.unroll)

    counts = annotated[burned.stop :]
    terms = {name: losses_lib.mean_over_frames(values, counts) for name, values in terms.items()}
    hard = counts[:, None, None] & cell_valid[None] & jnp.any(object_valid)
    terms["refined_ce"] = losses_lib.bootstrapped(cross_entropy, hard, step, config)
    if config.correspondence:
        origins = jnp.where(clip["frame_valid"][:, None, None, None], clip["origins"], -1.0)
        keys = encoded.key
        valid = masks.pixel_valid(frame_size, (keys.shape[1], keys.shape[2]), geometry.MEMORY_STRIDE)
        late = slice(burned.stop, None)
        terms |= losses_lib.correspondence(
            keys[late], keys[0], origins[late], origins[0], valid, model.config.read
        )
    if detections is not None:
        of_frame = functools.partial(proposal_losses.proposal_losses, frame_size=frame_size)
        valid = clip["instance_valid"]
        # The share of a cell that is IGNORE comes last.
        labels = truth_of(jnp.minimum(clip["instances"], valid.shape[0] + 1), valid.shape[0] + 1)
        found = jax.vmap(
            lambda detections, labels: of_frame(
                detections, labels[:-1], valid, ignored=labels[-1], exhaustive=clip["exhaustive"]
            )
        )(detections, labels)
        found = {name: losses_lib.mean_over_frames(values, annotated) for name, values in found.items()}
        terms |= found
    return terms


def truth_of(ids: UInt8[Array, "T H W"], num_objects: int) -> Float[Array, "T N H/4 W/4"]:
    """The share of each stride-4 cell that each object 1..N covers."""
    covers = jax.vmap(lambda x: masks.one_hot(x, num_objects).astype(jnp.float32))(ids)
    return masks.downsample(covers, geometry.MASK_STRIDE)


def _look(
    model: vos.VOS, params: Any, frame: Shaped[Array, "H W 3"], *, frame_size: Array
) -> tuple[state_lib.Encoded, proposals_lib.Detections | None]:
    """All that ONE frame alone tells."""
    encoded = model.encode(params, frame, frame_size)
    if not model.config.uses_network:
        return encoded, None
    network = vos.VOSNet(model.config)
    detections: Any = network.apply({"params": params}, encoded.features, frame_size, method=_detect)
    return encoded, detections


def _detect(network: vos.VOSNet, features: Any, frame_size: Array) -> proposals_lib.Detections:
    return network.proposal_network(features, frame_size)


def _proposals(
    model: vos.VOS,
    config: ClipLossConfig,
    detections: proposals_lib.Detections | None,
    truth: Float[Array, "T N H/4 W/4"],
    object_valid: Bool[Array, "N"],
    annotated: Bool[Array, "T"],
    frame_size: Array,
    key: PRNGKeyArray,
    step: Array,
) -> proposals_lib.Proposals | None:
    """The network's proposals for all frames of a clip, or the oracle's in some frames early in training."""
    network = None if detections is None else detections.proposals
    if network is None or config.oracle_end == 0:
        return network
    settings = dataclasses.replace(
        model.config.proposals, capacity=max(model.config.proposals.capacity, truth.shape[1])
    )

    def oracle(truth: Float[Array, "N H/4 W/4"], key: PRNGKeyArray) -> proposals_lib.Proposals:
        inputs = proposal_sources.SourceInputs(
            frame_size=frame_size, truth_prob=truth, truth_valid=object_valid
        )
        found = proposal_sources.groundtruth(inputs, config=settings, key=key)
        return jax.tree.map(lambda x: x[: model.config.proposals.capacity], found)

    draw_key, choice_key = jax.random.split(key)
    true = jax.vmap(oracle)(truth, jax.random.split(draw_key, truth.shape[0]))
    share = config.oracle_prob * jnp.clip(1.0 - step / config.oracle_end, 0.0, 1.0)
    chosen = annotated & jax.random.bernoulli(choice_key, share, annotated.shape)

    def choose(true: Array, network: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (true.ndim - 1)), true, network.astype(true.dtype))

    return jax.tree.map(choose, true, network)


def _use_truth(
    config: ClipLossConfig, annotated: Bool[Array, "T"], key: PRNGKeyArray, step: Array
) -> Bool[Array, "T"]:
    """In which frames the truth takes the prediction's place as what comes to be the previous mask."""
    prediction = jnp.where(step >= config.sampling_begin, config.sampling_prob, 0.0)
    return annotated & ~jax.random.bernoulli(key, prediction, annotated.shape)


def _follower(model: vos.VOS, length: int) -> vos.VOS:
    """Returns the model for the scan over a clip: handed its proposals, no more slots than are ever read.

    Every frame is written: clips skip frames, so each is as far from the one before as kept frames are.
    """
    memory = dataclasses.replace(
        model.config.memory,
        every=1,
        capacity=min(model.config.memory.capacity, max(length - 1, 1 + memory_lib.UNPINNED_SLOTS)),
    )
    no_network = dataclasses.replace(model.config.proposals, source="none")
    return vos.VOS(config=dataclasses.replace(model.config, memory=memory, proposals=no_network), hard=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ahead:
    """A `state.Model` whose frame is encoded already, and that predicts nothing in a clip's first frame."""

    model: vos.VOS
    encoded: state_lib.Encoded
    first: bool

    @property
    def memory_config(self) -> memory_lib.MemoryConfig:
        return self.model.memory_config

    def init_memory(self, num_objects: int, size: tuple[int, int]) -> memory_lib.Memory:
        return self.model.init_memory(num_objects, size)

    def encode(self, params: Any, frame: Array, frame_size: Array) -> state_lib.Encoded:
        del params, frame, frame_size
        return self.encoded

    def predict(
        self, params: Any, encoded: state_lib.Encoded, state: state_lib.State, supplied: Any = None
    ) -> state_lib.Prediction:
        if not self.first:
            # Of an object in no slot the read divides 0 by almost 0: harmless, but not its gradient. Padding
            # that is read like an object of no pixel changes nothing else.
            in_slot = state.memory.object_in_slot | ~state.object_valid[:, None]
            state = state.replace(memory=state.memory.replace(object_in_slot=in_slot))
            return self.model.predict(params, encoded, state, supplied)
        num_objects, slots = state.memory.object_in_slot.shape
        nothing: Any = None  # of what is read only the mass is looked at here
        mass = jnp.zeros((num_objects, slots))
        read = read_lib.Read(value=nothing, embed=nothing, prob=nothing, mass=mass)
        return state_lib.Prediction(
            prob=jnp.zeros_like(state.prev_prob), presence=jnp.zeros(num_objects), read=read, out=None
        )

    def value(
        self, params: Any, encoded: state_lib.Encoded, prob: Array, state: state_lib.State
    ) -> Float[Array, "N h w Cv"]:
        return self.model.value(params, encoded, prob, state)
