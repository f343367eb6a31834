"""From a config to what a training run is made of; configs/default.py says what the keys mean."""

import dataclasses
import fnmatch
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import config_dict

from vos_jax import errors
from vos_jax.data import (
    appearance,
    clips,
    datasets,
    paste,
    pipeline,
    pseudo_clips,
    records,
    sequences,
    sources,
    transforms,
)
from vos_jax.inference import loading
from vos_jax.models import backbones, vos
from vos_jax.train import checkpoints, corruption, evaluation, losses, optim, parallel, step
from vos_jax.typing import PRNGKeyArray

log = logging.getLogger(__name__)

NOT_LEARNED_FROM = (
    "checkpoint",
    "data",
    "eval",
    "inference",
    "memory.every",
    "memory.previous",
    "memory.reach",
    "model.dataset",
    "model.proposals_dir",
    "objects",
    "train.checkpoint",
    "train.evaluation",
    "train.init",
    "train.log_every",
    "train.parallel.kind",
    "train.picture_every",
    "train.prefetch",
    "train.threads",
    "train.workers",
    "training_free",
)
"""Keys that decide where things lie, how fast it goes and what is shown, but not what is learned."""


def apply_data(config: config_dict.ConfigDict, folders: Sequence[str]) -> None:
    """Puts the folders of `--data` into the config: `NAME=DIR`; a plain `DIR` where there is one source.

    A folder that `vos_jax.data.build` packed is read as such, whatever kind the recipe names.

    Raises:
      VosError: a name that is no source, or a folder without one where several are drawn from.
    """
    train = config.train
    drawn = [name for name, source in train.sources.items() if source.weight > 0]
    for folder in folders:
        name, equals, path = folder.partition("=")
        if not equals and len(drawn) == 1:
            name, path = drawn[0], folder
        elif not equals:
            raise errors.VosError(
                f"--data {folder}: of which source? The config draws from {', '.join(drawn) or 'none'}; "
                "write --data NAME=DIR for each"
            )
        if name == "evaluation":
            train.evaluation.root = path
        elif name in train.sources:
            train.sources[name].root = path
            _take_packed(train.sources[name])
        else:
            raise errors.VosError(
                f"--data {folder}: no source of that name; there are {', '.join(train.sources)} and "
                "evaluation"
            )


def _take_packed(source: config_dict.ConfigDict) -> None:
    """Makes a source of files one of records where its folder is packed."""
    packed = records.packed_names(source.root)
    if packed is None:
        return
    source.kind = "array_record"
    # What was left out while packing needs no pattern, which would have to match something.
    kept = tuple(pattern for pattern in source.exclude if fnmatch.filter(packed, pattern))
    if gone := [pattern for pattern in source.exclude if pattern not in kept]:
        log.warning("%s: holds no %s, so there is nothing to exclude", source.root, ", ".join(gone))
    source.exclude = kept


def pipeline_config(config: config_dict.ConfigDict, names: Sequence[str]) -> pipeline.PipelineConfig:
    """What the run sees; `names` are the data sets that have a lambda of their own, in the model's order.

    Raises:
      VosError: no source has a weight.
    """
    train = config.train
    drawn = {name: source for name, source in train.sources.items() if source.weight > 0}
    if not drawn:
        raise errors.VosError(
            "nothing to train on: every weight in train.sources is 0; take a recipe "
            "(--config train_static, train_davis) or set --config.train.sources.davis.weight=1"
        )
    change = train.augmentation
    pseudo = pseudo_clips.PseudoClip(min_pixels=change.paste_min_pixels)
    return pipeline.PipelineConfig(
        sources=tuple(_source(source) for source in drawn.values()),
        clip_length=train.clip_length,
        crop=train.crop,
        batch=train.batch,
        seed=config.seed,
        max_objects=train.max_objects,
        max_instances=train.max_instances,
        dataset_names=tuple(names),
        gap=clips.GapSchedule(**train.gap),
        augmentation=transforms.Augmentation(
            scale=transforms.Scale(low=change.scale[0], high=change.scale[1]),
            crop=transforms.Crop(keep=change.keep),
            objects=transforms.SelectObjects(
                min_pixels=change.min_pixels, drop=change.drop, merge=change.merge
            ),
            colour=transforms.ColourJitter(prob=change.colour),
            jpeg=transforms.JpegQuality(prob=change.jpeg),
            extra=(appearance.Blur(prob=change.blur), appearance.Drift(prob=change.drift)),
        ),
        pseudo=dataclasses.replace(
            pseudo,
            camera=pseudo.camera.times(change.motion),
            object=pseudo.object.times(change.motion),
        ),
        copy_paste=paste.Paste(**train.paste, min_pixels=change.paste_min_pixels),
        max_unreadable=train.max_unreadable,
        num_workers=train.workers,
        num_threads=train.threads,
        prefetch=train.prefetch,
    )


def _source(section: config_dict.ConfigDict) -> sequences.SourceConfig:
    values: dict[str, Any] = dict(section.items()) | {"short_side": section.short_side or None}
    return sequences.SourceConfig(**values)


def step_config(config: config_dict.ConfigDict) -> step.StepConfig:
    """How a clip is learned from."""
    train = config.train
    return step.StepConfig(
        losses=losses.LossConfig(**train.losses),
        corruption=corruption.CorruptionConfig(**train.corruption),
        frozen=tuple(train.optim.frozen),
        **train.step,
    )


