"""Label propagation without training: what is padded does not change what is real."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny
from vos_jax.models import backbones, training_free
from vos_jax.models import config as model_config
from vos_jax.models import memory as memory_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib


class PointwiseBackbone(nn.Module):
    """Mean colours of each cell: no feature looks beyond its own cell."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, frame):
        x = frame.astype(jnp.float32) / 255.0

        def level(stride):
            return nn.avg_pool(x[None], (stride, stride), (stride, stride))[0]

        return backbones.Features(level(4), level(8), level(16), level(32))


def test_more_padding_changes_no_real_mask():
    config = model_config.ModelConfig(
        backbone=PointwiseBackbone,
        training_free=model_config.TrainingFreeConfig(window=0),
        memory=memory_lib.MemoryConfig(capacity=4),
    )
    model = training_free.TrainingFree(config=config)
    frames, ids = tiny.video(4, (64, 64))

    def run(padded):
        extra = [(0, 0), *((0, p - 64) for p in padded)]
        # Bright padding, unlike anything in the frame.
        wide = np.pad(frames, [*extra, (0, 0)], constant_values=255)
        first = np.pad(np.stack([ids[:1] == 1, ids[:1] == 2], axis=1), [extra[0], *extra])[0]
        state = state_lib.init_state(model, 2, padded, (64, 64))
        step = jax.jit(lambda s, f, p: step_lib.step(model, {}, s, f, p))
        nothing = state_lib.no_prompt(2, padded)
        masks = []
        for index, frame in enumerate(wide):
            now = nothing.replace(mask=jnp.asarray(first, jnp.float32), given=jnp.ones(2, bool))
            state, output = step(state, jnp.asarray(frame), nothing if index else now)
            masks.append(np.asarray(output.prob)[:, :16, :16])
        return np.stack(masks)

    np.testing.assert_allclose(run((64, 64)), run((96, 128)), atol=1e-5)
