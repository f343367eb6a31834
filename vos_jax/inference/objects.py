"""The objects of a session: the user's ids, their slots in the model's arrays, and their limits."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from vos_jax import errors
from vos_jax.data import prompts as prompts_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import view as view_lib
from vos_jax.models import memory as memory_lib
from vos_jax.models import state as state_lib
from vos_jax.ops import masks
from vos_jax.typing import UInt8


@dataclasses.dataclass(frozen=True)
class ObjectTable:
    """The slot of each object in the model's arrays.

    Attributes:
      slots: the user's id -> slot, from 0, in the order in which the objects appeared.
      first_frames: the user's id -> index of the frame in which the object appeared.
    """

    slots: Mapping[int, int] = dataclasses.field(default_factory=dict)
    first_frames: Mapping[int, int] = dataclasses.field(default_factory=dict)

    @property
    def user_ids(self) -> UInt8[np.ndarray, "N+1"]:
        """0 for the background, then the user's ids in the order of `slots`."""
        return np.array([0, *self.slots], np.uint8)

    def updated(self, index: int, prompt: prompts_lib.Prompt, max_pins: int) -> "ObjectTable":
        """Returns the table after a prompt; new objects get the lowest free slots.

        Args:
          index: of the prompt's frame.
          prompt: without boxes.
          max_pins: prompted frames that the memory keeps.

        Raises:
          VosError: an id that is absent or to be removed is not known, or the memory cannot keep another
            prompted frame.
        """
        listed, present = sorted(self.slots) or "none", prompt.objects
        if unknown := [i for i in sorted(prompt.remove) if i not in self.slots]:
            raise errors.VosError(f"object {unknown[0]} cannot be removed; the objects are {listed}")
        if unknown := [i for i in sorted(prompt.absent) if i not in self.slots]:
            raise errors.VosError(
                f"object {unknown[0]} cannot be absent from frame {index}: the objects before it are {listed}"
            )
        slots = {user_id: slot for user_id, slot in self.slots.items() if user_id not in prompt.remove}
        first_frames = {i: frame for i, frame in self.first_frames.items() if i in slots}
        corrects = bool(present or prompt.absent) and set(present) <= set(slots)
        for user_id in present:
            if user_id not in slots:
                slots[user_id] = min(set(range(len(slots) + 1)) - set(slots.values()))
                first_frames[user_id] = index
        _check_pins(first_frames, max_pins)
        if corrects:
            _check_correction(index, first_frames, max_pins)
        return ObjectTable(slots, first_frames)

    def slot_ids(self, ids: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """Returns 1 + the slot of each pixel's object; 0 for the background."""
        table = np.zeros(256, np.uint8)
        for user_id, slot in self.slots.items():
            table[user_id] = 1 + slot
        return table[ids]

    def from_slots(self, slot_ids: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """Returns the user's ids; the inverse of `slot_ids`."""
        table = np.zeros(256, np.uint8)
        for user_id, slot in self.slots.items():
            table[1 + slot] = user_id
        return table[slot_ids]

    def prompt_arrays(
        self,
        view: view_lib.View,
        prompt: prompts_lib.Prompt,
        removed: Collection[int],
        nothing: state_lib.PromptArrays,
    ) -> state_lib.PromptArrays:
        """Returns a prompt as the model takes it.

        Args:
          view: the view that sees the frame.
          prompt: at the frames' size, without boxes.
          removed: slots of objects that go.
          nothing: the arrays of a frame without a prompt, of the view's padded size.
        """
        if prompt.ids is None and not prompt.absent and not removed:
            return nothing
        count, arrays = nothing.given.shape[0], nothing
        if prompt.ids is not None:
            seen = self.slot_ids(view.see_ids(prompt.ids))
            arrays = arrays.replace(mask=jnp.asarray(masks.one_hot(seen, count).astype(np.float32)))

        def marks(slots: Iterable[int]) -> jnp.ndarray:
            return jnp.asarray(np.isin(np.arange(count), list(slots)))

        return arrays.replace(
            given=marks(self.slots[user_id] for user_id in prompt.objects),
            absent=marks(self.slots[user_id] for user_id in prompt.absent),
            removed=marks(removed),
        )


def check(prompts: Mapping[int, prompts_lib.Prompt], engine: engine_lib.Engine) -> int:
    """Checks prompts before any frame is segmented; returns the most objects at a time.

    Raises:
      VosError: there is no object, there are too many, or they appear in more frames than the memory keeps.
    """
    max_pins = engine.model.memory_spec.config.max_pins
    first_frames: dict[int, int] = {}
    most = 0
    for index in sorted(prompts):
        for user_id in prompts[index].remove:
            first_frames.pop(user_id, None)
        present = prompts[index].objects
        for user_id in present:
            first_frames.setdefault(user_id, index)
        if unknown := [i for i in sorted(prompts[index].absent) if i not in first_frames]:
            raise errors.VosError(
                f"object {unknown[0]} is said to be absent from frame {index}, but no frame before shows it"
            )
        if (present or prompts[index].absent) and index not in first_frames.values():
            _check_correction(index, first_frames, max_pins)
        most = max(most, len(first_frames))
    if not most:
        raise errors.VosError("no prompt holds an object: every pixel is background")
    engine.capacity_for(most)
    _check_pins(first_frames, max_pins)
    return most


def _check_pins(first_frames: Mapping[int, int], max_pins: int) -> None:
    """Raises VosError where objects first appear in more frames than the memory can keep."""
    frames = sorted(set(first_frames.values()))
    if len(frames) > max_pins:
        late = sorted(i for i, frame in first_frames.items() if frame == frames[max_pins])
        raise errors.VosError(
            f"objects first appear in {len(frames)} different frames (object {late[0]} in frame "
            f"{frames[max_pins]}); the memory keeps {max_pins}: "
            f"set model.memory.capacity to {len(frames) + memory_lib.UNPINNED_SLOTS} or more"
        )


def _check_correction(frame: int, first_frames: Mapping[int, int], max_pins: int) -> None:
    """Raises VosError where a correction of known objects would find all pins taken.

    A correction may take the place of an older one, never of a first prompt (`memory.choose_slot`).
    """
    first = len(set(first_frames.values()))
    if first >= max_pins:
        raise errors.VosError(
            f"frame {frame} corrects objects, which first appear in {first} different frames; the memory "
            f"keeps {max_pins}: set model.memory.capacity to {first + 1 + memory_lib.UNPINNED_SLOTS} or more"
        )
