"""A video with object masks and the rules of its data set, read lazily from files, records or a renderer."""

import abc
import concurrent.futures
import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, Self

import numpy as np

from vos_jax import errors, files
from vos_jax.data import image_files, mask_files
from vos_jax.typing import UInt8, cached_property

log = logging.getLogger(__name__)

PROMPT_RULES = ("first_frame", "first", "all")
"""Choices of the masks that are prompts: the first frame's; each object's first; every one there is."""


class FrameSource(Protocol):
    """Frames that can be segmented: a `Video`, a `media.Media`, frames of an application.

    Attributes:
      name: of the video.
      size: (height, width) of the masks in pixels.
      num_frames: None where it is not known before the video is read.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def num_frames(self) -> int | None: ...

    def mask_name(self, index: int) -> str | None:
        """Returns the file stem of a frame's mask; None: the frame's mask is not a result."""
        ...

    def frames(self, start: int = 0, *, reverse: bool = False) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields the frames from `start` to the end, or with `reverse` to the beginning; RGB.

        Raises:
          VosError: a frame cannot be decoded, or the source cannot be read backward.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video(abc.ABC):
    """A `FrameSource` with masks and a protocol; frames and masks are read when asked for. It pickles small.

    Attributes:
      name: Name in its data set.
      frame_names: File stems of the frames, in order.
      annotated: Frames that have a mask, ascending.
      with_objects: Frames known to show an object, ascending; None: those in `annotated` may.
      listed: Frames whose masks are results, ascending; None: all of them.
      listed_of: Object id -> frames in which it is scored after its first (YouTube-VOS); None: by the rule of
        DAVIS, see `scored_frames`.
      scores_prompts: Whether `listed_of` includes the frames of prompts (LVOS).
      merge_objects: Whether every id above 0 is 1 (DAVIS 2016). Results may then hold any ids.
      prompt_rule: One of PROMPT_RULES. "first_frame" (DAVIS) ignores objects that come later; with "all",
        later masks correct the objects, and nothing is left to be scored.
      num_objects: Objects in the whole video, if known: further masks need not be read once all are found.
      short_side: Frames are shrunk to this short side; 0: they keep their size. Masks always keep theirs.
    """

    name: str
    frame_names: tuple[str, ...]
    annotated: tuple[int, ...]
    with_objects: tuple[int, ...] | None = None
    listed: tuple[int, ...] | None = None
    listed_of: Mapping[int, frozenset[int]] | None = None
    scores_prompts: bool = False
    merge_objects: bool = False
    prompt_rule: str = "first"
    num_objects: int | None = None
    short_side: int = 0

    @property
    @abc.abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) of every mask, and of every frame that is not shrunk."""

    @abc.abstractmethod
    def frame(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns frame `index` in RGB; VosError if it cannot be decoded."""

    @abc.abstractmethod
    def mask(self, index: int) -> UInt8[np.ndarray, "H W"] | None:
        """Returns the object ids of frame `index`, None without a mask; VosError if the mask is broken."""

    def check(self) -> None:
        """Raises VosError where the video cannot be segmented."""
        _ = self.first_frames

    def fingerprint(self) -> str:
        """Returns a checksum of the names and contents of all frames; VosError if one cannot be read."""
        return checksum(self.frame_names, (self.frame(index).tobytes() for index in range(len(self))))

    def mask_origin(self, index: int) -> str:
        """Returns what errors call the mask of frame `index`."""
        return f"{self.name}/{self.frame_names[index]}"

    def __len__(self) -> int:
        return len(self.frame_names)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.frame_names)

    def mask_name(self, index: int) -> str | None:
        """Returns the file stem of a frame's mask; None: the frame's mask is not a result."""
        return self.frame_names[index] if self.listed is None or index in self.listed else None

    def frames(self, start: int = 0, *, reverse: bool = False) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Yields the frames from `start` to the end, or to the beginning; VosError names a broken one."""
        return map(self.frame, range(start, -1, -1) if reverse else range(start, len(self)))

    @property
    def required(self) -> tuple[int, ...]:
        """Frames whose masks are results, ascending. The others are only seen."""
        return tuple(range(len(self))) if self.listed is None else self.listed

    @property
    def required_names(self) -> tuple[str, ...]:
        """Names of the frames whose masks are results."""
        return tuple(self.frame_names[index] for index in self.required)

    @cached_property
    def first_frames(self) -> dict[int, int]:
        """Object id -> the first annotated frame that shows it.

        Reads every mask unless the first frame's is the only prompt, or all objects are found before.

        Raises:
          VosError: a broken mask, none at all, the first one without objects, or more than MAX_OBJECTS.
        """
        first: dict[int, int] = {}
        candidates = self._prompt_candidates()
        for index in candidates:
            ids = self.mask(index)
            assert ids is not None  # it is annotated
            for object_id in np.unique(ids).tolist():
                if object_id:
                    first.setdefault(object_id, index)
            if len(first) == self.num_objects:
                break
        if not first:
            which = "the first mask" if len(candidates) == 1 else f"none of the {len(candidates)} masks"
            raise errors.VosError(
                f"{self.mask_origin(candidates[0])}: {which} of sequence '{self.name}' holds "
                f"{'no' if len(candidates) == 1 else 'an'} object (every pixel is background); draw "
                "the objects to follow, or leave the sequence out"
            )
        if len(first) > mask_files.MAX_OBJECTS:
            raise errors.VosError(
                f"sequence '{self.name}': {len(first)} objects in masks; at most {mask_files.MAX_OBJECTS} "
                "are tracked in one video"
            )
        return first

    def _prompt_candidates(self) -> tuple[int, ...]:
        if not self.annotated:
            raise errors.VosError(
                f"sequence '{self.name}' has no mask; the objects of its first frame are needed in "
                f"{self.mask_origin(0)}"
            )
        if self.prompt_rule != "first_frame":
            return self.annotated
        if 0 not in self.annotated:
            raise errors.VosError(
                f"{self.mask_origin(0)}: missing; the first frame's mask says what to follow"
            )
        return (0,)

    def prompts(self) -> dict[int, UInt8[np.ndarray, "H W"]]:
        """Returns frame index -> ids that a tracker is given: each object once, in its first annotated frame.

        With the prompt rule "all": every mask that holds an object. Errors are those of `first_frames`.
        """
        first = self.first_frames
        given = {}
        for index in self.annotated if self.prompt_rule == "all" else sorted(set(first.values())):
            ids = self.mask(index)
            assert ids is not None  # it is annotated
            if self.prompt_rule != "all":
                ids = np.where(np.isin(ids, [o for o in first if first[o] == index]), ids, np.uint8(0))
            if ids.any():
                given[index] = ids
        return given

    def scored_frames(self, object_id: int) -> tuple[int, ...]:
        """Returns the frames in which an object is scored, ascending: annotated results after its first one.

        By the rule of DAVIS the video's last frame does not count; frames that a data set lists of the object
        all do. Prompts are not scored, but by the rule of LVOS (`scores_prompts`). If each mask brings a new
        object, truth is withheld: such a mask need not hold the objects that are known already.
        """
        first = self.first_frames[object_id]
        withheld = self.prompt_rule == "first" and set(self.annotated) == set(self.first_frames.values())
        if withheld or self.prompt_rule == "all":
            return ()
        if self.listed_of is not None:
            counted = self.listed_of.get(object_id, frozenset())
        else:
            counted = frozenset(self.required) - {len(self) - 1}
        begin = first if self.scores_prompts else first + 1
        return tuple(index for index in self.annotated if index >= begin and index in counted)

    def head(self, count: int) -> Self:
        """Returns the video of the first `count` frames; all of them where there are fewer."""

        def within(indices: tuple[int, ...] | None) -> tuple[int, ...] | None:
            return None if indices is None else tuple(index for index in indices if index < count)

        return dataclasses.replace(
            self,
            frame_names=self.frame_names[:count],
            annotated=within(self.annotated),
            with_objects=within(self.with_objects),
            listed=within(self.listed),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderVideo(Video):
    """A video whose frames and masks are files.

    Attributes:
      frame_paths: The frames, in order.
      mask_paths: Frame index -> mask file.
    """

    frame_paths: tuple[pathlib.Path, ...]
    mask_paths: Mapping[int, pathlib.Path]

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width), from the first frame's header."""
        return image_files.frame_size(self.frame_paths[0])

    def frame(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns frame `index` in RGB; VosError if it cannot be decoded whole."""
        path = self.frame_paths[index]
        return image_files.read_frame(path, short_side=self.short_side, bits=self._bits)

    @cached_property
    def _bits(self) -> int:
        """Bits per channel that the frames use, from the first one: all frames get the same brightness."""
        suffix = self.frame_paths[0].suffix.lower()
        found = image_files.bits(self.frame_paths[0]) if suffix in image_files.DEEP else 8
        if found == 12:
            log.warning("%s: 16-bit frames with values of 12 bits, read as such", self.frame_paths[0].parent)
        return found if found == 12 else 16

    def fingerprint(self) -> str:
        """Returns a checksum of the names and bytes of all frame files; VosError if one cannot be read."""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            sums = pool.map(files.sha256, self.frame_paths)
            return checksum([path.name for path in self.frame_paths], (each.encode() for each in sums))

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"] | None:
        """Returns the object ids of frame `index`, None without a file; VosError if the file is broken."""
        if index not in self.mask_paths:
            return None
        ids = mask_files.read_mask(self.mask_paths[index])
        return np.minimum(ids, np.uint8(1)) if self.merge_objects else ids

    def check(self) -> None:
        """Checks the whole video without decoding a frame (below 1 ms per frame).

        Reads every header (size, completeness) and the masks that prompts come from.

        Raises:
          VosError: naming the file that is missing, truncated, of another size, or without objects.
        """
        self.check_frames()
        for index in self.annotated:
            size = mask_files.png_size(self.mask_paths[index])
            if size != self.size:
                raise errors.VosError(
                    f"{self.mask_paths[index]}: the mask is {size[1]}x{size[0]}, its frame {self.size[1]}x"
                    f"{self.size[0]} (width x height); masks must have the size of their frames"
                )
        super().check()

    def check_frames(self) -> None:
        """Checks every frame's header: whole, and of the first one's size; VosError names the first other."""
        for path in self.frame_paths[: len(self)]:
            size = image_files.frame_size(path)
            if size != self.size:
                raise errors.VosError(
                    f"{path}: the frame is {size[1]}x{size[0]}, the first of its sequence "
                    f"{self.size[1]}x{self.size[0]} (width x height); all frames of a sequence have one size"
                )

    def mask_origin(self, index: int) -> str:
        """Returns the path of a frame's mask, or what it would be."""
        folder = min(self.mask_paths.values()).parent if self.mask_paths else self.frame_paths[0].parent
        return str(self.mask_paths.get(index, folder / f"{self.frame_names[index]}.png"))


def checksum(names: Iterable[str], contents: Iterable[bytes]) -> str:
    """Returns the sha256 of named contents, in order."""
    digest = hashlib.sha256()
    for name, content in zip(names, contents, strict=True):
        digest.update(repr((name, len(content))).encode())
        digest.update(content)
    return digest.hexdigest()


def open_folder_video(
    name: str, frame_folder: pathlib.Path, mask_folder: pathlib.Path, **protocol
) -> FolderVideo:
    """Lists a video's files, in natural order (2 before 10), and pairs masks with frames by name.

    Args:
      name: its name.
      frame_folder: holds the frames.
      mask_folder: holds FRAME.png for some frames; may be missing.
      protocol: further fields of `Video`.

    Raises:
      VosError: no frames, two frames of one name, or a mask without its frame.
    """
    listed = files.list_files(frame_folder)
    paths = [path for path in listed if image_files.is_frame(path)]
    other = image_files.left_out(listed)
    if not paths:
        found = (other or "no frames in it") if frame_folder.is_dir() else "no such folder"
        raise errors.VosError(
            f"{frame_folder}: sequence '{name}' has no images ({found}; "
            f"{', '.join(image_files.EXTENSIONS)} are read)"
        )
    if other:
        log.warning("%s: %s", frame_folder, other)
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
            if image_files.is_frame(path) and path.stem in index_of and mask_folder != frame_folder:
                raise errors.VosError(
                    f"{path}: masks are PNGs, and this one would be left out; convert it (indexed or grey, "
                    "with the same pixel values), or move it out of the folder"
                )
            continue
        if path.stem not in index_of:
            raise errors.VosError(
                f"{frame_folder / path.stem}{paths[0].suffix}: the frame is missing, its mask {path} is there"
            )
        mask_paths[index_of[path.stem]] = path
    return FolderVideo(
        name=name,
        frame_names=tuple(index_of),
        annotated=tuple(sorted(mask_paths)),
        frame_paths=tuple(paths),
        mask_paths=mask_paths,
        **protocol,
    )
