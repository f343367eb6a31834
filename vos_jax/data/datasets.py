"""Opens the data set that the settings name."""

import dataclasses
from collections.abc import Callable

from vos_jax import checks, files
from vos_jax.data import rendered, sources, youtube_vos
from vos_jax.errors import VosError

PROMPTS = ("auto", "first_frame", "first", "all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """The data set that is segmented.

    Attributes:
      kind: Its layout: "davis" (official), "youtube_vos" (meta.json), "folders" (a folder of folders of
        frames), "rendered" (drawn by our code).
      root: Its folder; --data.
      split: The list's name in DAVIS: "val", "train", "test-dev"; the folder's in YouTube-VOS: "valid".
      year: Chooses the list in ImageSets/<year>/ of DAVIS.
      resolution: The folder in JPEGImages/ and Annotations/: "480p" or "Full-Resolution".
      sequences: Only these sequences; empty = all of the split; --sequences.
      merge_objects: Whether all objects are one, as in DAVIS 2016.
      prompts: Which masks are given: "first_frame", "first" (each object's first), "all" (later ones
        correct), or "auto" = as the data set's protocol says.
      all_frames: The folder with every frame of YouTube-VOS (valid_all_frames), to see more than the required
        ones.
      seen: Categories of YouTube-VOS that were trained on; empty = those of ../train/meta.json, where it is
        there.

    Raises:
      VosError: an unknown word.
    """

    kind: str = "davis"
    root: str = "data/DAVIS"
    split: str = "val"
    year: int = 2017
    resolution: str = "480p"
    sequences: tuple[str, ...] = ()
    merge_objects: bool = False
    prompts: str = "auto"
    all_frames: str = ""
    seen: tuple[str, ...] = ()

    def __post_init__(self):
        checks.one_of(self, "kind", KINDS)
        checks.one_of(self, "prompts", PROMPTS)


def _davis(data: DatasetConfig) -> sources.VideoSource:
    return sources.DavisSource(
        data.root,
        year=data.year,
        split=data.split,
        resolution=data.resolution,
        sequences=data.sequences,
        merge_objects=data.merge_objects or data.year == 2016,
        given=_prompts(data, "first_frame"),
    )


def _folders(data: DatasetConfig) -> sources.VideoSource:
    return sources.FoldersSource(
        data.root,
        sequences=data.sequences,
        merge_objects=data.merge_objects,
        given=_prompts(data, "first"),
    )


def _youtube_vos(data: DatasetConfig) -> sources.VideoSource:
    return youtube_vos.YouTubeVOSSource(
        data.root,
        year=data.year,
        split=data.split,
        all_frames=data.all_frames,
        sequences=data.sequences,
        seen=data.seen,
        given=_prompts(data, "first"),
    )


def _rendered(data: DatasetConfig) -> sources.VideoSource:
    if data.root:
        raise VosError(
            f"data.kind=rendered draws its own video and reads no data; leave {data.root} (--data) away"
        )
    source = rendered.RenderedSource(merge_objects=data.merge_objects)
    files.select_names(data.sequences, source.sequences(), "the rendered sample")
    return source


def _prompts(data: DatasetConfig, protocol: str) -> str:
    return protocol if data.prompts == "auto" else data.prompts


KINDS: dict[str, Callable[[DatasetConfig], sources.VideoSource]] = {
    "davis": _davis,
    "youtube_vos": _youtube_vos,
    "folders": _folders,
    "rendered": _rendered,
}


def open_source(data: DatasetConfig) -> sources.VideoSource:
    """Returns the videos of a data set, restricted to `data.sequences`.

    Raises:
      VosError: whatever the data set lacks.
    """
    return KINDS[data.kind](data)
