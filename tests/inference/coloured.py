"""A training-free model whose features are pooled colours, and a video of coloured squares to follow."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vos_jax.inference import config as inference_config
from vos_jax.inference import engine as engine_lib
from vos_jax.models import backbones, memory, training_free
from vos_jax.models import config as model_config


class Colours(nn.Module):
    """A backbone whose features at each stride are the mean colours and a constant."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, frame):
        frame = frame.astype(jnp.float32) / (255.0 if frame.dtype == jnp.uint8 else 1.0)

        def level(stride):
            h, w = frame.shape[0] // stride, frame.shape[1] // stride
            pooled = frame.reshape(h, stride, w, stride, 3).mean(axis=(1, 3))
            return jnp.concatenate([pooled, jnp.full((h, w, 1), 0.2)], axis=-1)

        return backbones.Features(*(level(s) for s in (4, 8, 16, 32)))


def make_model(capacity=4):
    config = model_config.ModelConfig(
        backbone=Colours,
        training_free=model_config.TrainingFreeConfig(
            features=("c2",), stride=4, centred=False, temperature=0.01, topk=4, window=0
        ),
        memory=memory.MemoryConfig(capacity=capacity, every=2),
    )
    return training_free.TrainingFree(config=config)


def make_engine(model=None, params=None, *, editable=False, intermediates=(), **settings):
    """An engine that sees frames at their own size; `settings` are those of `InferenceConfig`."""
    config = inference_config.InferenceConfig(**{"min_size": 0, **settings})
    model = make_model() if model is None else model
    return engine_lib.Engine(
        model, {} if params is None else params, config, editable=editable, intermediates=intermediates
    )


def make_video(size=(50, 70), length=6):
    """Coloured squares that move right; ids 3 and 7, of which 7 comes in at frame 2."""
    frames = np.full((length, *size, 3), 40, np.uint8)
    ids = np.zeros((length, *size), np.uint8)
    for t in range(length):
        squares = [(3, 8, 8 + 4 * t, (250, 20, 20))]
        if t >= 2:
            squares.append((7, 28, 40 - 4 * t, (20, 250, 20)))
        for i, y, x, colour in squares:
            frames[t, y : y + 16, x : x + 16] = colour
            ids[t, y : y + 16, x : x + 16] = i
    return frames, ids


def iou(a, b):
    return np.sum(a & b) / np.sum(a | b)
