"""The inspection of a frame: all that the model computes for it, for pictures and analysis."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from vos_jax import geometry
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import view as view_lib
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.ops import masks
from vos_jax.typing import Array, Float, UInt8

Inputs = tuple[np.ndarray, state_lib.PromptArrays, proposals_lib.Proposals | None]
"""A padded frame, its prompt and its proposals, as `step.step` takes them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """One frame in one view: the state before it, its inputs, and the model's output.

    Attributes:
      index: of the frame.
      model, params: the method and its parameters.
      objects: the user's ids and their slots.
      view: the size and flip at which the model sees the frame.
      before: the state before the frame.
      inputs: the arguments of the step.
      object_valid: [N], objects that exist in the frame.
      key: [h, w, Ck], of the frame.
      prob: [N+1, H/4, W/4], background first.
      prediction: of the model, before prompts and aggregation.
    """

    index: int
    model: state_lib.Model
    params: Any
    objects: objects_lib.ObjectTable
    view: view_lib.View
    before: state_lib.State
    inputs: Inputs
    object_valid: Array
    key: Array
    prob: Float[np.ndarray, "N+1 h w"]
    prediction: state_lib.Prediction

    @property
    def memory(self) -> memory_lib.Memory:
        """The memory that the frame reads."""
        return self.before.memory

    def see(self, frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a frame of the video at the view's size, without padding."""
        height, width = self.view.size
        return self.view.see(frame)[:height, :width]

    def ids(self, prob: Any) -> UInt8[np.ndarray, "h w"]:
        """Returns the user's ids for probabilities [N+1, H/4, W/4], without padding."""
        return self.objects.from_slots(self.view.crop(masks.to_ids(prob, geometry.MASK_STRIDE)))

    def rerun(self, model: state_lib.Model) -> state_lib.Prediction:
        """Returns the prediction of another model with the same parameters for this frame."""
        step = jax.jit(lambda *inputs: step_lib.segment(model, *inputs)[2].prediction)
        return step(self.params, self.before, *self.inputs)


def inspect(
    model: state_lib.Model,
    params: Any,
    before: state_lib.State,
    inputs: Inputs,
    *,
    index: int,
    objects: objects_lib.ObjectTable,
    view: view_lib.View,
) -> Inspection:
    """Segments one frame and returns all that was computed; arguments as the attributes of `Inspection`."""
    step = jax.jit(functools.partial(step_lib.segment, model))
    state, encoded, output = step(params, before, *inputs)
    return Inspection(
        index=index,
        model=model,
        params=params,
        objects=objects,
        view=view,
        before=before,
        inputs=inputs,
        object_valid=state.object_valid,
        key=encoded.key,
        prob=np.asarray(output.prob),
        prediction=output.prediction,
    )
