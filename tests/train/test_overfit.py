"""The whole method learns one clip: masks rise to the truth, and every group of parameters takes part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.ops import masks
from vos_jax.train import clip_loss
from vos_jax.train import oracle as oracle_lib

SIZE, STEPS = (64, 64), 200


def clip():
    frames, ids = tiny.video(3, SIZE)
    return {
        "frames": frames,
        "ids": ids,
        "object_valid": np.ones(2, bool),
        "frame_valid": np.ones(3, bool),
        "truth_valid": np.ones(3, bool),
        "frame_size": np.asarray(SIZE, np.int32),
        "dataset": np.int32(0),
        "instances": ids,
        "instance_valid": np.ones(2, bool),
        "exhaustive": np.bool_(True),
    }


def follow(model, params, frames, ids):
    """Masks of frames 1 and 2 given the first, with the oracle's proposals: refined and coarse."""
    truth = clip_loss.truth_of(ids, 2)
    keys = jax.random.split(jax.random.key(7), len(frames))

    def oracle(truth, key):
        size = jnp.asarray(SIZE, jnp.float32)
        capacity = model.config.proposals.capacity
        return oracle_lib.oracle(truth, jnp.ones(2, bool), size, key, capacity=capacity)

    prompts = jax.tree.map(lambda x: jnp.stack([x] * len(frames)), state_lib.no_prompt(2, SIZE))
    first = (ids[0][None] == jnp.asarray([1, 2], jnp.uint8)[:, None, None]).astype(jnp.float32)
    prompts = prompts.replace(mask=prompts.mask.at[0].set(first), given=prompts.given.at[0].set(True))

    def step(state, inputs):
        return step_lib.step(model, params, state, *inputs)

    state = state_lib.init_state(model, 2, SIZE, SIZE)
    _, output = jax.lax.scan(step, state, (frames, prompts, jax.vmap(oracle)(truth, keys)))
    refined = masks.upsample(output.prob, 4)[1:, 1:] > 0.5
    coarse = masks.upsample(output.prediction.out.coarse, 4)[1:] > 0.5
    return refined, coarse


def mean_j(predicted, ids):
    truth = np.stack([ids[1:] == 1, ids[1:] == 2], axis=1)
    predicted = np.asarray(predicted)
    return float(np.mean(np.sum(predicted & truth, (2, 3)) / np.sum(predicted | truth, (2, 3))))


# In `make test`, test_clip_loss.py stands for it: every parameter takes part, and the loss can be learned.
@pytest.mark.slow
def test_one_clip_is_learned_and_every_parameter_group_gets_a_gradient():
    model = tiny.model()
    params = tiny.params()
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], clip())
    config = clip_loss.ClipLossConfig(sampling_begin=STEPS // 2, oracle_prob=1.0, oracle_end=100 * STEPS)
    loss_fn = clip_loss.make_loss_fn(model, config)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(5e-3, STEPS)))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, opt_state, step):
        grads, metrics = jax.grad(loss_fn, has_aux=True)(params, batch, jax.random.key(1), step)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, metrics, grads

    opt_state = tx.init(params)
    touched = None
    first = last = None
    for step in range(STEPS):
        params, opt_state, metrics, grads = train_step(params, opt_state, jnp.asarray(step))
        if step in (1, 20, 100):
            now = jax.tree.map(lambda g: bool(np.any(g)) and bool(np.all(np.isfinite(g))), grads)
            touched = now if touched is None else jax.tree.map(lambda a, b: a or b, touched, now)
        first, last = (metrics if first is None else first), metrics
    silent = [jax.tree_util.keystr(p) for p, hit in jax.tree_util.tree_leaves_with_path(touched) if not hit]
    assert not silent, silent
    assert last["loss"] < 0.5 * first["loss"]

    frames, ids = jnp.asarray(batch["frames"][0]), jnp.asarray(batch["ids"][0])
    run = jax.jit(functools.partial(follow, model))
    refined, coarse = run(params, frames, ids)
    j_refined, j_coarse = mean_j(refined, np.asarray(ids)), mean_j(coarse, np.asarray(ids))
    print(f"J refined {j_refined:.3f}, coarse {j_coarse:.3f}, loss {first['loss']:.2f} -> {last['loss']:.2f}")
    assert j_refined > 0.9, (j_refined, j_coarse)
    assert j_coarse > 0.7, (j_refined, j_coarse)
