"""Training sequences in files: folders of frames and masks, photos with masks.

Everything here is opened lazily and pickles small, so that it travels to worker processes.
"""

import dataclasses
import fnmatch
import logging
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import cv2
import numpy as np

from vos_jax import checks, errors, files
from vos_jax.data import frames, masks, sources, videos, youtube_vos
from vos_jax.typing import Int, UInt8, cached_property

log = logging.getLogger(__name__)


# Of the 30 sequences of DAVIS 2016 train, never trained on: development is judged by them, so that the
# official validation set stays unseen until a figure is published.
HELD_BACK = (
    "bmx-bumps",
    "car-turn",
    "dance-jump",
    "dog-agility",
    "flamingo",
    "horsejump-low",
    "scooter-gray",
)


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of training clips.

    Attributes:
      kind: Its layout: "davis_folder" (DAVIS, with or without ImageSets and resolution folders),
        "youtube_vos"
        (YouTube-VOS with meta.json), "static" (images/ and masks/, or folders holding these two),
        "array_record" (packed by `python -m vos_jax.data.build`), "tfds" (the catalogue's davis, prepared
        below `root`).
      root: Its folder; --data NAME=DIR.
      weight: Share in the mixture, relative to the other sources; 0 leaves it out.
      sequences: Names or patterns to take; empty = all.
      exclude: Names or patterns to hold back. A name or pattern that matches nothing is an error.
      dataset_name: Data set whose lambda of the matching cost it trains: "default", "static", "davis",
        "youtube_vos".
      split: The list ImageSets/YEAR/SPLIT.txt, the folder of YouTube-VOS, or the split of records.
      year: DAVIS year.
      resolution: The folder in JPEGImages and Annotations, where there is one.
      merge_objects: Whether all objects are one (DAVIS 2016).
      partial: Names or patterns whose masks leave objects unlabelled ("*": all): outside their masks the
        proposal network is not punished for what it takes for an object.
      unannotated: Whether frames without a mask may be in a clip (never first).
      short_side: Larger frames are shrunk to this short side while decoding; 0 = they keep their size.
      pseudo: Whether pseudo-clips are made from single frames; none = exactly where the sequences are single
        images.

    Raises:
      VosError: a value out of range.
    """

    kind: str
    root: str
    weight: float = 0.0
    sequences: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dataset_name: str = "default"
    split: str = "train"
    year: int = 2017
    resolution: str = "480p"
    merge_objects: bool = False
    partial: tuple[str, ...] = ()
    unannotated: bool = False
    short_side: int = 0
    pseudo: bool | None = None

    def __post_init__(self):
        checks.at_least(self, 0, "weight", "short_side")


class Sequences(Protocol):
    """Numbered training sequences with random access to their frames."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def static(self) -> bool: ...  # single images

    def length(self, index: int) -> int: ...  # number of frames

    def annotated(self, index: int) -> Int[np.ndarray, "A"]: ...  # frames that have a mask, ascending

    def holding(self, index: int) -> Int[np.ndarray, "A"] | None: ...  # frames known to show an object

    def frame(self, index: int, time: int) -> UInt8[np.ndarray, "H W 3"]: ...  # RGB

    def ids(self, index: int, time: int) -> UInt8[np.ndarray, "H W"]: ...  # of an annotated frame


def select(known: Sequence[str], config: SourceConfig) -> list[int]:
    """Returns the positions of the names that a source's `sequences` take and its `exclude` leaves."""

    def matching(patterns: Iterable[str]) -> set[int]:
        found: set[int] = set()
        for pattern in patterns:
            hits = [i for i, name in enumerate(known) if fnmatch.fnmatchcase(name, pattern)]
            if not hits:
                near = files.closest_names(pattern, known)
                raise errors.VosError(
                    f"{config.root}: no sequence matches '{pattern}'; did you mean {' or '.join(near)}? "
                    f"It has {len(known)} sequences"
                )
            found.update(hits)
        return found

    matching(config.partial)
    taken = matching(config.sequences) if config.sequences else set(range(len(known)))
    return sorted(taken - matching(config.exclude))


def is_exhaustive(name: str, config: SourceConfig) -> bool:
    """Tells whether the masks of a sequence label everything that its frames show."""
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in config.partial)


def usable(known: Sequence[str], problems: Sequence[str | None], config: SourceConfig) -> list[int]:
    """Returns the positions without a problem; names the others in one log line.

    Raises:
      VosError: none is left.
    """
    kept = [i for i, problem in enumerate(problems) if problem is None]
    lost = [f"{known[i]} ({problem})" for i, problem in enumerate(problems) if problem is not None]
    named = ", ".join(lost[:5]) + (f", ... {len(lost)} in all" if len(lost) > 5 else "")
    if not kept:
        raise errors.VosError(
            f"{config.root}: no sequence to train on" + (f"; left out: {named}" if lost else "")
        )
    if lost:
        log.warning("%s: left out %s", config.root, named)
    return kept


def problem_of(length: int, annotated: int, config: SourceConfig, static: bool) -> str | None:
    """Says why a sequence can never give a clip, or None."""
    if annotated == 0:
        return "no masks"
    drawable = length if config.unannotated else annotated
    if not static and not config.pseudo and drawable < 2:
        return "a single frame" if length < 2 else "a single annotated frame"
    return None


# --- decoding -----------------------------------------------------------------------------------------------

_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


