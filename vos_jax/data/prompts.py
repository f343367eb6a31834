"""Prompts: what a user says about the objects of a frame, in Python and on the command line.

On the command line: `first.png`, `120:second.png`, `120:dog.png@2`.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import cv2
import numpy as np

from vos_jax import errors, geometry
from vos_jax.data import mask_files
from vos_jax.typing import UInt8

# A mask whose sides' ratio differs by more is of another picture, or of a turned one.
MAX_STRETCH = 1.05

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
      remove: ids of objects to stop segmenting; before `ids` and `boxes` count.

    Raises:
      VosError: ids out of range, or of another type or shape.
    """

    ids: UInt8[np.ndarray, "H W"] | None = None
    boxes: Mapping[int, Box] = dataclasses.field(default_factory=dict)
    remove: AbstractSet[int] = frozenset()

    def __post_init__(self):
        if self.ids is not None:
            object.__setattr__(self, "ids", _as_ids(self.ids, "the prompt's mask"))
        for object_id in (*self.boxes, *self.remove):
            if not 1 <= object_id <= MAX_ID:
                raise errors.VosError(f"object id {object_id}: ids are 1 to {MAX_ID}")
        object.__setattr__(self, "boxes", dict(self.boxes))
        object.__setattr__(self, "remove", frozenset(self.remove))

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
    """Returns prompts by frame index, ascending; plain arrays are taken as prompts. Errors as `as_prompt`."""
    return {index: as_prompt(prompts[index], index) for index in sorted(prompts)}


def _as_ids(ids: Any, what: str) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2 or not (ids.dtype == bool or np.issubdtype(ids.dtype, np.integer)):
        raise errors.VosError(
            f"{what} is {ids.dtype} {list(ids.shape)}; masks are integer ids or booleans [height, width]"
        )
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= MAX_ID:
        raise errors.VosError(f"{what} holds ids from {ids.min()} to {ids.max()}; ids are 0 to {MAX_ID}")
    return np.array(ids, np.uint8)  # a copy: the caller may go on painting in it


@dataclasses.dataclass(frozen=True)
class MaskOption:
    """One `--masks` argument.

    Attributes:
      frame: index of its frame, from 0.
      path: the PNG.
      object_id: every pixel that is not background is this object; None: the ids are in the file.
    """

    frame: int
    path: pathlib.Path
    object_id: int | None = None

    def __str__(self) -> str:
        return f"--masks {self.frame}:{self.path}"


def parse_mask_option(text: str) -> MaskOption:
    """Reads [FRAME:]FILE[@ID]; a file that really has such a name is taken as it is."""
    if _is_file(pathlib.Path(text)):
        return MaskOption(0, pathlib.Path(text))
    parts = re.fullmatch(r"(?:(\d+):)?(.+)", text, re.DOTALL)  # None: the text is empty
    frame, name = parts.groups() if parts else (None, "")
    path, object_id = pathlib.Path(name), None
    if not _is_file(path) and (found := re.fullmatch(r"(.+)@(\d+)", str(path), re.DOTALL)):
        path, object_id = pathlib.Path(found[1]), int(found[2])
        if not 1 <= object_id < mask_files.VOID:
            raise errors.VosError(f"--masks {text}: object ids are 1 to {mask_files.VOID - 1}")
    if not _is_file(path):
        raise errors.VosError(f"--masks {text}: no such file: {path} (it is written [FRAME:]FILE.png[@ID])")
    return MaskOption(int(frame or 0), path, object_id)


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def read_mask_options(
    options: Iterable[MaskOption], size: tuple[int, int], *, resize: bool = False
) -> dict[int, UInt8[np.ndarray, "H W"]]:
    """Reads the masks of a video of (height, width) pixels: frame -> ids of what appears or is corrected.

    Several masks may be of one frame. In a later one, an id that is known corrects that object.

    Raises:
      VosError: a mask is broken, empty, of another size (or, with `resize`, of another shape); two of one
        frame hold the same object; a black and white one may be of any of several objects.
    """
    prompts: dict[int, np.ndarray] = {}
    origin: dict[tuple[int, int], pathlib.Path] = {}  # (frame, object) -> its mask
    for mask in sorted(options, key=lambda mask: mask.frame):
        ids = _fitted(mask, mask_files.read_mask(mask.path), size, resize)
        if mask.object_id is not None:
            ids = (ids > 0).astype(np.uint8) * np.uint8(mask.object_id)
        present = [int(i) for i in np.unique(ids) if i]
        if not present:
            raise errors.VosError(f"{mask}: holds no object (every pixel is background)")
        known = {object_id for frame, object_id in origin if frame < mask.frame}
        if mask.object_id is None and len(known) > 1 and mask_files.is_binary(mask.path):
            listed = ", ".join(map(str, sorted(known)))
            raise errors.VosError(
                f"{mask}: is black and white: which of the objects {listed} does it correct, or is it a new "
                f"one? say {mask}@{max(known) + 1} for a new one"
            )
        for object_id in present:
            if (other := origin.get((mask.frame, object_id))) is not None:
                free = min(set(range(1, 256)) - {o for _, o in origin})
                raise errors.VosError(
                    f"{mask}: object {object_id} of frame {mask.frame} is in {other}, too; give one of them "
                    f"another id: {mask}@{free}"
                )
            origin[mask.frame, object_id] = mask.path
        before = prompts.get(mask.frame, np.zeros(size, np.uint8))
        prompts[mask.frame] = geometry.overwrite(before, ids)
    return prompts


def _fitted(mask: MaskOption, ids: np.ndarray, size: tuple[int, int], resize: bool) -> np.ndarray:
    if ids.shape == tuple(size):
        return ids
    sizes = f"{ids.shape[1]}x{ids.shape[0]}, the video {size[1]}x{size[0]} (width x height)"
    stretch = ids.shape[0] / ids.shape[1] * size[1] / size[0]
    if not 1 / MAX_STRETCH < stretch < MAX_STRETCH:
        raise errors.VosError(f"{mask}: the mask is {sizes}: the shape differs from the video's")
    if not resize:
        raise errors.VosError(f"{mask}: the mask is {sizes}; --resize-masks fits it")
    return cv2.resize(ids, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
