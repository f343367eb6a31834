"""The state of a session between two frames, and the step that it took last."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vos_jax.data import prompts as prompts_lib
from vos_jax.data import proposals as proposal_arrays
from vos_jax.inference import objects as objects_lib
from vos_jax.models import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a session knows before frame `index` (`Session.restore`, `session_file`).

    Attributes:
      states: the model's state in each view.
      objects: ids, slots and first frames of the objects.
      index: frames segmented so far.
      size: (height, width) of the frames in pixels.
      adapted: the video's own parameters, by name.
    """

    states: tuple[state_lib.State, ...]
    objects: objects_lib.ObjectTable
    index: int
    size: tuple[int, int]
    adapted: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Taken(NamedTuple):
    """The arguments of the step that a session took last, for edits."""

    before: Snapshot
    frame: np.ndarray
    prompt: prompts_lib.Prompt
    proposals: proposal_arrays.ProposalArrays | None
    soft: bool
