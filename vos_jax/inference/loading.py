"""From a config and a checkpoint's name to a model that is ready to run."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import config_dict

from vos_jax import errors, weights_io
from vos_jax.models import backbones, training_free, vos
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib
from vos_jax.models.backbones import pretrained


def make_model(config: config_dict.ConfigDict, checkpoint: str) -> tuple[state_lib.Model, Any, str]:
    """Returns the model, its parameters, and what it was loaded from: "none" or a file's path.

    Args:
      config: see configs/default.py.
      checkpoint: "none" for the training-free model; a path of exported weights; "auto" for those that ship
        with the variant, or the training-free model where none ship.

    Raises:
      VosError: no such file, a damaged one, or weights of another model.
    """
    if config.model.variant not in vos.VARIANTS:
        raise errors.VosError(
            f"model.variant is {config.model.variant!r}; there are {', '.join(sorted(vos.VARIANTS))}"
        )
    if checkpoint == "auto":
        shipped = pretrained.WEIGHTS / f"{config.model.variant}.safetensors"
        checkpoint = str(shipped) if shipped.is_file() else "none"
    if checkpoint == "none":
        model, params = make_training_free(config)
        return model, params, "none"
    model = vos.VOS(config=vos_config(config))
    return model, load_params(model, pathlib.Path(checkpoint), config.model.variant), checkpoint


def dataset_index(config: config_dict.ConfigDict) -> int:
    """Which of the model's lambdas `model.dataset` names.

    Raises:
      VosError: it names none; those there are are listed.
    """
    known = vos.VARIANTS[config.model.variant].datasets
    if config.model.dataset not in known:
        raise errors.VosError(f"model.dataset is {config.model.dataset!r}; there are {', '.join(known)}")
    return known.index(config.model.dataset)


def num_proposals(config: config_dict.ConfigDict, model: state_lib.Model) -> int:
    """How many places for proposals from files a frame has; 0 where they do not come from files.

    Raises:
      VosError: they shall, but the model has no use for any, or no folder is named.
    """
    if config.model.proposals != "file":
        return 0
    if not isinstance(model, vos.VOS):
        raise errors.VosError(
            "model.proposals is file, but the training-free model matches no proposals: name trained weights "
            "by --checkpoint PATH"
        )
    if not config.model.proposals_dir:
        raise errors.VosError(
            "model.proposals is file: name the folder with one <sequence>.json per video by "
            "--config.model.proposals_dir=DIR (docs/proposals.md)"
        )
    return model.config.proposals.capacity


def memory_config(config: config_dict.ConfigDict) -> memory_lib.MemoryConfig:
    """The write policy that a config asks for."""
    return memory_lib.MemoryConfig(
        capacity=config.memory.capacity,
        every=config.memory.every,
        eviction=config.memory.eviction,
        previous=config.memory.previous,
    )


def make_training_free(config: config_dict.ConfigDict) -> tuple[state_lib.Model, Any]:
    """Returns the model that needs no training and its parameters, the ImageNet backbone's."""
    name = vos.VARIANTS[config.model.variant].backbone
    assert isinstance(name, str)  # the published variants name theirs
    settings = training_free.TrainingFreeConfig(
        features=tuple(config.training_free.features),
        temperature=config.training_free.temperature,
        topk=config.training_free.topk,
        stride=config.training_free.stride,
        centred=config.training_free.centred,
        window=config.training_free.window,
    )
    channels: dict[str, int] = dict(zip(("c2", "c3", "c4", "c5"), backbones.CHANNELS[name], strict=True))
    model = training_free.TrainingFree(
        backbone=backbones.BACKBONES[name](dtype=jnp.dtype(config.dtype)),
        key_size=sum(channels[level] for level in settings.features),
        config=settings,
        memory_config=dataclasses.replace(memory_config(config), previous=config.training_free.previous),
    )
    return model, backbones.load_pretrained(name)


def vos_config(config: config_dict.ConfigDict) -> vos.VOSConfig:
    """The published variant with the choices of a config."""
    variant = vos.VARIANTS[config.model.variant]
    return dataclasses.replace(
        variant,
        memory=memory_config(config),
        read=read_lib.ReadConfig(
            variant=config.model.read,
            affinity=config.model.affinity,
            topk=config.memory.topk,
            window=config.memory.window,
            reach=config.memory.reach,
        ),
        proposals=dataclasses.replace(variant.proposals, capacity=config.model.num_proposals),
        template=config.model.template,
        alignment=config.model.alignment,
        matching=config.model.matching,
        use_proposals=config.model.proposals == "network",
        use_refine=config.model.refine,
        dtype=jnp.dtype(config.dtype),
    )


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
