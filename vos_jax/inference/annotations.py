"""What users say of objects in frames: refused before any frame is segmented where it would fail later."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from vos_jax import errors
from vos_jax.models import memory as memory_lib
from vos_jax.models import state as state_lib


class Bounded(Protocol):
    """What can follow so many objects and remember so many frames; trackers are."""

    @property
    def model(self) -> state_lib.Model: ...

    def bucket(self, num_objects: int) -> int: ...  # VosError: too many


def check(annotations: Mapping[int, np.ndarray], tracker: Bounded) -> None:
    """Refuses, before any frame is segmented, what would fail in mid-video.

    Raises:
      VosError: see `Tracker.track`; also if there is no object at all.
    """
    first_frames: dict[int, int] = {}
    for index in sorted(annotations):
        present = [int(i) for i in np.unique(annotations[index]) if i]
        for user_id in present:
            first_frames.setdefault(user_id, index)
        if present and index not in first_frames.values():
            check_correction(index, first_frames, tracker.model.memory_spec.config.max_pins)
    if not first_frames:
        raise errors.VosError("no annotated frame holds an object")
    tracker.bucket(len(first_frames))
    check_pins(first_frames, tracker.model.memory_spec.config.max_pins)


def check_pins(first_frames: Mapping[int, int], max_pins: int) -> None:
    """Raises VosError where objects first appear in more frames than the memory can keep."""
    frames = sorted(set(first_frames.values()))
    if len(frames) > max_pins:
        late = sorted(i for i, frame in first_frames.items() if frame == frames[max_pins])
        raise errors.VosError(
            f"objects first appear in {len(frames)} different frames (object {late[0]} in frame "
            f"{frames[max_pins]}); the memory keeps {max_pins}: "
            f"set model.memory.capacity to {len(frames) + memory_lib.UNPINNED_SLOTS} or more"
        )


def check_correction(frame: int, first_frames: Mapping[int, int], max_pins: int) -> None:
    """Raises VosError where the masks of `frame`, nobody's first, would find all pins taken.

    A correction may take the place of an older one, never of a first annotation (`memory.choose_slot`).
    """
    first = len(set(first_frames.values()))
    if first >= max_pins:
        raise errors.VosError(
            f"frame {frame} corrects objects, which first appear in {first} different frames; the memory "
            f"keeps {max_pins}: set model.memory.capacity to {first + 1 + memory_lib.UNPINNED_SLOTS} or more"
        )
