"""The settings of a data set, and `VideoDataset`: named videos that are opened one by one."""

import dataclasses
import fnmatch
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

from vos_jax import checks, errors, files
from vos_jax.data import video as video_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """A data set in one of the layouts.

    Attributes:
      kind: Its layout: "davis" (ImageSets, resolution folders), "folders" (a folder of folders of frames),
        "youtube_vos" (meta.json), "photos" (images/ and masks/, or folders with these two), "array_record"
        (packed by vos_jax.tools.pack_data), "tfds" (the davis of TFDS, prepared below `root`),
        "rendered" (drawn by our code), or "auto" = detected from the folder.
      root: Its folder; --data.
      split: The list ImageSets/YEAR/SPLIT.txt ("val", "train", "test-dev"); of a folder of folders with lists
        ImageSets/SPLIT.txt ("all": all videos), the folder of YouTube-VOS ("valid"), or the split of records.
      year: The folder in ImageSets/ of DAVIS.
      resolution: The folder in JPEGImages/ and Annotations/ of DAVIS: "480p" or "Full-Resolution".
      sequences: Names or patterns to take; empty = all of the split.
      exclude: Names or patterns to leave out. A name or pattern that matches nothing is an error.
      merge_objects: Whether all objects are merged into one, as in DAVIS 2016.
      all_frames: The folder with every frame of YouTube-VOS (valid_all_frames), to segment more than the
        required frames.
    """

    kind: str = "auto"
    root: str = ""
    split: str = "train"
    year: int = 2017
    resolution: str = "480p"
    sequences: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    merge_objects: bool = False
    all_frames: str = ""

    def option(self, name: str) -> str:
        """Returns how a field is set on the command line, for errors."""
        return f"--{name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalDatasetConfig(DatasetConfig):
    """The data set that is segmented.

    Attributes:
      sequences: Names or patterns to take, in this order; empty = all of the split; --sequences.
      prompts: Masks that are used as prompts: "first_frame", "first" (each object's first), "all" (later ones
        are corrections), or "auto" = by the data set's protocol.
      seen: Categories of YouTube-VOS that were trained on; empty = those of ../train/meta.json, if that file
        exists.

    Raises:
      VosError: an unknown word.
    """

    kind: str = "davis"
    root: str = "data/DAVIS"
    split: str = "val"
    prompts: str = "auto"
    seen: tuple[str, ...] = ()

    def __post_init__(self):
        checks.one_of(self, "prompts", ("auto", *video_lib.PROMPT_RULES))

    def option(self, name: str) -> str:
        """Returns how a field is set on the command line, for errors."""
        return f"--config.data.{name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig(DatasetConfig):
    """One source of training clips.

    Attributes:
      root: Its folder; --data NAME=DIR.
      weight: Share in the mixture, relative to the other sources; 0 leaves it out.
      dataset_name: Data set whose lambda of the matching cost it trains: "default", "static", "davis",
        "youtube_vos".
      partial: Names or patterns of videos with unlabelled objects ("*": all). Outside their masks, the
        proposal loss ignores locations that the network takes for an object.
      unannotated: Whether frames without a mask may be in a clip (never first).
      short_side: Larger frames are shrunk to this short side while decoding; 0 = they keep their size.
      pseudo: Whether pseudo-clips are made from single frames; none = only if a video has one frame (photos).

    Raises:
      VosError: a value out of range.
    """

    weight: float = 0.0
    dataset_name: str = "default"
    partial: tuple[str, ...] = ()
    unannotated: bool = False
    short_side: int = 0
    pseudo: bool | None = None
    name: str = dataclasses.field(default="", metadata={"follows": "its place in train.data.sources"})

    def __post_init__(self):
        checks.at_least(self, 0, "weight", "short_side")

    def option(self, name: str) -> str:
        """Returns how a field is set on the command line, for errors; tools have options of its name."""
        return f"--config.train.data.sources.{self.name}.{name}" if self.name else super().option(name)

    def is_exhaustive(self, name: str) -> bool:
        """Returns whether the masks of a video label every object that its frames show."""
        return not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.partial)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoDataset:
    """Named videos of one split; iterating opens them in order.

    Attributes:
      name: Name of the data set in results.
      split: Name of the split in results.
      names: Of the videos, all different, in order.
      open_video: Opens the video of a name; VosError if its files contradict the layout.
      listing: The file or folder that lists the names, for errors.
      photos: Whether every video is a single image.
      archive_folder: The folder of the videos in a submission; empty: none.
      categories: (video, object id) -> its category (YouTube-VOS); None: not known for all objects.
      seen_categories: Categories that were trained on; empty: not known.
    """

    name: str
    split: str
    names: tuple[str, ...]
    open_video: Callable[[str], video_lib.Video]
    listing: str
    photos: bool = False
    archive_folder: str = ""
    categories: Mapping[tuple[str, int], str] | None = None
    seen_categories: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[video_lib.Video]:
        return map(self.open_video, self.names)

    def __getitem__(self, name: str) -> video_lib.Video:
        """Opens a video; for an unknown name, VosError lists similar ones."""
        if name not in self.names:
            self._refuse(name)
        return self.open_video(name)

    @property
    def seen(self) -> dict[tuple[str, int], bool] | None:
        """(video, object id) -> whether its category was trained on; None if that is not known."""
        if self.categories is None or not self.seen_categories:
            return None
        return {key: category in self.seen_categories for key, category in self.categories.items()}

    def matching(self, patterns: Sequence[str], option: str = "") -> tuple[str, ...]:
        """Returns the names that the patterns match, in the order of the patterns.

        Args:
          patterns: names or patterns.
          option: where they are set, for errors.

        Raises:
          VosError: a pattern matches nothing.
        """
        found: dict[str, None] = {}
        for pattern in patterns:
            hits = [name for name in self.names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
            if not hits:
                self._refuse(pattern, option)
            found |= dict.fromkeys(hits)
        return tuple(found)

    def select(self, config: DatasetConfig) -> Self:
        """Returns the data set restricted to `sequences` without `exclude`; VosError as `matching`."""
        wanted, option = config.sequences, config.option
        taken = self.matching(wanted, option("sequences")) if wanted else self.names
        left_out = frozenset(self.matching(config.exclude, option("exclude")))
        return dataclasses.replace(self, names=tuple(name for name in taken if name not in left_out))

    def _refuse(self, name: str, option: str = "") -> None:
        near = " or ".join(files.closest_names(name, self.names))
        listed = ", ".join(self.names) if len(self.names) <= 30 else f"{len(self.names)} sequences"
        raise errors.VosError(
            f"{self.listing}: no sequence matches '{name}'; did you mean {near}? It has {listed}"
            + (f". The name is from {option}; {option}= names none" if option else "")
        )


def read_listing(path: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of a list of sequences, one a line.

    Raises:
      VosError: the list cannot be read, is empty, or holds a name that is no folder name.
    """
    try:
        lines = [line.split() for line in files.read_bytes(path).decode("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise errors.VosError(f"{path}: cannot read the list of sequences: {error}") from error
    # A line is a sequence, or in the 2016 archive "/JPEGImages/480p/SEQUENCE/00000.jpg /Annotations/...".
    firsts = [parts[0] for parts in lines if parts]
    listed = [first.split("/")[3] if first.count("/") == 4 else first for first in firsts]
    names = tuple(dict.fromkeys(files.safe_name(name, f"{path}: sequence") for name in listed))
    if not names:
        raise errors.VosError(f"{path}: lists no sequence")
    return names
