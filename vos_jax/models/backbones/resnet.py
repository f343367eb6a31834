"""ResNet-18 and ResNet-50 (He et al. 2016) in torchvision's layout: the 3×3 convolution has the stride."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.models.backbones import conv, features, folding
from vos_jax.typing import Array, DTypeLike, Float, Shaped

# ImageNet's mean and deviation, with which torchvision's weights were trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

STEM_CHANNELS = 64


class BasicBlock(nn.Module):
    """Applies two 3×3 convolutions and a skip, which is projected if the shape changes."""

    channels: int
    stride: int
    dtype: DTypeLike
    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "H W Ci"]) -> Float[Array, "h w Co"]:
        y = _conv(self.channels, 3, self.stride, self.dtype, "conv1")(x)
        y = _conv(self.channels, 3, 1, self.dtype, "conv2")(jax.nn.relu(y))
        if x.shape != y.shape:
            x = _conv(self.channels, 1, self.stride, self.dtype, "project")(x)
        return jax.nn.relu(x + y)


class Bottleneck(nn.Module):
    """Applies 1×1 down, 3×3, 1×1 up by 4, and a skip, which is projected if the shape changes."""

    channels: int
    stride: int
    dtype: DTypeLike
    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "H W Ci"]) -> Float[Array, "h w Co"]:
        y = _conv(self.channels, 1, 1, self.dtype, "conv1")(x)
        y = _conv(self.channels, 3, self.stride, self.dtype, "conv2")(jax.nn.relu(y))
        y = _conv(self.channels * 4, 1, 1, self.dtype, "conv3")(jax.nn.relu(y))
        if x.shape != y.shape:
            x = _conv(self.channels * 4, 1, self.stride, self.dtype, "project")(x)
        return jax.nn.relu(x + y)


def _conv(channels: int, size: int, stride: int, dtype: DTypeLike, name: str) -> conv.Conv:
    return conv.Conv(channels, size, stride, symmetric=True, dtype=dtype, name=name)


class ResidualStage(nn.Module):
    """A sequence of blocks of one width, named block0, block1, …; the first one has the stride."""

    block: type[nn.Module]
    blocks: int
    channels: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "H W Ci"]) -> Float[Array, "h w Co"]:
        for index in range(self.blocks):
            stride = self.stride if index == 0 else 1
            x = self.block(self.channels, stride, self.dtype, name=f"block{index}")(x)
        return x


class ResNet(nn.Module):
    """Computes a ResNet's features of one frame; parameters under stem, stage1 … stage4.

    Attributes:
        block: BasicBlock or Bottleneck.
        stage_blocks: blocks per stage.
        dtype: of the computation and of the features; parameters stay float32.
    """

    block: type[nn.Module]
    stage_blocks: tuple[int, int, int, int]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, frame: Shaped[Array, "H W 3"]) -> features.Features:
        """Returns features of an RGB frame, uint8 or float in [0, 1]."""
        x = features.normalise(frame, mean=MEAN, std=STD, dtype=self.dtype)
        x = jax.nn.relu(_conv(STEM_CHANNELS, 7, 2, self.dtype, "stem")(x))
        # Flax accepts pairs, but has no annotation for them.
        padding: Any = ((1, 1), (1, 1))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)
        levels = []
        for index, blocks in enumerate(self.stage_blocks):
            width, stride = STEM_CHANNELS * 2**index, 1 if index == 0 else 2
            x = ResidualStage(self.block, blocks, width, stride, self.dtype, name=f"stage{index + 1}")(x)
            levels.append(x)
        return features.Features(*levels)


def resnet18(dtype: DTypeLike = jnp.float32) -> ResNet:
    """ResNet-18: 11 M parameters to C5, channels 64, 128, 256, 512."""
    return ResNet(BasicBlock, (2, 2, 2, 2), dtype)


def resnet50(dtype: DTypeLike = jnp.float32) -> ResNet:
    """ResNet-50: 23 M parameters to C5, channels 256, 512, 1024, 2048."""
    return ResNet(Bottleneck, (3, 4, 6, 3), dtype)


def _layer_of(path: tuple[str, ...]) -> folding.Layer:
    """Returns the source's names: conv1, bn1, layerS.B.convI, layerS.B.bnI, layerS.B.downsample.0 and .1."""
    if path == ("stem",):
        return folding.Layer("conv1", "bn1")
    stage, block, layer = path
    prefix = f"layer{stage.removeprefix('stage')}.{block.removeprefix('block')}"
    if layer == "project":
        return folding.Layer(f"{prefix}.downsample.0", f"{prefix}.downsample.1")
    return folding.Layer(f"{prefix}.{layer}", f"{prefix}.bn{layer.removeprefix('conv')}")


CONVERSION = folding.Plan(_layer_of, epsilon=1e-5, ignored=("fc.",))
"""Plan for the names of torchvision."""
