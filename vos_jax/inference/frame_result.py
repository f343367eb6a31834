"""The result of a frame: views merged on probabilities, under the user's own ids."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vos_jax import geometry
from vos_jax.data import prompts as prompts_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import view as view_lib
from vos_jax.typing import Float, UInt8


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameResult:
    """The result of one frame.

    Attributes:
      index: of the frame.
      ids: the user's object ids, 0 for the background.
      presence: object id -> confidence that the object is in the frame, in [0, 1].
      prob: probabilities in the order (background, *presence), sum 1; None where they were not asked for.
      intermediates: object ids by the name of each of the engine's intermediates; `ids` in a frame with a
        prompt.
    """

    index: int
    ids: UInt8[np.ndarray, "H W"]
    presence: Mapping[int, float] = dataclasses.field(default_factory=dict)
    prob: Float[np.ndarray, "N+1 H W"] | None = None
    intermediates: Mapping[str, UInt8[np.ndarray, "H W"]] = dataclasses.field(default_factory=dict)


class Pending:
    """The result of a frame that the device may still be computing.

    Args:
      value: the result, or a function that waits for it; it is called once.
    """

    def __init__(self, value: FrameResult | Callable[[], FrameResult]):
        self._value = value

    def result(self) -> FrameResult:
        """Returns the result; waits for the device."""
        if not isinstance(self._value, FrameResult):
            self._value = self._value()
        return self._value


def nothing(index: int, size: tuple[int, int], soft: bool, intermediates: Sequence[str] = ()) -> FrameResult:
    """Returns the result of a frame before any object is known.

    Args:
      index: of the frame.
      size: (height, width) of the frame in pixels.
      soft: return probabilities, too.
      intermediates: names of the engine's intermediates.
    """
    ids = np.zeros(size, np.uint8)
    prob = np.ones((1, *size), np.float32) if soft else None
    return FrameResult(index=index, ids=ids, prob=prob, intermediates=dict.fromkeys(intermediates, ids))


class ViewResult(NamedTuple):
    """The output of one view, read under the user's ids."""

    view: view_lib.View
    objects: objects_lib.ObjectTable
    output: engine_lib.StepArrays

    def planes(self) -> list[np.ndarray]:
        """Returns probability maps [h w] of the padded size: background, then objects in order."""
        prob = np.asarray(self.output.prob)
        return [prob[plane] for plane in (0, *(1 + slot for slot in self.objects.slots.values()))]

    def ids(self) -> UInt8[np.ndarray, "H W"]:
        """Returns the ids at the frames' size, of a view that is not flipped."""
        if self.view.size == self.view.frame_size:
            return self.objects.from_slots(self.view.crop(self.output.ids))
        planes = (self.view.crop(plane) for plane in self.planes())
        return self.objects.user_ids[geometry.argmax_resized(planes, self.view.frame_size)]

    def prob(self) -> Float[np.ndarray, "N+1 H W"]:
        """Returns the probabilities at the frames' size, background first."""
        return np.stack([self.view.full_size(plane) for plane in self.planes()])


def merge(found: Sequence[ViewResult], index: int, prompt: prompts_lib.Prompt, soft: bool) -> FrameResult:
    """Merges views on probabilities at the frames' size: resized first, then argmax (docs/method.md).

    Args:
      found: the views; the first one is not flipped.
      index: of the frame.
      prompt: the user's, without boxes; what it says counts as it is.
      soft: return probabilities, too.
    """
    first, table = found[0], found[0].objects
    prob = None
    if len(found) > 1:
        prob = np.zeros((len(table.slots) + 1, *first.view.frame_size), np.float32)
        for one in found:
            prob += one.prob()
        prob /= len(found)
        merged = table.user_ids[np.argmax(prob, axis=0)]
    else:
        merged = first.ids()
        prob = first.prob() if soft else None
    ids = prompt.ids
    presences = [np.nan_to_num(np.asarray(one.output.presence)) for one in found]
    presence = {
        user_id: float(np.mean([float(x[slot]) for x in presences])) for user_id, slot in table.slots.items()
    }
    presence |= dict.fromkeys(prompt.objects, 1.0) | dict.fromkeys(prompt.absent, 0.0)
    # For looking at only: of ids the larger share wins, not the larger probability.
    intermediates = {
        name: geometry.resize_ids(table.from_slots(first.view.crop(x)), first.view.frame_size)
        for name, x in first.output.intermediates.items()
    }
    if ids is not None:
        merged = geometry.overwrite(merged, ids)
        intermediates = {name: merged for name in intermediates}
        if prob is not None:
            for plane, user_id in zip(prob, table.user_ids, strict=True):
                plane[ids > 0] = ids[ids > 0] == user_id
    return FrameResult(
        index=index,
        ids=merged,
        presence=presence,
        prob=prob if soft else None,
        intermediates=intermediates,
    )
