"""Label propagation without training: what is padded does not change what is real."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny
from vos_jax.inference import rollout
from vos_jax.models import backbones, training_free
from vos_jax.models import memory as memory_lib
from vos_jax.models import state as state_lib


class PointwiseBackbone(nn.Module):
    """Mean colours of each cell: no feature looks beyond its own cell."""

    @nn.compact
    def __call__(self, frame):
        x = frame.astype(jnp.float32) / 255.0

        def level(stride):
            return nn.avg_pool(x[None], (stride, stride), (stride, stride))[0]

        return backbones.Features(level(4), level(8), level(16), level(32))


def test_more_padding_changes_no_real_mask():
    model = training_free.TrainingFree(
        backbone=PointwiseBackbone(),
        key_size=6,
        config=training_free.TrainingFreeConfig(window=0),
        memory_config=memory_lib.MemoryConfig(capacity=4, previous=True),
    )
    frames, ids = tiny.video(4, (64, 64))

    def run(padded):
        extra = [(0, 0), *((0, p - 64) for p in padded)]
        # Bright padding, unlike anything in the frame.
        wide = np.pad(frames, [*extra, (0, 0)], constant_values=255)
        first = np.pad(np.stack([ids[:1] == 1, ids[:1] == 2], axis=1), [extra[0], *extra])[0]
        state = state_lib.init_state(model, 2, padded, (64, 64))
        step = jax.jit(lambda s, f, g: rollout.frame_step(model, {}, s, f, g)[:2])
        given = state_lib.no_given(2, padded)
        masks = []
        for index, frame in enumerate(wide):
            now = given.replace(prob=jnp.asarray(first, jnp.float32), valid=jnp.ones(2, bool))
            state, prob = step(state, jnp.asarray(frame), given if index else now)
            masks.append(np.asarray(prob)[:, :16, :16])
        return np.stack(masks)

    np.testing.assert_allclose(run((64, 64)), run((96, 128)), atol=1e-5)