def optim_config(config: config_dict.ConfigDict) -> optim.OptimConfig:
    """How parameters move."""
    section = config.train.optim
    return optim.OptimConfig(
        **{key: value for key, value in section.items() if key != "lr_scales"},
        lr_scales=tuple(sorted(section.lr_scales.items())),
        steps=config.train.steps,
    )


def parallel_config(config: config_dict.ConfigDict) -> parallel.ParallelConfig:
    """How the batch is spread over devices."""
    return parallel.ParallelConfig(**config.train.parallel)


def checkpoint_config(config: config_dict.ConfigDict) -> checkpoints.CheckpointConfig:
    """How often to save, and what to keep."""
    return checkpoints.CheckpointConfig(**config.train.checkpoint)


def make_model(config: config_dict.ConfigDict, *, hard: bool) -> vos.VOS:
    """The variant that the config names, for training (soft matching) or as users run it (`hard`).

    Raises:
      VosError: no such variant, or proposals from files, which training clips have none of.
    """
    if config.model.proposals == "file":
        raise errors.VosError(
            "model.proposals is file, which is for eval.py; train with network, or with none to match "
            "what the memory propagates"
        )
    if config.model.variant not in vos.VARIANTS:
        raise errors.VosError(
            f"model.variant is {config.model.variant!r}; there are {', '.join(sorted(vos.VARIANTS))}"
        )
    settings = loading.vos_config(config)
    if not hard:
        # Clips skip frames, and their crops are a part of a frame: an object may be anywhere in the next one.
        settings = dataclasses.replace(settings, read=dataclasses.replace(settings.read, reach=0.0))
    return vos.VOS(config=settings, hard=hard)


def init_params(config: config_dict.ConfigDict, model: vos.VOS, key: PRNGKeyArray) -> Any:
    """Parameters to begin with: `train.init` is "imagenet" (heads random), "random", or an exported file.

    Raises:
      VosError: the file is missing, damaged or of another model; no ImageNet weights for this backbone.
    """
    start = config.train.init
    if start not in ("imagenet", "random"):
        return loading.load_params(model, pathlib.Path(start), config.model.variant)
    if start == "random":
        return model.init(key)
    name = model.config.backbone
    if not isinstance(name, str):
        raise errors.VosError("there are no ImageNet weights for a backbone of your own; --init random")
    loaded = backbones.load_pretrained(name)
    params = model.init(key)
    loading.check_params(
        traverse_util.flatten_dict(loaded, sep="/"),
        traverse_util.flatten_dict(params["backbone"], sep="/"),
        pathlib.Path(f"{name}.safetensors"),
    )
    return {**params, "backbone": jax.tree.map(jnp.asarray, loaded)}


def evaluation_videos(config: config_dict.ConfigDict, drawn: pipeline.PipelineConfig) -> list[sources.Video]:
    """The held-back sequences, checked, cut to `train.evaluation.frames`; [] where there is no evaluation.

    Raises:
      VosError: a sequence is missing or broken, or is trained on as well.
    """
    settings, davis = config.train.evaluation, config.train.sources.davis
    if settings.every == 0:
        return []
    root = pathlib.Path(settings.root or davis.root)
    for source in drawn.sources:
        if pathlib.Path(source.root).resolve() == root.resolve():
            both = set(clips.open_sequences(source).names) & set(settings.sequences)
            if both:
                raise errors.VosError(
                    f"{', '.join(sorted(both))}: trained on and evaluated on; put them into the "
                    "source's exclude, or take them out of train.evaluation.sequences"
                )
    data = config_dict.ConfigDict(
        {
            "source": "davis" if (root / "ImageSets").is_dir() else "folders",
            "root": str(root),
            "year": davis.year,
            "split": davis.split,
            "resolution": davis.resolution,
            "sequences": tuple(settings.sequences),
            "merge_objects": davis.merge_objects,
        }
    )
    source = datasets.open_source(data)
    videos = [source.video(name) for name in source.sequences()]
    for video in videos:
        video.check()
    if not settings.frames:
        return videos
    # What a head does not define itself it has from its video, which a type checker does not see.
    return [cast(sources.Video, evaluation.Head(video, settings.frames)) for video in videos]


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys that decide what is learned and differ, as `train.batch: 8, now 4`.

    Args:
      before, now: configs as plain values (`config.as_dict`).
    """
    flat = [_learned_from(tree) for tree in (before, now)]
    keys = sorted({*flat[0], *flat[1]})
    return [
        f"{key}: {flat[0].get(key)}, now {flat[1].get(key)}"
        for key in keys
        if flat[0].get(key) != flat[1].get(key)
    ]


def _learned_from(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat = {".".join(path): value for path, value in traverse_util.flatten_dict(dict(tree)).items()}
    unused = tuple(
        f"train.sources.{name}." for name, source in tree["train"]["sources"].items() if not source["weight"]
    )
    return {
        key: value
        for key, value in flat.items()
        # A data set may lie elsewhere on another machine.
        if not any(f"{key}.".startswith(f"{prefix}.") for prefix in NOT_LEARNED_FROM)
        and not (key.startswith("train.sources.") and key.endswith(".root"))
        and not key.startswith(unused)
    }
