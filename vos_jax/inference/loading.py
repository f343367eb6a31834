"""From a config and a checkpoint's name to a model that is ready to run."""

from typing import Any

import jax.numpy as jnp
from ml_collections import config_dict

from vos_jax.models import backbones, training_free
from vos_jax.models import memory as memory_lib
from vos_jax.models import state as state_lib

# The backbone of each published variant.
BACKBONE = {"lite0": "efficientnet_lite0", "resnet18": "resnet18", "resnet50": "resnet50"}


def make_training_free(config: config_dict.ConfigDict) -> tuple[state_lib.Model, Any]:
    """Returns the model that needs no training and its parameters, the ImageNet backbone's."""
    name = BACKBONE[config.model.variant]
    settings = training_free.TrainingFreeConfig(
        features=tuple(config.training_free.features),
        temperature=config.training_free.temperature,
        topk=config.training_free.topk,
        window=config.training_free.window,
    )
    channels = dict(zip(("c2", "c3", "c4", "c5"), backbones.CHANNELS[name], strict=True))
    model = training_free.TrainingFree(
        backbone=backbones.BACKBONES[name](dtype=jnp.dtype(config.dtype)),
        key_size=sum(channels[level] for level in settings.features),
        config=settings,
        memory_config=memory_lib.MemoryConfig(
            capacity=config.memory.capacity, every=config.memory.every, eviction=config.memory.eviction
        ),
    )
    return model, backbones.load_pretrained(name)
