"""The training-free model: unit-vector keys from ImageNet features; the propagated mask is the prediction.

Label propagation, as in self-supervised tracking. It is the baseline for trained models, and the model of
`--checkpoint none`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import backbones
from vos_jax.models import config as config_lib
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib
from vos_jax.ops import masks
from vos_jax.typing import Array, Float, Shaped

# A mask whose peak is lower is noise and is not scaled up to a peak of 1.
FAINT = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFree:
    """A `state.Model` whose only parameters are the backbone's.

    Attributes:
      config: the settings; only `backbone`, `memory`, `dtype` and `training_free` are used.
    """

    config: config_lib.ModelConfig

    @property
    def memory_spec(self) -> memory_lib.MemorySpec:
        """The memory that the model needs: keys and masks only."""
        c, settings = self.config, self.config.training_free
        channels = backbones.channels(c.backbone)
        return memory_lib.MemorySpec(
            config=dataclasses.replace(c.memory, previous=settings.previous),
            stride=settings.stride,
            key_size=sum(channels[level] for level in settings.features),
            embed_size=0,
            value_size=0,
        )

    def encode(
        self, params: Any, frame: Shaped[Array, "H W 3"], frame_size: Float[Array, "2"]
    ) -> state_lib.Encoded:
        """Returns unit-vector keys; several levels have equal weight."""
        settings = self.config.training_free
        backbone = backbones.make(self.config.backbone, self.config.compute_dtype)
        features: Any = backbone.apply({"params": params}, frame)
        stride = settings.stride
        levels = []
        for name in settings.features:
            level = getattr(features, name).astype(jnp.float32)
            if backbones.STRIDES[name] < stride:
                level = masks.downsample(jnp.moveaxis(level, -1, 0), stride // backbones.STRIDES[name])
                level = jnp.moveaxis(level, 0, -1)
            if settings.centred:
                # After averaging, a level has at least the grid's stride.
                cell = max(stride, backbones.STRIDES[name])
                height, width = level.shape[:2]
                real = masks.pixel_valid(frame_size, (height, width), cell)[..., None]
                level = level - jnp.mean(level, axis=(0, 1), keepdims=True, where=real)
            level = level / (jnp.linalg.norm(level, axis=-1, keepdims=True) + 1e-6)
            if backbones.STRIDES[name] > stride:
                shape = frame.shape[0] // stride, frame.shape[1] // stride, level.shape[2]
                level = jax.image.resize(level, shape, "bilinear")
            levels.append(level)
        key = jnp.concatenate(levels, axis=-1) / len(levels) ** 0.5
        return state_lib.Encoded(key=key, embed=key[..., :0])

    def track(
        self, params: Any, encoded: state_lib.Encoded, state: state_lib.State, *, train: bool = False
    ) -> state_lib.Prediction:
        """Returns the propagated mask R^p, scaled to a peak of 1."""
        del params, train
        settings = self.config.training_free
        read = read_lib.read(encoded.key, state.memory, settings.read)
        # Values of the padding may neither be the peak nor reach over the border by interpolation.
        cells = masks.repeat_border(read.prob, state.frame_size, settings.stride)
        prob = masks.upsample(cells, settings.stride // geometry.MASK_STRIDE)
        # The few cells of a small object are outweighed by its surroundings, so its masks would fade within
        # frames. Scaling to a peak of 1 prevents that.
        peak = jnp.max(prob, axis=(1, 2), keepdims=True)
        prob = jnp.clip(prob / jnp.maximum(peak, FAINT), 0.0, 1.0)
        presence = jnp.max(cells, axis=(1, 2))
        return state_lib.Prediction(prob=prob, presence=presence, read=read, out=None)

    def encode_value(
        self, params: Any, encoded: state_lib.Encoded, prob: Float[Array, "N H/4 W/4"]
    ) -> Float[Array, "N h w 0"]:
        """Returns values without channels: only masks are propagated."""
        del params
        return jnp.zeros((prob.shape[0], *encoded.key.shape[:2], 0), encoded.key.dtype)
