"""What following objects gives: a frame's result, and where a track stands."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.models import state as state_lib


@dataclasses.dataclass(frozen=True)
class TrackedFrame:
    """One frame's result.

    Attributes:
      ids: uint8 [H, W], the user's object ids, 0 for background.
      presence: per id, how sure the model is that the object is in the frame, in [0, 1].
      prob: float [N+1, H, W] in the order (background, *presence), or None if it was not asked for.
      stages: ids as `ids`, by the name of each stage that was asked for: what came before refinement. What
        the user drew in a frame is not in them.
    """

    ids: np.ndarray
    presence: dict[int, float]
    prob: np.ndarray | None = None
    stages: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Where a track stands: what it takes to go on from there (`Tracker.resume`).

    Attributes:
      state: the model's state after the frames so far.
      objects: the user's id -> index in the state.
      first_frames: the user's id -> frame of its first annotation.
      index: how many frames were segmented.
      size: (height, width) of the frames in pixels.
      learned: the track's own parameters, by name.
    """

    state: state_lib.State
    objects: Mapping[int, int]
    first_frames: Mapping[int, int]
    index: int
    size: tuple[int, int]
    learned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
