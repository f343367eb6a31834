"""The model without training: unit-vector keys from ImageNet features, the read's own mask as prediction.

Label propagation in the sense of self-supervised tracking: DESIGN.md section 3, "Training-free keys". It
is the floor that a trained model has to beat, and stays in the product as `--checkpoint none`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax import checks, geometry
from vos_jax.errors import VosError
from vos_jax.models import masks
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib
from vos_jax.typing import Array, Float, Shaped

# A mask that peaks below this is taken for noise and not lifted to certainty.
FAINT = 0.05

STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFreeConfig:
    """Label propagation, the model of `--checkpoint none`.

    Attributes:
      features: Backbone stages whose unit vectors are the keys, each counting the same: c2, c3, c4, c5.
      stride: Pixels per cell: 16; 8 is finer and some 10 times as slow, 4 more so (a window of 15 and a
        capacity of 4 suit 8). Finer stages are averaged onto the grid, coarser ones upsampled.
      centred: Whether each frame's mean feature is taken off.
      temperature: Softmax temperature of cosine similarity.
      topk: How many memory pixels vote for a pixel.
      window: How far from its own place a pixel reads unpinned slots, in cells; 0 = everywhere.
      previous: Whether the previous frame has a slot, in place of model.memory.previous.

    Raises:
      VosError: a value out of range.
    """

    features: tuple[str, ...] = ("c3", "c4")
    temperature: float = 0.1
    topk: int = 10
    stride: int = 16
    centred: bool = True
    window: int = 8
    previous: bool = True

    @property
    def read(self) -> read_lib.ReadConfig:
        """The read: cosine similarity, the highest `topk` vote."""
        return read_lib.ReadConfig(
            variant="topk",
            affinity="dot",
            scale=1.0 / self.temperature,
            topk=self.topk,
            window=self.window,
            search_radius=0.0,
        )

    def __post_init__(self):
        checks.not_empty(self, "features")
        checks.one_of(self, "features", STRIDES)
        checks.at_least(self, 1, "topk")
        checks.at_least(self, 0, "window")
        checks.at_least(self, 1e-6, "temperature")
        if self.stride not in (4, 8, 16):
            raise VosError(f"stride is {self.stride}; it is 4, 8 or 16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFree:
    """A `state.Model` whose only parameters are the backbone's."""

    backbone: nn.Module
    key_size: int
    config: TrainingFreeConfig
    memory_config: memory_lib.MemoryConfig

    def init_memory(self, num_objects: int, size: tuple[int, int]) -> memory_lib.Memory:
        """Returns an empty memory; keys are all it holds beside the masks."""
        grid = size[0] // self.config.stride, size[1] // self.config.stride
        return memory_lib.init_memory(
            self.memory_config, num_objects, grid, key_size=self.key_size, embed_size=0, value_size=0
        )

    def encode(
        self, params: Any, frame: Shaped[Array, "H W 3"], frame_size: Float[Array, "2"]
    ) -> state_lib.Encoded:
        """Returns unit-vector keys; of several levels, each counts the same."""
        features = self.backbone.apply({"params": params}, frame)
        stride = self.config.stride
        levels = []
        for name in self.config.features:
            level = getattr(features, name).astype(jnp.float32)
            if STRIDES[name] < stride:
                level = masks.downsample(jnp.moveaxis(level, -1, 0), stride // STRIDES[name])
                level = jnp.moveaxis(level, 0, -1)
            if self.config.centred:
                # After the averaging onto the grid a level is as coarse as that.
                cell = max(stride, STRIDES[name])
                height, width = level.shape[:2]
                real = masks.pixel_valid(frame_size, (height, width), cell)[..., None]
                level = level - jnp.mean(level, axis=(0, 1), keepdims=True, where=real)
            level = level / (jnp.linalg.norm(level, axis=-1, keepdims=True) + 1e-6)
            if STRIDES[name] > stride:
                shape = frame.shape[0] // stride, frame.shape[1] // stride, level.shape[2]
                level = jax.image.resize(level, shape, "bilinear")
            levels.append(level)
        key = jnp.concatenate(levels, axis=-1) / len(levels) ** 0.5
        return state_lib.Encoded(key=key, embed=key[..., :0], features=None)

    def predict(
        self, params: Any, encoded: state_lib.Encoded, state: state_lib.State, supplied: Any = None
    ) -> state_lib.Prediction:
        """Returns the memory's own propagated mask R^p, scaled to a peak of 1."""
        del params, supplied
        read = read_lib.read(encoded.key, state.memory, self.config.read)
        # What the padding reads may neither be the peak nor bleed over the border.
        cells = masks.repeat_border(read.prob, state.frame_size, self.config.stride)
        prob = masks.upsample(cells, self.config.stride // geometry.MASK_STRIDE)
        # Votes of a small object's few cells are diluted by its surroundings; masks made from such masks fade
        # away within frames. The object's surest pixel counts as sure.
        peak = jnp.max(prob, axis=(1, 2), keepdims=True)
        prob = jnp.clip(prob / jnp.maximum(peak, FAINT), 0.0, 1.0)
        presence = jnp.max(cells, axis=(1, 2))
        return state_lib.Prediction(prob=prob, presence=presence, read=read, out=None)

    def value(
        self, params: Any, encoded: state_lib.Encoded, prob: Float[Array, "N H/4 W/4"], state: state_lib.State
    ) -> Float[Array, "N h w 0"]:
        """Returns nothing: only masks are propagated."""
        del params, state
        return jnp.zeros((prob.shape[0], *encoded.key.shape[:2], 0), encoded.key.dtype)
