"""The masks that a user gives on the command line: `first.png`, `120:second.png`, `120:dog.png@2`."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

import cv2
import numpy as np

from vos_jax import errors, geometry
from vos_jax.data import masks
from vos_jax.typing import UInt8

# A mask whose sides' ratio differs by more is of another picture, or of a turned one.
MAX_STRETCH = 1.05


@dataclasses.dataclass(frozen=True)
class GivenMask:
    """One `--masks` argument.

    Attributes:
      frame: which frame it is of, from 0.
      path: the PNG.
      object_id: every pixel that is not background is this object; None: the ids are in the file.
    """

    frame: int
    path: pathlib.Path
    object_id: int | None = None

    def __str__(self) -> str:
        return f"--masks {self.frame}:{self.path}"


def parse(text: str) -> GivenMask:
    """Reads [FRAME:]FILE[@ID]; a file that really has such a name is taken as it is."""
    if _is_file(pathlib.Path(text)):
        return GivenMask(0, pathlib.Path(text))
    parts = re.fullmatch(r"(?:(\d+):)?(.+)", text, re.DOTALL)  # None: the text is empty
    frame, name = parts.groups() if parts else (None, "")
    path, object_id = pathlib.Path(name), None
    if not _is_file(path) and (found := re.fullmatch(r"(.+)@(\d+)", str(path), re.DOTALL)):
        path, object_id = pathlib.Path(found[1]), int(found[2])
        if not 1 <= object_id < masks.VOID:
            raise errors.VosError(f"--masks {text}: object ids are 1 to {masks.VOID - 1}")
    if not _is_file(path):
        raise errors.VosError(f"--masks {text}: no such file: {path} (it is written [FRAME:]FILE.png[@ID])")
    return GivenMask(int(frame or 0), path, object_id)


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def read(
    given: Iterable[GivenMask], size: tuple[int, int], *, resize: bool = False
) -> dict[int, UInt8[np.ndarray, "H W"]]:
    """Reads the masks of a video of (height, width) pixels: frame -> ids of what appears or is corrected.

    Several masks may be of one frame. In a later one, an id that is known corrects that object.

    Raises:
      VosError: a mask is broken, empty, of another size (or, with `resize`, of another shape); two of one
        frame hold the same object; a black and white one may be of any of several objects.
    """
    annotations: dict[int, np.ndarray] = {}
    origin: dict[tuple[int, int], pathlib.Path] = {}  # (frame, object) -> its mask
    for mask in sorted(given, key=lambda mask: mask.frame):
        ids = _fitted(mask, masks.read_mask(mask.path), size, resize)
        if mask.object_id is not None:
            ids = (ids > 0).astype(np.uint8) * np.uint8(mask.object_id)
        present = [int(i) for i in np.unique(ids) if i]
        if not present:
            raise errors.VosError(f"{mask}: holds no object (every pixel is background)")
        known = {object_id for frame, object_id in origin if frame < mask.frame}
        if mask.object_id is None and len(known) > 1 and masks.is_binary(mask.path):
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
        before = annotations.get(mask.frame, np.zeros(size, np.uint8))
        annotations[mask.frame] = geometry.overwrite(before, ids)
    return annotations


def _fitted(mask: GivenMask, ids: np.ndarray, size: tuple[int, int], resize: bool) -> np.ndarray:
    if ids.shape == tuple(size):
        return ids
    sizes = f"{ids.shape[1]}x{ids.shape[0]}, the video {size[1]}x{size[0]} (width x height)"
    stretch = ids.shape[0] / ids.shape[1] * size[1] / size[0]
    if not 1 / MAX_STRETCH < stretch < MAX_STRETCH:
        raise errors.VosError(f"{mask}: the mask is {sizes}: another shape, so it is not of this video")
    if not resize:
        raise errors.VosError(f"{mask}: the mask is {sizes}; --resize-masks fits it")
    return cv2.resize(ids, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
