"""One frame of a video with everything that the model made of it, for pictures."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from vos_jax import errors, geometry
from vos_jax.data import video as video_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import session as session_lib
from vos_jax.inference import view as view_lib
from vos_jax.models import masks
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Probe:
    """What was known before a frame, and what the model said of it.

    Attributes:
      video: where frames come from.
      index: the frame's number.
      model, params: the method.
      objects: the user's ids and their slots.
      before: the state before the frame.
      view: the size at which the model sees frames.
      inputs: the padded frame, its prompt and its proposals, as `step.step` takes them.
      object_valid: objects that exist in the frame.
      key: the frame's own key.
      prob: [N+1, H/4, W/4], background first.
      prediction: the model's, before what was given and before aggregation.
    """

    video: video_lib.Video
    index: int
    model: state_lib.Model
    params: Any
    objects: objects_lib.ObjectTable
    before: state_lib.State
    view: view_lib.View
    inputs: tuple[np.ndarray, state_lib.PromptArrays, proposals_lib.Proposals | None]
    object_valid: Array
    key: Array
    prob: np.ndarray
    prediction: state_lib.Prediction

    @property
    def memory(self) -> memory_lib.Memory:
        """What the frame was read from."""
        return self.before.memory

    def frame(self, index: int) -> np.ndarray:
        """A frame of the video as the model sees it but for padding, uint8 [H, W, 3]."""
        return geometry.resize_frame(self.video.frame(index), self.view.size)

    def ids(self, prob: Any) -> np.ndarray:
        """From probabilities [N+1, H/4, W/4] to the user's ids [H, W], without padding."""
        return self.objects.from_slots(self.view.crop(masks.to_ids(prob, geometry.MASK_STRIDE)))

    def again(self, model: state_lib.Model) -> state_lib.Prediction:
        """What another model of the same parameters would say of this frame."""
        step = jax.jit(lambda *inputs: step_lib.segment(model, *inputs)[2].prediction)
        return step(self.params, self.before, *self.inputs)


def take(engine: engine_lib.Engine, video: video_lib.Video, index: int) -> Probe:
    """Segments a video up to frame `index` and returns all that the model computes there.

    Args:
      engine: the model, in one view; its compiled programs are used.
      video: with its prompts.
      index: a frame behind the first prompt.

    Raises:
      VosError: the video has no such frame, or no object is known before it.
    """
    check_frame(video, index)
    prompts = video.prompts()
    session = session_lib.Session(engine, video.size, prompts)
    for earlier in range(index):
        session.step(video.frame(earlier), prompts.get(earlier))
    inputs = session.prepare(video.frame(index), prompts.get(index))
    step = jax.jit(functools.partial(step_lib.segment, engine.model))
    state, encoded, output = step(session.params, inputs.states[0], *inputs.arrays[0])
    return Probe(
        video=video,
        index=index,
        model=engine.model,
        params=session.params,
        objects=inputs.objects,
        before=inputs.states[0],
        view=session.views[0],
        inputs=inputs.arrays[0],
        object_valid=state.object_valid,
        key=encoded.key,
        prob=np.asarray(output.prob),
        prediction=output.prediction,
    )


def check_frame(video: video_lib.Video, index: int) -> None:
    """Raises VosError unless something is remembered when frame `index` comes."""
    first = min(video.prompts())
    if not first < index < len(video):
        raise errors.VosError(
            f"'{video.name}': a picture can be made of frames {first + 1} to {len(video) - 1}, not {index} "
            "(--frame); before, nothing is remembered"
        )
