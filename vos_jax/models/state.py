"""What a video's segmentation carries from frame to frame, and what a user may hand in with a frame."""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib
from vos_jax.typing import Array, Bool, Float, Int, Shaped


class State(flax.struct.PyTreeNode):
    """Everything a video's next frame depends on (DESIGN.md section 3)."""

    memory: memory_lib.Memory
    prev_prob: Float[Array, "N H/4 W/4"]  # the previous frame's masks, after aggregation
    last_box: Float[Array, "N 4"]  # where each object was last seen, pixels of the padded frame
    object_valid: Bool[Array, "N"]
    frame_index: Int[Array, ""]
    frame_size: Float[Array, "2"]  # real (height, width) inside the padded frame
    dataset: Int[Array, ""]  # whose lambda the matching uses


class Given(flax.struct.PyTreeNode):
    """What the user says of a frame: masks of new or corrected objects, and objects to stop following."""

    prob: Float[Array, "N H W"]
    valid: Bool[Array, "N"]  # whose masks are given
    remove: Bool[Array, "N"]
    proposals: Any = None  # `proposals.Proposals` from elsewhere; None: the model's own


class Encoded(flax.struct.PyTreeNode):
    """A frame as the memory sees it, and the features that later stages use."""

    key: Float[Array, "h w Ck"]
    embed: Float[Array, "h w Ce"]
    features: Any


class Prediction(flax.struct.PyTreeNode):
    """A model's masks of one frame, each object on its own, and everything on the way there."""

    prob: Float[Array, "N H/4 W/4"]
    presence: Float[Array, "N"]  # in [0, 1]
    read: read_lib.Read
    out: Any  # a model's intermediates, for losses and pictures


@runtime_checkable
class Model(Protocol):
    """What `rollout.frame_step` asks of a model; all methods are pure and written for one frame."""

    @property
    def memory_config(self) -> memory_lib.MemoryConfig: ...  # how frames are kept

    def init_memory(self, num_objects: int, size: tuple[int, int]) -> memory_lib.Memory:
        """Returns an empty memory for padded frames of (H, W) pixels."""
        ...

    def encode(self, params: Any, frame: Shaped[Array, "H W 3"], frame_size: Float[Array, "2"]) -> Encoded:
        """Encodes a padded frame, uint8 or float in [0, 1], of which (height, width) pixels are real."""
        ...

    def predict(self, params: Any, encoded: Encoded, state: State, supplied: Any = None) -> Prediction:
        """Segments an encoded frame; `supplied` are `Given.proposals`."""
        ...

    def value(
        self, params: Any, encoded: Encoded, prob: Float[Array, "N H/4 W/4"], state: State
    ) -> Float[Array, "N h w Cv"]:
        """Returns what each object's memory of this frame shall hold, given its final masks."""
        ...


def init_state(
    model: Model,
    num_objects: int,
    size: tuple[int, int],
    frame_size: tuple[int, int] | Array,
    dataset: int | Array = 0,
) -> State:
    """Returns the state before a video's first frame: nothing is remembered and no object exists.

    Args:
      model: decides the memory's shape.
      num_objects: the static capacity N.
      size: padded (H, W), as `geometry.padded_size` returns.
      frame_size: real (height, width), at most `size`.
      dataset: index of the data set whose lambda the matching uses.
    """
    (height, width), stride = size, geometry.MASK_STRIDE
    return State(
        memory=model.init_memory(num_objects, size),
        prev_prob=jnp.zeros((num_objects, height // stride, width // stride), jnp.float32),
        last_box=jnp.tile(jnp.asarray([[0, 0, *frame_size]], jnp.float32), (num_objects, 1)),
        object_valid=jnp.zeros((num_objects,), bool),
        frame_index=jnp.zeros((), jnp.int32),
        frame_size=jnp.asarray(frame_size, jnp.float32),
        dataset=jnp.asarray(dataset, jnp.int32),
    )


def no_given(num_objects: int, size: tuple[int, int]) -> Given:
    """Returns what is handed in with a frame of which the user says nothing."""
    return Given(
        prob=jnp.zeros((num_objects, *size), jnp.float32),
        valid=jnp.zeros((num_objects,), bool),
        remove=jnp.zeros((num_objects,), bool),
    )


def grow(state: State, num_objects: int) -> State:
    """Returns the state with room for `num_objects` objects; those there stay as they are."""
    extra = num_objects - state.object_valid.shape[0]
    whole_frame = jnp.concatenate([jnp.zeros(2), state.frame_size])
    return state.replace(
        memory=memory_lib.grow(state.memory, num_objects),
        prev_prob=jnp.pad(state.prev_prob, ((0, extra), (0, 0), (0, 0))),
        last_box=jnp.concatenate([state.last_box, jnp.tile(whole_frame[None], (extra, 1))]),
        object_valid=jnp.pad(state.object_valid, (0, extra)),
    )
