"""Loads a model and its parameters."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vos_jax import errors, weights_io
from vos_jax.models import backbones, training_free, vos
from vos_jax.models import config as model_config
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import state as state_lib
from vos_jax.models.backbones import pretrained


def make_model(config: model_config.ModelConfig, checkpoint: str) -> tuple[state_lib.Model, Any, str]:
    """Returns the model, its parameters, and what it was loaded from: "none" or a file's path.

    Args:
      config: the model.
      checkpoint: "none" for the training-free model; a path of exported weights; "auto" for those that ship
        with the variant, or the training-free model where none ship.

    Raises:
      VosError: no such file, a damaged one, or weights of another model.
    """
    if checkpoint == "auto":
        shipped = pretrained.WEIGHTS / f"{config.variant}.safetensors"
        checkpoint = str(shipped) if shipped.is_file() else "none"
    if checkpoint == "none":
        model, params = make_training_free(config)
        return model, params, "none"
    model = vos.VOS(config=config)
    return model, load_params(model, pathlib.Path(checkpoint), config.variant), checkpoint


def dataset_index(config: model_config.ModelConfig) -> int:
    """Returns which of the model's lambdas `dataset` names."""
    return model_config.DATASETS.index(config.dataset)


def num_proposals(config: proposals_lib.ProposalConfig, model: state_lib.Model) -> int:
    """Returns how many places for proposals from files a frame has; 0 where they do not come from files.

    Raises:
      VosError: they are to, but the model has no use for any, or no folder is named.
    """
    if config.source != "file":
        return 0
    if not isinstance(model, vos.VOS):
        raise errors.VosError(
            "model.proposals.source is file, but the training-free model matches no proposals: name trained "
            "weights by --checkpoint PATH"
        )
    if not config.folder:
        raise errors.VosError(
            "model.proposals.source is file: name the folder with one <sequence>.json per video by "
            "--config.model.proposals.folder=DIR (docs/proposals.md)"
        )
    return config.capacity


def make_training_free(config: model_config.ModelConfig) -> tuple[state_lib.Model, Any]:
    """Returns the model that needs no training and its parameters, the ImageNet backbone's."""
    name, settings = config.backbone, config.training_free
    if not isinstance(name, str):
        raise errors.VosError("there are no ImageNet weights for a backbone of your own; name a checkpoint")
    channels: dict[str, int] = dict(zip(("c2", "c3", "c4", "c5"), backbones.CHANNELS[name], strict=True))
    model = training_free.TrainingFree(
        backbone=backbones.BACKBONES[name](dtype=config.compute_dtype),
        key_size=sum(channels[level] for level in settings.features),
        config=settings,
        memory_config=dataclasses.replace(config.memory, previous=settings.previous),
    )
    return model, backbones.load_pretrained(name)


def load_params(model: vos.VOS, file: pathlib.Path, variant: str) -> Any:
    """Reads exported weights and checks that they are this model's, tensor by tensor.

    Raises:
      VosError: no such file, a damaged one, or weights of another model; the first difference is named.
    """
    if not file.is_file():
        raise errors.VosError(f"no checkpoint at {file}; --checkpoint none needs none, auto takes what ships")
    data = pretrained.read_weights(file)
    pretrained.check_record(file, data, required=False)
    flat, metadata = weights_io.load(data, str(file))
    found = metadata.get("variant")
    if found != variant:
        kind = f"the variant {found}" if found else f"{metadata.get('backbone', 'something else')} alone"
        raise errors.VosError(
            f"{file}: holds weights of {kind}; the config asks for a trained {variant} (model.variant)"
        )
    expected = jax.eval_shape(functools.partial(model.init, jax.random.key(0)))
    wanted = traverse_util.flatten_dict(expected, sep="/")
    check_params(flat, wanted, file)
    return traverse_util.unflatten_dict({key: np.asarray(flat[key], np.float32) for key in wanted}, sep="/")


def check_params(flat: Mapping[str, Any], expected: Mapping[str, Any], file: pathlib.Path) -> None:
    """Raises VosError naming the first tensor that is missing or of another shape.

    More tensors than expected are no error: a model may be run without a stage that it was trained with.
    """
    for key, value in expected.items():
        if key not in flat:
            raise errors.VosError(f"{file}: lacks {key}, which this model needs; it is of another model")
        if tuple(flat[key].shape) != tuple(value.shape):
            raise errors.VosError(
                f"{file}: {key} has shape {tuple(flat[key].shape)}, this model needs {tuple(value.shape)}; "
                "it is of another model"
            )
