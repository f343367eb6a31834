"""EfficientNet-Lite0 (Tan & Le 2019, the "lite" series): no squeeze-excite, ReLU6, 3 M parameters to C5."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.models.backbones import conv, features, folding
from vos_jax.ops import bottleneck
from vos_jax.typing import Array, DTypeLike, Float, Shaped

# The lite series was trained on (pixel - 127) / 128. The batch norm statistics confirm it: on photographs
# the stem's means differ by 0.06 deviations, with ImageNet's mean and deviation by 0.34.
MEAN = (127 / 255, 127 / 255, 127 / 255)
STD = (128 / 255, 128 / 255, 128 / 255)

STEM_CHANNELS = 32


class Stage(NamedTuple):
    """A sequence of blocks with the same output channels; the first one has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


LITE0 = (
    Stage(blocks=1, kernel=3, stride=1, expansion=1, channels=16),
    Stage(blocks=2, kernel=3, stride=2, expansion=6, channels=24),  # C2
    Stage(blocks=2, kernel=5, stride=2, expansion=6, channels=40),  # C3
    Stage(blocks=3, kernel=3, stride=2, expansion=6, channels=80),
    Stage(blocks=3, kernel=5, stride=1, expansion=6, channels=112),  # C4
    Stage(blocks=4, kernel=5, stride=2, expansion=6, channels=192),
    Stage(blocks=1, kernel=3, stride=1, expansion=6, channels=320),  # C5
)
ENDPOINTS = (1, 2, 4, 6)


class InvertedBottleneck(nn.Module):
    """Applies expand 1×1, depthwise k×k, project 1×1, and a skip if the shape does not change."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "H W Ci"]) -> Float[Array, "h w Co"]:
        expanded = x.shape[-1] * self.expansion
        expand = None if self.expansion == 1 else self.dense("expand", x.shape[-1], expanded)
        shape = (self.kernel, self.kernel, expanded)
        spatial = bottleneck.Spatial(
            *conv.Weights(shape, conv.INIT_DEPTHWISE, self.dtype, name="depthwise")()
        )
        project = self.dense("project", expanded, self.channels)
        y = bottleneck.inverted_bottleneck(x, expand, spatial, project, stride=self.stride)
        return x + y if x.shape == y.shape else y

    def dense(self, name: str, inputs: int, outputs: int) -> bottleneck.Dense:
        kernel, bias = conv.Weights((1, 1, inputs, outputs), conv.INIT_KERNEL, self.dtype, name=name)()
        return bottleneck.Dense(kernel[0, 0], bias)


class BottleneckStage(nn.Module):
    """The blocks of one `Stage`, named block0, block1, …"""

    stage: Stage
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "H W Ci"]) -> Float[Array, "h w Co"]:
        for index in range(self.stage.blocks):
            x = InvertedBottleneck(
                kernel=self.stage.kernel,
                stride=self.stage.stride if index == 0 else 1,
                expansion=self.stage.expansion,
                channels=self.stage.channels,
                dtype=self.dtype,
                name=f"block{index}",
            )(x)
        return x


class EfficientNetLite0(nn.Module):
    """Computes EfficientNet-Lite0's features of one frame; parameters under stem, stage1 … stage7.

    Attributes:
        dtype: of the computation and of the features; parameters stay float32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, frame: Shaped[Array, "H W 3"]) -> features.Features:
        """Returns features of an RGB frame, uint8 or float in [0, 1], with 24, 40, 112 and 320 channels."""
        x = features.normalise(frame, mean=MEAN, std=STD, dtype=self.dtype)
        x = jax.nn.relu6(conv.Conv(STEM_CHANNELS, 3, 2, dtype=self.dtype, name="stem")(x))
        levels = []
        for index, stage in enumerate(LITE0):
            x = BottleneckStage(stage, self.dtype, name=f"stage{index + 1}")(x)
            if index in ENDPOINTS:
                levels.append(x)
        return features.Features(*levels)


def _layer_of(path: tuple[str, ...]) -> folding.Layer:
    """Returns the source's names, which number the blocks of all stages in one list."""
    if path == ("stem",):
        return folding.Layer("_conv_stem", "_bn0")
    stage, block, layer = path
    before = sum(s.blocks for s in LITE0[: int(stage.removeprefix("stage")) - 1])
    prefix = f"_blocks.{before + int(block.removeprefix('block'))}"
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[layer]
    return folding.Layer(f"{prefix}._{layer}_conv", f"{prefix}.{norm}")


CONVERSION = folding.Plan(_layer_of, epsilon=1e-3, ignored=("_conv_head.", "_bn1.", "_fc."))
"""Plan for the names of efficientnet_lite_pytorch."""
