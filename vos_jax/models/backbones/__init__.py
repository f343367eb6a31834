"""Backbones with one interface: `make(name).apply({"params": p}, frame) -> Features`."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax import errors, user_code
from vos_jax.models.backbones import efficientnet, folding, pretrained, resnet
from vos_jax.models.backbones.features import STRIDES, Features
from vos_jax.typing import DTypeLike

__all__ = ["BACKBONES", "STRIDES", "Backbone", "Features", "channels", "load_pretrained", "make"]


class Backbone(NamedTuple):
    """A backbone.

    Attributes:
      make: a function `(dtype=...) -> Linen module`; the module maps a frame to `Features`.
      conversion: the plan that converts its ImageNet weights from PyTorch.
    """

    make: Callable[..., nn.Module]
    conversion: folding.Plan


BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone(resnet.resnet18, resnet.CONVERSION),
    "resnet50": Backbone(resnet.resnet50, resnet.CONVERSION),
    "efficientnet_lite0": Backbone(efficientnet.EfficientNetLite0, efficientnet.CONVERSION),
}
"""The backbones by name."""


def make(backbone: str | Callable[..., nn.Module], dtype: DTypeLike = jnp.float32) -> nn.Module:
    """Returns the Linen module of a name in `BACKBONES`, or of a callable `(dtype=...)`."""
    if isinstance(backbone, str):
        return BACKBONES[backbone].make(dtype=dtype)
    return user_code.call("model.backbone", backbone, dtype=dtype)


def check_features(found: Any) -> Features:
    """Returns the output of a backbone; VosError where it is not `Features`."""
    if not isinstance(found, Features):
        raise errors.VosError(
            f"model.backbone: the module returned a {type(found).__name__}, not backbones.Features of "
            "c2 to c5, at strides 4 to 32"
        )
    return found


@functools.cache
def channels(backbone: str | Callable[..., nn.Module]) -> dict[str, int]:
    """Returns the number of channels of each stage of features, by its name in `STRIDES`."""
    frame = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32)
    init: Any = functools.partial(make(backbone).init_with_output, jax.random.key(0))
    features, _ = (
        jax.eval_shape(init, frame)
        if isinstance(backbone, str)
        else user_code.call("model.backbone", jax.eval_shape, init, frame)
    )
    check_features(features)
    return {name: getattr(features, name).shape[-1] for name in STRIDES}


def load_pretrained(name: str, path: str | pathlib.Path | None = None) -> dict:
    """Reads the ImageNet parameters of a backbone; arguments and errors as `pretrained.load`.

    Raises:
      VosError: no such backbone.
    """
    if name not in BACKBONES:
        raise errors.VosError(f"no backbone {name!r}; there are {', '.join(BACKBONES)}")
    return pretrained.load(name, path)
