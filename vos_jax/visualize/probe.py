"""One frame of a video with everything that the model made of it, for pictures."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from vos_jax import errors, geometry
from vos_jax.data import video as video_lib
from vos_jax.inference import tracker
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
      objects: the user's id -> index in the model.
      before: the state before the frame.
      size: (height, width) at which the model sees frames.
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
    objects: dict[int, int]
    before: state_lib.State
    size: tuple[int, int]
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
        return geometry.resize_frame(self.video.frame(index), self.size)

    def ids(self, prob: Any) -> np.ndarray:
        """From probabilities [N+1, H/4, W/4] to the user's ids [H, W], without padding."""
        height, width = self.size
        table = np.zeros(256, np.uint8)
        for user_id, index in self.objects.items():
            table[index + 1] = user_id
        return table[np.asarray(masks.to_ids(prob, geometry.MASK_STRIDE))[:height, :width]]

    def again(self, model: state_lib.Model) -> state_lib.Prediction:
        """What another model of the same parameters would say of this frame."""
        step = jax.jit(lambda *inputs: step_lib.segment(model, *inputs)[2].prediction)
        return step(self.params, self.before, *self.inputs)


def take(follower: tracker.Tracker, video: video_lib.Video, index: int) -> Probe:
    """Follows a video's objects up to frame `index` and looks into the model there.

    Args:
      follower: what is compiled in it is used.
      video: with its inputs.
      index: a frame behind the first annotated one.

    Raises:
      VosError: the video has no such frame, or nothing is known of any object before it.
    """
    check_frame(video, index)
    given = video.prompts()
    track = follower.start(video.size, len(video.first_frames))
    for earlier in range(index):
        track.step(video.frame(earlier), given.get(earlier))
    inputs = track.prepare(video.frame(index), given.get(index))
    step = jax.jit(functools.partial(step_lib.segment, follower.model))
    state, encoded, output = step(track.params, track.state, *inputs)
    return Probe(
        video=video,
        index=index,
        model=follower.model,
        params=track.params,
        objects=dict(track.objects),
        before=track.state,
        size=track.seen,
        inputs=inputs,
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
