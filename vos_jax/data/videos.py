"""One video made of files: frames and masks paired by name, opened lazily, checked up front."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from vos_jax import errors, files
from vos_jax.data import frames, masks
from vos_jax.typing import UInt8, cached_property

GIVEN = ("first_frame", "first", "all")
"""Which masks a tracker is given: the first frame's; each object's first; every one there is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderVideo:
    """A video whose frames and masks are files; every method reads what it needs from disk.

    Attributes:
      name: sequence name.
      frame_paths: the frames, in order.
      mask_paths: frame index -> mask file; may lack any frame.
      merge_objects: every id above 0 becomes 1 (DAVIS 2016).
      given: which masks are input, one of GIVEN. "first_frame" (DAVIS): objects that come later are ignored.
        "all": what is drawn in later masks corrects the objects, and nothing is left to be scored.
      required: indices of the frames whose masks are results; None: all of them. The others are only seen.
      required_of: object id -> indices of the frames in which it is scored after its first (YouTube-VOS);
        None: by the rule of DAVIS (`scoring.score_sequence`).
    """

    name: str
    frame_paths: tuple[pathlib.Path, ...]
    mask_paths: Mapping[int, pathlib.Path]
    merge_objects: bool = False
    given: str = "first"
    required: tuple[int, ...] | None = None
    required_of: Mapping[int, frozenset[int]] | None = None

    @cached_property
    def frame_names(self) -> tuple[str, ...]:
        return tuple(path.stem for path in self.frame_paths)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width), from the first frame's header."""
        return frames.frame_size(self.frame_paths[0])

    @cached_property
    def first_frames(self) -> dict[int, int]:
        """Object id -> index of the first annotated frame that holds it.

        Reads every mask of the video (1-2 ms each at 480p) unless the first frame's is all that is given.

        Raises:
          VosError: a broken mask, none at all, the first one without objects, or more than MAX_OBJECTS.
        """
        first: dict[int, int] = {}
        for index in self._input_candidates():
            for object_id in _objects(self._mask(index)):
                first.setdefault(object_id, index)
            # Where frames are required whether or not they show an object, the first truth may be empty.
            if not first and self.required is None:
                break
        if not first:
            raise errors.VosError(
                f"{self.mask_paths[index]}: the first mask of sequence '{self.name}' holds no object "
                "(every pixel is background); draw the objects to follow, or delete the file if they "
                "appear in a later mask"
            )
        if len(first) > masks.MAX_OBJECTS:
            raise errors.VosError(
                f"sequence '{self.name}': {len(first)} objects in its masks; at most {masks.MAX_OBJECTS} are "
                "tracked in one video"
            )
        return first

    @property
    def scored(self) -> Mapping[int, frozenset[int]] | None:
        """Object id -> frames in which it is scored; None: the rule of DAVIS.

        What is given is not scored. Where each mask brings a new object, truth is withheld: such a mask need
        not hold the objects that are known already.
        """
        withheld = self.given == "first" and set(self.mask_paths) == set(self.first_frames.values())
        return {} if withheld or self.given == "all" else self.required_of

    def __len__(self) -> int:
        return len(self.frame_paths)

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame `index` in RGB; VosError if it cannot be decoded whole or has another size than the first."""
        frame = frames.read_frame(self.frame_paths[index])
        self._check_frame_size(index, frame.shape[:2])
        return frame

    def annotation(self, index: int) -> UInt8[np.ndarray, "H W"] | None:
        """Object ids of frame `index`, None where it has no mask; VosError if the mask is broken."""
        return self._mask(index) if index in self.mask_paths else None

    def inputs(self) -> dict[int, UInt8[np.ndarray, "H W"]]:
        """Frame index -> ids that a tracker is given: each object once, in its first annotated frame.

        With `given` "all": every mask that holds an object.
        """
        if self.given == "all":
            _ = self.first_frames
            every = {index: self._mask(index) for index in sorted(self.mask_paths)}
            return {index: ids for index, ids in every.items() if ids.any()}
        given = {}
        for index in sorted(set(self.first_frames.values())):
            new = [o for o, first in self.first_frames.items() if first == index]
            ids = self._mask(index)
            given[index] = np.where(np.isin(ids, new), ids, np.uint8(0))
        return given

    def check(self) -> None:
        """Checks the whole video without decoding a frame (below 1 ms per frame).

        Reads every header (size, completeness) and the input masks.

        Raises:
          VosError: naming the file that is missing, truncated, of another size, or without objects.
        """
        self.check_frames()
        for path in self.mask_paths.values():
            size = masks.png_size(path)
            if size != self.size:
                raise errors.VosError(
                    f"{path}: the mask is {size[1]}x{size[0]}, its frame {self.size[1]}x{self.size[0]} "
                    "(width x height); masks must have the size of their frames"
                )
        _ = self.first_frames

    def check_frames(self) -> None:
        """Checks every frame's header: whole, and of the first one's size; VosError names the first other."""
        for index, path in enumerate(self.frame_paths):
            self._check_frame_size(index, frames.frame_size(path))

    def _mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        ids = masks.read_mask(self.mask_paths[index], self.size)
        return np.minimum(ids, np.uint8(1)) if self.merge_objects else ids

    def _check_frame_size(self, index: int, size: tuple[int, int]) -> None:
        if tuple(size) != self.size:
            raise errors.VosError(
                f"{self.frame_paths[index]}: the frame is {size[1]}x{size[0]}, the first of its sequence "
                f"{self.size[1]}x{self.size[0]} (width x height); all frames of a sequence have one size"
            )

    def _input_candidates(self) -> list[int]:
        if not self.mask_paths:
            raise errors.VosError(
                f"sequence '{self.name}' ({self.frame_paths[0].parent}) has no mask; the objects of its "
                f"first frame are needed as '{self.frame_names[0]}.png'"
            )
        if self.given != "first_frame":
            return sorted(self.mask_paths)
        if 0 not in self.mask_paths:
            folder = min(self.mask_paths.values()).parent
            raise errors.VosError(
                f"{folder / self.frame_names[0]}.png: missing; the first frame's mask says what to follow"
            )
        return [0]


def open_video(
    name: str,
    frame_folder: pathlib.Path,
    mask_folder: pathlib.Path,
    *,
    merge_objects: bool = False,
    given: str = "first",
) -> FolderVideo:
    """Lists a sequence's files, in natural order (2 before 10), and pairs masks with frames by name.

    Raises:
      VosError: no frames, two frames of one name, or a mask without its frame.
    """
    paths = [path for path in files.list_files(frame_folder) if is_frame(path)]
    if not paths:
        found = "no frames in it" if frame_folder.is_dir() else "no such folder"
        raise errors.VosError(
            f"{frame_folder}: sequence '{name}' has no images ({found}; "
            f"{', '.join(frames.EXTENSIONS)} are read)"
        )
    index_of: dict[str, int] = {}
    for index, path in enumerate(paths):
        if path.stem in index_of:
            raise errors.VosError(
                f"{path}: two frames are named '{path.stem}' ({paths[index_of[path.stem]].name} is the other)"
            )
        index_of[path.stem] = index
    mask_paths = {}
    for path in files.list_files(mask_folder):
        if path.suffix.lower() != ".png":
            continue
        if path.stem not in index_of:
            raise errors.VosError(
                f"{frame_folder / path.stem}{paths[0].suffix}: the frame is missing, its mask {path} is there"
            )
        mask_paths[index_of[path.stem]] = path
    return FolderVideo(
        name=name,
        frame_paths=tuple(paths),
        mask_paths=mask_paths,
        merge_objects=merge_objects,
        given=given,
    )


def is_frame(path: pathlib.Path) -> bool:
    return path.suffix.lower() in frames.EXTENSIONS


def _objects(ids: UInt8[np.ndarray, "H W"]) -> list[int]:
    return [i for i in np.unique(ids).tolist() if i]
