"""Prompts: a user's masks, boxes and removals in a frame, in Python (`mask_options`: on the command line)."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from vos_jax import errors
from vos_jax.data import mask_files, overlaps
from vos_jax.typing import UInt8

MAX_ID = mask_files.VOID - 1
"""Largest object id; 255 means "void" in mask files."""

Box = tuple[float, float, float, float]
"""(y0, x0, y1, x1) in pixels; any two opposite corners."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """A user's prompt for one frame.

    Objects that are known are corrected, others appear. A mask has precedence over a box that overlaps it.

    Attributes:
      ids: object ids [H, W], integers in 0 to 254 or booleans (object 1); 0 where nothing is said. Kept as a
        copy, in uint8.
      boxes: object id -> box around the object (y0, x0, y1, x1) in pixels; its mask is found inside.
      absent: ids of known objects that are not in this frame. They stay known and are found when they return;
        the memory keeps them in frames with a prompt only.
      remove: ids of objects to stop segmenting; before `ids` and `boxes` count.

    Raises:
      VosError: ids out of range, or of another type or shape; an absent object that goes, too, or has a mask.
    """

    ids: UInt8[np.ndarray, "H W"] | None = None
    boxes: Mapping[int, Box] = dataclasses.field(default_factory=dict)
    absent: AbstractSet[int] = frozenset()
    remove: AbstractSet[int] = frozenset()

    def __post_init__(self):
        if self.ids is not None:
            object.__setattr__(self, "ids", _as_ids(self.ids, "the prompt's mask"))
        for object_id in (*self.boxes, *self.absent, *self.remove):
            if not 1 <= object_id <= MAX_ID:
                raise errors.VosError(f"object id {object_id}: ids are 1 to {MAX_ID}")
        object.__setattr__(self, "boxes", dict(self.boxes))
        object.__setattr__(self, "absent", frozenset(self.absent))
        object.__setattr__(self, "remove", frozenset(self.remove))
        if both := sorted(self.absent & {*self.objects, *self.remove}):
            raise errors.VosError(
                f"object {both[0]} is said to be absent, and has a mask or box or is removed, in one prompt"
            )

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of the objects that have a mask or a box, ascending."""
        drawn = set() if self.ids is None else {int(i) for i in np.unique(self.ids) if i}
        return tuple(sorted(drawn | set(self.boxes)))


PromptLike = Prompt | np.ndarray
"""A prompt, or the ids or booleans [H, W] of one."""

Prompts = Mapping[int, PromptLike]
"""Prompts by frame index."""


def as_prompt(prompt: PromptLike | None, index: int) -> Prompt:
    """Returns a prompt for frame `index`; None and plain arrays are taken as prompts.

    Raises:
      VosError: ids out of range, or of another type or shape.
    """
    if isinstance(prompt, Prompt):
        return prompt
    return Prompt() if prompt is None else Prompt(_as_ids(prompt, f"the mask for frame {index}"))


def as_prompts(prompts: Prompts) -> dict[int, Prompt]:
    """Returns prompts by frame index, ascending; plain arrays are taken as prompts.

    Raises:
      VosError: a frame index that is no whole number from 0 on; as `as_prompt`.
    """
    for index in prompts:
        is_whole = isinstance(index, int | np.integer) and not isinstance(index, bool)
        if not is_whole or index < 0:
            raise errors.VosError(
                f"a prompt is for frame {index!r}; frames are whole numbers from 0 on, as in {{0: mask}}"
            )
    return {int(index): as_prompt(prompts[index], index) for index in sorted(prompts)}


def edit(earlier: Prompt, later: Prompt, index: int) -> Prompt:
    """Returns an earlier prompt of frame `index` with a later one on top; both are without boxes.

    Raises:
      VosError: the later masks cover one of the earlier ones whole.
    """
    ids, gone = earlier.ids, [*later.absent, *later.remove]
    if ids is not None and gone:
        ids = np.where(np.isin(ids, gone), np.uint8(0), ids)
    if later.ids is not None:
        ids = later.ids if ids is None else overlaps.edit(ids, later.ids, f"frame {index}")
    absent = later.absent | (earlier.absent - {*later.objects, *later.remove})
    return Prompt(ids, absent=absent, remove=earlier.remove | later.remove)


def _as_ids(ids: Any, what: str) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2 or not (ids.dtype == bool or np.issubdtype(ids.dtype, np.integer)):
        raise errors.VosError(
            f"{what} is {ids.dtype} {list(ids.shape)}; masks are integer ids or booleans [height, width]"
        )
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= MAX_ID:
        raise errors.VosError(f"{what} holds ids from {ids.min()} to {ids.max()}; ids are 0 to {MAX_ID}")
    return np.array(ids, np.uint8)  # a copy: the caller may go on painting in it
