"""Where videos come from: the protocols every source keeps, the DAVIS layout, and a folder of folders."""

import os
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vos_jax import errors, files
from vos_jax.data import videos
from vos_jax.typing import UInt8


class Video(Protocol):
    """One video and its annotations, opened lazily.

    A video may also have `merge_objects = True` (DAVIS 2016): its annotations hold id 1 only, and
    predictions to score may carry any ids above 0; `required`, see `written`; and `scored`, see
    `scoring.score_sequence`.
    """

    @property
    def name(self) -> str: ...

    @property
    def frame_names(self) -> tuple[str, ...]: ...  # file stems, in order

    @property
    def size(self) -> tuple[int, int]: ...  # (height, width) of every frame

    @property
    def first_frames(self) -> dict[int, int]: ...  # object id -> index of its first annotated frame

    def __len__(self) -> int: ...

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]: ...  # RGB

    def annotation(self, index: int) -> UInt8[np.ndarray, "H W"] | None: ...  # ids; None: not annotated

    def inputs(self) -> dict[int, UInt8[np.ndarray, "H W"]]: ...  # all that a tracker may see

    def check(self) -> None: ...  # VosError, before work starts


def written(video: Video) -> tuple[int, ...]:
    """Indices of the frames whose masks are results: all, or those that the protocol requires."""
    required = getattr(video, "required", None)
    return tuple(range(len(video))) if required is None else required


def written_names(video: Video) -> tuple[str, ...]:
    """Names of the frames whose masks are results."""
    return tuple(video.frame_names[index] for index in written(video))


class VideoSource(Protocol):
    """Named videos of one dataset split.

    A source may also have `archive`, the folder that holds the sequences in a submission (default: none), and
    `seen`, which says of (sequence, object id) whether its category was trained on (YouTube-VOS).
    """

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    def sequences(self) -> list[str]: ...

    def video(self, sequence: str) -> Video: ...


