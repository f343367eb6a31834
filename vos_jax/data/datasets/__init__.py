"""Data sets by layout. To add one, write a file that returns a `VideoDataset` and add it to DATASETS."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable

from vos_jax import errors
from vos_jax.data.datasets import davis, folders, photos, records, rendered, tfds, youtube_vos
from vos_jax.data.datasets.base import DatasetConfig, EvalDatasetConfig, SourceConfig, VideoDataset
from vos_jax.data.video import Video

log = logging.getLogger(__name__)

__all__ = [
    "DATASETS",
    "DatasetConfig",
    "EvalDatasetConfig",
    "SourceConfig",
    "VideoDataset",
    "detect",
    "open_dataset",
    "open_training_videos",
]

DATASETS: dict[str, Callable[[DatasetConfig], VideoDataset]] = {
    "davis": davis.open_davis,
    "youtube_vos": youtube_vos.open_youtube_vos,
    "folders": folders.open_folders,
    "photos": photos.open_photos,
    "array_record": records.open_records,
    "tfds": tfds.open_catalogue,
    "rendered": rendered.open_rendered,
}


def detect(root: str | pathlib.Path) -> str:
    """Detects the layout of a folder, a key of DATASETS; "folders" if it matches no other.

    Raises:
      VosError: there is no such folder.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise errors.VosError(f"{root}: no such folder; name the folder of the data with --data or --root")
    if any((folder / "meta.json").is_file() for folder in (root, root / "train", root / "valid")):
        return "youtube_vos"
    if (root / "ImageSets").is_dir() and not folders.holds_sequences(root / "JPEGImages"):
        return "davis"
    if (root / "images").is_dir() or any(root.glob("*/images")):
        return "photos"
    if prepared := records.prepared(root):
        return "array_record" if (prepared[0] / "metadata.json").is_file() else "tfds"
    return "folders"


def open_dataset(config: EvalDatasetConfig) -> VideoDataset:
    """Opens the data set to segment, restricted to `sequences` without `exclude`, with its prompts.

    Raises:
      VosError: something is missing in the data set, an unknown kind, or a name that matches nothing.
    """
    dataset = _open(config).select(config)
    if config.seen:
        dataset = dataclasses.replace(dataset, seen_categories=frozenset(config.seen))
    if config.prompts == "auto":
        return dataset

    def open_video(name: str) -> Video:
        return dataclasses.replace(dataset.open_video(name), prompt_rule=config.prompts)

    return dataclasses.replace(dataset, open_video=open_video)


def open_training_videos(config: SourceConfig) -> tuple[Video, ...]:
    """Opens the videos of a source, restricted to `sequences` without `exclude`; decodes nothing.

    Videos without a possible clip (only one frame in a source of videos, or no mask) are left out and named
    in one log line.

    Raises:
      VosError: unknown kind, missing folder, a name that matches nothing, or nothing left to train on.
    """
    dataset = _open(config)
    dataset.matching(config.partial, config.option("partial"))
    chosen = frozenset(dataset.select(config).names)
    kept, lost = [], []
    # The data set's order, so that the order of the patterns has no effect.
    for video in map(dataset.open_video, (name for name in dataset.names if name in chosen)):
        problem = _problem_of(video, config, dataset.photos)
        if problem is None:
            kept.append(dataclasses.replace(video, short_side=config.short_side))
        else:
            lost.append(f"{video.name} ({problem})")
    named = ", ".join(lost[:5]) + (f", ... {len(lost)} in all" if len(lost) > 5 else "")
    if not kept:
        raise errors.VosError(
            f"{config.root}: no sequence to train on" + (f"; left out: {named}" if lost else "")
        )
    if lost:
        log.warning("%s: left out %s", config.root, named)
    return tuple(kept)


def _open(config: DatasetConfig) -> VideoDataset:
    kind = detect(config.root) if config.kind == "auto" else config.kind
    if kind not in DATASETS:
        raise errors.VosError(f"kind is '{kind}'; there are: auto, {', '.join(DATASETS)}")
    return DATASETS[kind](config)


def _problem_of(video: Video, config: SourceConfig, photo: bool) -> str | None:
    """Returns the reason why no clip can be made from a video, or None."""
    if not video.annotated:
        return "no masks"
    drawable = len(video) if config.unannotated else len(video.annotated)
    if not photo and not config.pseudo and drawable < 2:
        return "a single frame" if len(video) < 2 else "a single annotated frame"
    return None if video.with_objects is None or video.with_objects else "no objects"
