"""Backbones behind one interface: `BACKBONES[name]().apply({"params": p}, frame) -> Features` (DESIGN §2)."""

from vos_jax.models.backbones import efficientnet, resnet
from vos_jax.models.backbones.features import Features
from vos_jax.models.backbones.pretrained import load_pretrained

__all__ = ["BACKBONES", "CHANNELS", "Features", "load_pretrained"]

# name -> function(dtype=float32) -> Linen module
BACKBONES = {
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "efficientnet_lite0": efficientnet.EfficientNetLite0,
}

# name -> channels of (c2, c3, c4, c5)
CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "efficientnet_lite0": (24, 40, 112, 320),
}
