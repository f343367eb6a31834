"""Prepares a training run: data folders, checks of the model, held-back sequences."""

import dataclasses
import fnmatch
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vos_jax import errors
from vos_jax.data import datasets
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import records
from vos_jax.models import config as model_config
from vos_jax.train import config as config_lib

log = logging.getLogger(__name__)

NOT_LEARNED_FROM = (
    "checkpoint",
    "data",
    "eval",
    "inference",
    "model.dataset",
    "model.memory.every",
    "model.memory.previous",
    "model.proposals.folder",
    "model.read.search_radius",
    "model.training_free",
    "train.checkpoint",
    "train.data.prefetch",
    "train.data.threads",
    "train.data.workers",
    "train.held_out",
    "train.init",
    "train.log_every",
    "train.parallel.kind",
    "train.picture_every",
)
"""Keys of folders, speed and output, which do not change the trained weights."""


def apply_data(train: config_lib.TrainConfig, folders: Sequence[str]) -> config_lib.TrainConfig:
    """Returns settings with the folders of `--data`: `NAME=DIR`, or `DIR` if there is only one source.

    A folder packed by `vos_jax.tools.pack_data` is detected, whatever kind the config has.

    Raises:
      VosError: a name that is no source, or a folder without a name if there are several sources.
    """
    drawn = list(train.data.drawn())
    for folder in folders:
        name, equals, path = folder.partition("=")
        if not equals and len(drawn) == 1:
            name, path = drawn[0], folder
        elif not equals:
            raise errors.VosError(
                f"--data {folder}: of which source? The config has {', '.join(drawn) or 'none'}; "
                "write --data NAME=DIR for each"
            )
        if name == "evaluation":
            held_out = dataclasses.replace(train.held_out, root=path)
            train = dataclasses.replace(train, held_out=held_out)
        elif name in train.data.sources:
            source = _take_packed(dataclasses.replace(train.data.sources[name], root=path))
            data = dataclasses.replace(train.data, sources={**train.data.sources, name: source})
            train = dataclasses.replace(train, data=data)
        else:
            raise errors.VosError(
                f"--data {folder}: no source of that name; there are {', '.join(train.data.sources)} and "
                "evaluation"
            )
    return train


def _take_packed(source: datasets.SourceConfig) -> datasets.SourceConfig:
    """Returns a source of records if the folder of `source` is packed, else `source`."""
    packed = records.packed_names(source.root)
    if packed is None:
        return source
    # Patterns of sequences that were not packed are dropped, because a pattern without a match is an error.
    kept = tuple(pattern for pattern in source.exclude if fnmatch.filter(packed, pattern))
    if gone := [pattern for pattern in source.exclude if pattern not in kept]:
        log.warning("%s: holds no %s, so there is nothing to exclude", source.root, ", ".join(gone))
    return dataclasses.replace(source, kind="array_record", exclude=kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _HeldOutDataset(datasets.EvalDatasetConfig):
    """The data set of the held-back sequences; errors name the keys of the training."""

    split: str = "train"

    def option(self, name: str) -> str:
        """Returns how a field is set on the command line."""
        known = {"sequences": "--config.train.held_out.sequences", "root": "--data evaluation"}
        return known.get(name, f"--config.train.data.sources.davis.{name}")


def same_start(before: str, now: str) -> bool:
    """Returns whether two values of `train.init` mean the same weights, as far as paths tell."""
    if before == now or os.path.realpath(before) == os.path.realpath(now):
        return True
    # A run that was moved to another machine finds its start in another folder.
    return os.path.basename(before) == os.path.basename(now) and not os.path.exists(before)


def check_model(config: model_config.ModelConfig) -> None:
    """Raises VosError for proposals from files, which training does not support."""
    if config.proposals.source == "file":
        raise errors.VosError(
            "model.proposals.source is file, which is for eval.py; train with network, or with none to match "
            "the propagated masks only"
        )


def datasets_of(model: model_config.ModelConfig, train: config_lib.TrainConfig) -> tuple[str, ...]:
    """Returns the names of the data sets that get a lambda of their own, sorted."""
    drawn = {source.dataset_name for source in train.data.drawn().values()}
    return tuple(sorted({"default", model.dataset, *drawn}))


def evaluation_videos(train: config_lib.TrainConfig) -> list[video_lib.Video]:
    """Returns the checked held-back sequences, cut to `held_out.frames`; [] without evaluation.

    Raises:
      VosError: a sequence is missing or damaged, or is also trained on.
    """
    settings = train.held_out
    if settings.every == 0:
        return []
    davis = train.data.sources.get("davis", datasets.SourceConfig(root=settings.root))
    if not (settings.root or davis.root):
        raise errors.VosError(
            "the folder of the held-back sequences is unknown: there is no source davis; give --data "
            "evaluation=DIR, or set train.held_out.every to 0"
        )
    root = pathlib.Path(settings.root or davis.root)
    for source in train.data.drawn().values():
        if pathlib.Path(source.root).resolve() == root.resolve():
            both = {video.name for video in datasets.open_training_videos(source)} & set(settings.sequences)
            if both:
                raise errors.VosError(
                    f"{', '.join(sorted(both))}: trained on and evaluated on; add them to the source's "
                    "exclude, or remove them from train.held_out.sequences"
                )
    dataset = datasets.open_dataset(
        _HeldOutDataset(
            kind="auto",
            root=str(root),
            year=davis.year,
            split=davis.split,
            resolution=davis.resolution,
            sequences=settings.sequences,
            merge_objects=davis.merge_objects,
        )
    )
    videos = list(dataset)
    for video in videos:
        video.check()
    videos = [video.head(settings.frames) for video in videos] if settings.frames else videos
    for video in videos:
        if not any(video.scored_frames(object_id) for object_id in video.first_frames):
            cut = f" (train.held_out.frames is {settings.frames})" if settings.frames else ""
            raise errors.VosError(
                f"{root}: nothing of '{video.name}' can be scored{cut}: mask a frame between the one with "
                "its first mask and its last frame, or name others by --config.train.held_out.sequences "
                "(--config.train.held_out.every=0 evaluates none)"
            )
    return videos


def changed(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """Returns the differing keys that change the trained weights, as `train.data.batch: 8, now 4`.

    Args:
      before, now: `config.flatten`ed settings.
      defaults: values of keys that `before` lacks, as a run does that began before there were these keys.
    """
    newer = {key: value for key, value in (defaults or {}).items() if key in now}
    trees = [_learned_from(tree) for tree in ({**newer, **before}, now)]
    return [
        f"{key}: {trees[0].get(key)}, now {trees[1].get(key)}"
        for key in sorted({*trees[0], *trees[1]})
        if trees[0].get(key) != trees[1].get(key)
    ]


def _learned_from(flat: Mapping[str, Any]) -> dict[str, Any]:
    prefix = "train.data.sources."
    unused = tuple(
        key.removesuffix("weight")
        for key, value in flat.items()
        if key.startswith(prefix) and key.endswith(".weight") and not value
    )
    return {
        key: value
        for key, value in flat.items()
        # A data set may be in another folder on another machine.
        if not any(f"{key}.".startswith(f"{name}.") for name in NOT_LEARNED_FROM)
        and not (key.startswith(prefix) and key.endswith((".root", ".all_frames")))
        and not key.startswith(unused)
    }
