"""The state of a video's segmentation, the prompts of a frame, and the interface of a model."""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import config as config_lib
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import read as read_lib
from vos_jax.models.backbones import Features
from vos_jax.typing import Array, Bool, Float, Int, Shaped


class State(flax.struct.PyTreeNode):
    """Everything that the next frame of a video depends on."""

    memory: memory_lib.Memory
    prev_prob: Float[Array, "N H/4 W/4"]  # the previous frame's masks, after aggregation
    last_box: Float[Array, "N 4"]  # of each object's last visible mask, pixels of the padded frame
    object_valid: Bool[Array, "N"]
    frame_index: Int[Array, ""]
    frame_size: Float[Array, "2"]  # real (height, width) inside the padded frame


class PromptArrays(flax.struct.PyTreeNode):
    """A user's masks of new or corrected objects in one frame; objects that are absent, and that go."""

    mask: Float[Array, "N H W"]
    given: Bool[Array, "N"]  # objects with a mask
    absent: Bool[Array, "N"]  # known objects that are not in this frame
    removed: Bool[Array, "N"]


class Encoded(flax.struct.PyTreeNode):
    """Everything that depends on a frame alone, for the memory and for later stages."""

    key: Float[Array, "h w Ck"]
    embed: Float[Array, "h w Ce"]
    features: Features | None = None
    detections: proposals_lib.Detections | None = None  # of the proposal network
    proposals: proposals_lib.Proposals | None = None  # the network's, or those of a file


class Prediction(flax.struct.PyTreeNode):
    """A model's masks of one frame, before aggregation, with all intermediates."""

    prob: Float[Array, "N H/4 W/4"]
    presence: Float[Array, "N"]  # in [0, 1]
    read: read_lib.Read
    out: Any  # `vos.Out`, for losses and pictures; None for a model without such intermediates


class StepOutput(flax.struct.PyTreeNode):
    """The result of one frame."""

    prob: Float[Array, "N+1 H/4 W/4"]  # background first; sums to 1
    prediction: Prediction  # before prompts and aggregation


@runtime_checkable
class Model(Protocol):
    """The interface of a model: three pure functions of one frame, called by `step.step`."""

    @property
    def config(self) -> config_lib.ModelConfig: ...

    @property
    def memory_spec(self) -> memory_lib.MemorySpec: ...

    def encode(self, params: Any, frame: Shaped[Array, "H W 3"], frame_size: Float[Array, "2"]) -> Encoded:
        """Encodes a padded frame, uint8 or float in [0, 1], of which (height, width) pixels are real."""
        ...

    def track(self, params: Any, encoded: Encoded, state: State, *, train: bool = False) -> Prediction:
        """Segments an encoded frame. `train` makes the matching soft and searches the whole frame."""
        ...

    def encode_value(
        self, params: Any, encoded: Encoded, prob: Float[Array, "N H/4 W/4"]
    ) -> Float[Array, "N h w Cv"]:
        """Returns each object's memory values of this frame, given the final masks."""
        ...


def init_state(
    model: Model,
    num_objects: int,
    size: tuple[int, int],
    frame_size: tuple[int, int] | Array,
    *,
    capacity: int | None = None,
) -> State:
    """Returns the state before a video's first frame: an empty memory and no object.

    Args:
      model: gives the memory's shape.
      num_objects: the static number of objects, N.
      size: padded (H, W), as `geometry.padded_size` returns.
      frame_size: real (height, width), at most `size`.
      capacity: slots of the memory for frames; None = `model.memory_spec.config.capacity`.
    """
    (height, width), stride = size, geometry.MASK_STRIDE
    return State(
        memory=memory_lib.init(model.memory_spec, num_objects, size, capacity),
        prev_prob=jnp.zeros((num_objects, height // stride, width // stride), jnp.float32),
        last_box=jnp.tile(jnp.asarray([[0, 0, *frame_size]], jnp.float32), (num_objects, 1)),
        object_valid=jnp.zeros((num_objects,), bool),
        frame_index=jnp.zeros((), jnp.int32),
        frame_size=jnp.asarray(frame_size, jnp.float32),
    )


def no_prompt(num_objects: int, size: tuple[int, int]) -> PromptArrays:
    """Returns the arrays of a frame without a prompt; `size` is the padded (H, W)."""
    return PromptArrays(
        mask=jnp.zeros((num_objects, *size), jnp.float32),
        given=jnp.zeros((num_objects,), bool),
        absent=jnp.zeros((num_objects,), bool),
        removed=jnp.zeros((num_objects,), bool),
    )


def grow(state: State, num_objects: int) -> State:
    """Returns the state with room for `num_objects` objects; the present ones are unchanged."""
    extra = num_objects - state.object_valid.shape[0]
    whole_frame = jnp.concatenate([jnp.zeros(2), state.frame_size])
    return state.replace(
        memory=memory_lib.grow(state.memory, num_objects),
        prev_prob=jnp.pad(state.prev_prob, ((0, extra), (0, 0), (0, 0))),
        last_box=jnp.concatenate([state.last_box, jnp.tile(whole_frame[None], (extra, 1))]),
        object_valid=jnp.pad(state.object_valid, (0, extra)),
    )