class DavisSource:
    """The official DAVIS layout: ImageSets/YEAR/SPLIT.txt, JPEGImages/RESOLUTION, Annotations/RESOLUTION.

    Args:
      root: the folder holding JPEGImages/.
      year: 2016 merges all objects into one, 2017 keeps them.
      split: a list in ImageSets/YEAR: "train", "val", "test-dev", ...
      resolution: "480p" or "Full-Resolution".
      sequences: the ones wanted, in this order; empty for all of the split.
      merge_objects: overrides what `year` says.
      given: which masks are input, one of `videos.GIVEN`.

    Raises:
      VosError: what is missing at `root`, and where DAVIS is to be had; a sequence that is not in the split.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        year: int = 2017,
        split: str = "val",
        resolution: str = "480p",
        sequences: Sequence[str] = (),
        merge_objects: bool | None = None,
        given: str = "first_frame",
    ):
        self.root = pathlib.Path(root)
        self._given = given
        self.name, self.split = f"davis{year}", split
        self.merge_objects = year == 2016 if merge_objects is None else merge_objects
        files.safe_name(resolution, "resolution")
        self._frames = self.root / "JPEGImages" / resolution
        self._masks = self.root / "Annotations" / resolution
        listing = self._find_listing(year, split, resolution)
        missing = [
            folder.relative_to(self.root) for folder in (self._frames, self._masks) if not folder.is_dir()
        ]
        if missing or listing is None:
            raise _no_davis(
                self.root, year, [*missing, *([] if listing else [f"ImageSets/{year}/{split}.txt"])]
            )
        listed = _read_listing(listing)
        if not listed:
            raise errors.VosError(f"{listing}: lists no sequence")
        self._sequences = files.select_names(sequences, listed, f"{self.name} {split} ({listing})")

    def sequences(self) -> list[str]:
        """Names of the chosen sequences, in order."""
        return list(self._sequences)

    def video(self, sequence: str) -> videos.FolderVideo:
        """Opens one sequence; VosError if it is unknown, has no frames, or a mask has no frame."""
        files.select_names([sequence], self._sequences, f"{self.name} {self.split}")
        return videos.open_video(
            sequence,
            self._frames / sequence,
            self._masks / sequence,
            merge_objects=self.merge_objects,
            given=self._given,
        )

    def _find_listing(self, year: int, split: str, resolution: str) -> pathlib.Path | None:
        files.safe_name(split, "split")
        listings = self.root / "ImageSets" / str(year)
        if (listings / f"{split}.txt").is_file():
            return listings / f"{split}.txt"
        splits = sorted(path.stem for path in listings.glob("*.txt"))
        if splits:
            raise errors.VosError(
                f"{listings / split}.txt: no such split; {listings} has {', '.join(splits)} "
                f"(--config.data.split={files.closest_names(split, splits)[0]})"
            )
        # The archive of 2016 lists pairs of files per resolution.
        old = self.root / "ImageSets" / resolution / f"{split}.txt"
        return old if year == 2016 and old.is_file() else None


class FoldersSource:
    """A folder of folders, in one of two layouts.

    1. ROOT/JPEGImages/SEQUENCE/*.jpg with ROOT/Annotations/SEQUENCE/*.png;
    2. ROOT/SEQUENCE/*.jpg with ROOT/SEQUENCE/masks/*.png.

    Frames may be jpg, jpeg, png, bmp or webp; a mask has its frame's name. Objects may appear in any mask.

    Args:
      root: the folder.
      sequences: the ones wanted, in this order; empty for all.
      merge_objects: all objects are one.
      given: which masks are input, one of `videos.GIVEN`; by default each object's first.

    Raises:
      VosError: no such folder, no sequence in it, or an unknown sequence.
    """

    name = "folders"
    split = "all"

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        sequences: Sequence[str] = (),
        merge_objects: bool = False,
        given: str = "first",
    ):
        self.root = pathlib.Path(root)
        self._given = given
        self.merge_objects = merge_objects
        if not self.root.is_dir():
            raise errors.VosError(
                f"{self.root}: no such folder; --data DIR names the folder with the videos "
                "(`--config demo` needs no data)"
            )
        self._paired = (self.root / "JPEGImages").is_dir()
        folder = self.root / "JPEGImages" if self._paired else self.root
        found = [
            path.name
            for path in files.list_files(folder)
            if path.is_dir() and (self._paired or any(map(videos.is_frame, files.list_files(path))))
        ]
        if not found:
            raise errors.VosError(
                f"{folder}: no sequences; expected JPEGImages/SEQUENCE/*.jpg with "
                "Annotations/SEQUENCE/*.png, or SEQUENCE/*.jpg with SEQUENCE/masks/*.png"
            )
        if self._paired and not any(map(videos.is_frame, files.list_files(folder / found[0]))):
            nested = [path for path in files.list_files(folder / found[0]) if path.is_dir()]
            if nested:
                raise errors.VosError(
                    f"{folder / found[0]}: holds folders, not frames; for the DAVIS layout say "
                    "--config.data.kind=davis"
                )
        self._sequences = files.select_names(sequences, found, str(folder))

    def sequences(self) -> list[str]:
        """Names of the chosen sequences, in order."""
        return list(self._sequences)

    def video(self, sequence: str) -> videos.FolderVideo:
        """Opens one sequence; VosError if it is unknown, has no frames, or a mask has no frame."""
        files.select_names([sequence], self._sequences, str(self.root))
        if self._paired:
            folders = self.root / "JPEGImages" / sequence, self.root / "Annotations" / sequence
        else:
            folders = self.root / sequence, self.root / sequence / "masks"
        return videos.open_video(sequence, *folders, merge_objects=self.merge_objects, given=self._given)


def _read_listing(path: pathlib.Path) -> list[str]:
    try:
        lines = [line.split() for line in files.read_bytes(path).decode().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise errors.VosError(f"{path}: cannot read the list of sequences: {error}") from error
    # A line is a sequence, or in the archive of 2016 "/JPEGImages/480p/SEQUENCE/00000.jpg /Annotations/...".
    listed = [parts[0].split("/")[3] if parts[0].count("/") == 4 else parts[0] for parts in lines]
    return list(dict.fromkeys(files.safe_name(name, f"{path}: sequence") for name in listed))


def _no_davis(root: pathlib.Path, year: int, missing: list) -> errors.VosError:
    found = "" if root.is_dir() else "; there is no such folder"
    others = [path.name for path in files.list_files(root / "JPEGImages")]
    if others:
        found = (
            f"; JPEGImages/ has {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}: another "
            "--config.data.resolution, or a folder of folders (--config.data.kind=folders)?"
        )
    return errors.VosError(
        f"no DAVIS dataset at {root} (missing: {', '.join(map(str, missing))}{found})\n"
        "get 'TrainVal - Images and Annotations - 480p' at "
        "https://davischallenge.org/davis2017/code.html and unzip it\n"
        f"then type: python eval.py --config davis{year % 100} --data DIR (the folder holding JPEGImages/); "
        "python eval.py --config demo needs no data"
    )