def decode_frame(data: bytes, where: str, *, reduce: int = 1) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an encoded frame as RGB, at 1/`reduce` (1, 2 or 4) of its size.

    Raises:
      VosError: it cannot be decoded; `where` is named.
    """
    return cv2.cvtColor(frames.decode(data, where, _REDUCED[reduce]), cv2.COLOR_BGR2RGB)


def decode_ids(data: bytes, where: str) -> UInt8[np.ndarray, "H W"]:
    """Decodes object ids that a builder stored as an 8-bit grey PNG; void (255) becomes background."""
    ids = frames.decode(data, where, cv2.IMREAD_UNCHANGED)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise errors.VosError(f"{where}: the packed mask is not an 8-bit grey PNG")
    ids[ids == masks.VOID] = 0
    return ids


def shrink_to(frame: UInt8[np.ndarray, "H W 3"], short_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Shrinks a frame by area averaging so that its short side is `short_side`; never enlarges.

    A `short_side` of 0 keeps the size.
    """
    short = min(frame.shape[:2])
    if short_side == 0 or short <= short_side:
        return frame
    factor = short_side / short
    size = (round(frame.shape[1] * factor), round(frame.shape[0] * factor))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


# --- files --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FileSequences:
    """Sequences whose frames and masks are files."""

    files: tuple[videos.FolderVideo, ...]
    config: SourceConfig
    static: bool = False
    held: tuple[tuple[int, ...] | None, ...] | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(video.name for video in self.files)

    def length(self, index: int) -> int:
        return len(self.files[index].frame_paths)

    def annotated(self, index: int) -> Int[np.ndarray, "A"]:
        return np.array(sorted(self.files[index].mask_paths), int)

    def holding(self, index: int) -> Int[np.ndarray, "A"] | None:
        held = self.held[index] if self.held else None
        return None if held is None else np.array(held, int)

    def frame(self, index: int, time: int) -> UInt8[np.ndarray, "H W 3"]:
        path = self.files[index].frame_paths[time]
        short_side = self.config.short_side
        if short_side == 0:
            return frames.read_frame(path)
        short = min(frames.frame_size(path))
        reduce = max(r for r in _REDUCED if r == 1 or short // r >= short_side)
        return shrink_to(decode_frame(frames.read_file(path), str(path), reduce=reduce), short_side)

    def ids(self, index: int, time: int) -> UInt8[np.ndarray, "H W"]:
        video = self.files[index]
        ids = masks.read_mask(video.mask_paths[time])
        return np.minimum(ids, 1) if self.config.merge_objects or video.merge_objects else ids


def _file_sequences(
    files: Sequence[videos.FolderVideo],
    config: SourceConfig,
    *,
    static: bool = False,
    held: Sequence[tuple[int, ...]] | None = None,
) -> FileSequences:
    problems = [problem_of(len(v.frame_paths), len(v.mask_paths), config, static) for v in files]
    kept = usable([v.name for v in files], problems, config)
    return FileSequences(
        tuple(files[i] for i in kept), config, static, tuple(held[i] for i in kept) if held else None
    )


def open_davis(config: SourceConfig) -> FileSequences:
    """DAVIS layout: by its ImageSets where these exist, else every folder of JPEGImages."""
    if (pathlib.Path(config.root) / "ImageSets").is_dir():
        source = sources.DavisSource(
            config.root, year=config.year, split=config.split, resolution=config.resolution
        )
    else:
        source = sources.FoldersSource(config.root)
    known = source.sequences()
    return _file_sequences([source.video(known[i]) for i in select(known, config)], config)


def open_ytvos(config: SourceConfig) -> FileSequences:
    """YouTube-VOS layout: [SPLIT/]JPEGImages, Annotations, and meta.json: which frames show an object."""
    root = youtube_vos.split_folder(config.root, config.split)
    meta = youtube_vos.read_meta(root / "meta.json")
    known = sorted(meta)
    opened, held = [], []
    for name in (known[i] for i in select(known, config)):
        video = videos.open_video(name, root / "JPEGImages" / name, root / "Annotations" / name)
        shown = {frame for listed in meta[name].values() for frame in listed.frames}
        opened.append(video)
        held.append(tuple(i for i in sorted(video.mask_paths) if video.frame_names[i] in shown) or None)
    return _file_sequences(opened, config, held=held)


def open_static(config: SourceConfig) -> FileSequences:
    """Photos with masks: ROOT/{images,masks} or ROOT/SET/{images,masks}; names are STEM or SET/STEM."""
    root = pathlib.Path(config.root)
    folders = [root] if (root / "images").is_dir() else sorted(p.parent for p in root.glob("*/images"))
    if not folders:
        raise errors.VosError(
            f"{root}: no photos; expected images/ and masks/, or SET/images/ and SET/masks/"
        )
    photos = []
    for folder in folders:
        prefix = "" if folder == root else f"{folder.name}/"
        marks = {
            path.stem: path for path in files.list_files(folder / "masks") if path.suffix.lower() == ".png"
        }
        for image in files.list_files(folder / "images"):
            if videos.is_frame(image):
                mask = {0: marks[image.stem]} if image.stem in marks else {}
                photos.append(
                    videos.FolderVideo(name=prefix + image.stem, frame_paths=(image,), mask_paths=mask)
                )
    chosen = [photos[i] for i in select([photo.name for photo in photos], config)]
    return _file_sequences(chosen, config, static=True)
