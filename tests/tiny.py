"""A tiny model and tiny videos, so that tests of the whole method compile in seconds."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.models import backbones, proposals, vos
from vos_jax.models import config as model_config
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib


class TinyBackbone(nn.Module):
    """Four strided convolutions with the interface of a backbone."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, frame):
        x = frame.astype(jnp.float32) / (255.0 if frame.dtype == jnp.uint8 else 1.0) - 0.5
        levels = []
        for index, channels in enumerate((8, 12, 16, 16)):
            stride = 4 if index == 0 else 2
            conv = nn.Conv(channels, (5, 5), strides=(stride, stride), dtype=self.dtype, name=f"stage{index}")
            x = nn.relu(conv(x))
            levels.append(x)
        return backbones.Features(*levels)


CONFIG = model_config.ModelConfig(
    backbone=TinyBackbone,
    key_size=8,
    embed_size=8,
    value_size=8,
    refine_channels=(16, 12, 8),
    memory=memory_lib.MemoryConfig(capacity=3, every=2),
    read=read_lib.ReadConfig(affinity="dot", search_radius=0.0),
    proposals=proposals.ProposalConfig(
        channels=8, head_layers=1, mask_layers=1, candidates=16, capacity=6, score_threshold=0.0
    ),
    template_size=5,
)
NO_NETWORK = dataclasses.replace(CONFIG.proposals, source="none")
VARIANT = {
    field.name: getattr(CONFIG, field.name) for field in dataclasses.fields(CONFIG) if field.name != "variant"
}
"""The tiny model as an entry of `model_config.VARIANTS`."""


def model(**changes) -> vos.VOS:
    """The tiny model, with changes to its config."""
    return vos.VOS(config=dataclasses.replace(CONFIG, **changes))


def params(seed: int = 0, **changes):
    """Random parameters of the tiny model."""
    return model(**changes).init(jax.random.key(seed))


def video(length: int = 3, size: tuple[int, int] = (64, 64), seed: int = 0):
    """Two textured squares that move over noise: frames uint8 [T, H, W, 3], ids uint8 [T, H, W]."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(60, 110, (length, *size, 3), dtype=np.uint8)
    ids = np.zeros((length, *size), np.uint8)
    for t in range(length):
        for i, (y, x, colour) in enumerate(
            ((6, 4 + 4 * t, (230, 40, 40)), (size[0] - 28, size[1] - 28 - 4 * t, (40, 60, 230)))
        ):
            frames[t, y : y + 22, x : x + 22] = colour
            frames[t, y + 4 : y + 9, x + 4 : x + 16] = 255
            ids[t, y : y + 22, x : x + 22] = i + 1
    return frames, ids


def batch(size: int = 2, *, length: int = 3, objects: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Clips as the pipeline makes them: `data.clips.ClipArrays` with a leading axis of `size` clips."""
    clips = [video(length, seed=seed + index) for index in range(size)]
    return {
        "frames": np.stack([frames for frames, _ in clips]),
        "ids": np.stack([ids for _, ids in clips]),
        "object_valid": np.tile(np.arange(objects) < 2, (size, 1)),
        "frame_valid": np.ones((size, length), bool),
        "truth_valid": np.ones((size, length), bool),
        "frame_size": np.tile(np.array([64, 64], np.int32), (size, 1)),
        "dataset": np.zeros(size, np.int32),
        "instances": np.stack([ids for _, ids in clips]),
        "instance_valid": np.tile(np.arange(objects) < 2, (size, 1)),
        "exhaustive": np.ones(size, bool),
        "origins": np.stack([origins(ids) for _, ids in clips]),
    }


def origins(ids: np.ndarray) -> np.ndarray:
    """Origins of the 16-pixel cells of `video`: (layer, x, y) as in `data.origins`, [T, h, w, 3]."""
    layer = ids[:, 8::16, 8::16]
    time, y, x = np.indices(layer.shape)
    moved = np.array([0, 4, -4])[layer] * time
    return np.stack([layer, 16 * x + 8 - moved, 16 * y + 8], -1).astype(np.float32)
