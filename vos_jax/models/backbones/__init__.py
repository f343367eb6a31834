"""Backbones behind one interface: `make(name).apply({"params": p}, frame) -> Features`."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.models.backbones import efficientnet, resnet
from vos_jax.models.backbones.features import STRIDES, Features
from vos_jax.models.backbones.pretrained import load_pretrained
from vos_jax.typing import DTypeLike

__all__ = ["BACKBONES", "STRIDES", "Features", "channels", "load_pretrained", "make"]

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "efficientnet_lite0": efficientnet.EfficientNetLite0,
}
"""Functions `(dtype=...) -> Linen module` by name."""


def make(backbone: str | Callable[..., nn.Module], dtype: DTypeLike = jnp.float32) -> nn.Module:
    """Returns the Linen module of a name in `BACKBONES`, or of a callable `(dtype=...)`."""
    return (BACKBONES[backbone] if isinstance(backbone, str) else backbone)(dtype=dtype)


@functools.cache
def channels(backbone: str | Callable[..., nn.Module]) -> dict[str, int]:
    """Returns the number of channels of each stage of features, by its name in `STRIDES`."""
    frame = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32)
    init: Any = functools.partial(make(backbone).init_with_output, jax.random.key(0))
    features, _ = jax.eval_shape(init, frame)
    return {name: getattr(features, name).shape[-1] for name in STRIDES}
