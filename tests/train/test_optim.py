"""Learning rates by path, decay, clipping, frozen groups, averaged weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vos_jax import errors
from vos_jax.ops import target
from vos_jax.train import optim, state

PARAMS = {
    "backbone": {
        "stem": {"kernel": np.ones((3, 4), np.float32), "bias": np.ones(4, np.float32)},
        "stage1": {"kernel": np.ones((4, 4), np.float32)},
    },
    "head": {"kernel": np.ones((4, 2), np.float32), "gain": np.ones((), np.float32)},
    "header": np.ones((2, 2), np.float32),
}
STEPS = 1000
CONFIG = optim.OptimConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.0, clip_norm=0.0, lr_scales={})


def first_update(config, gradients):
    tx = optim.make_tx(config, PARAMS, STEPS)
    return jax.jit(lambda g: tx.update(g, tx.init(PARAMS), PARAMS)[0])(gradients)


def ones(value=1.0):
    return jax.tree.map(lambda x: np.full_like(x, value), PARAMS)


def test_schedule_warms_up_and_decays():
    config = dataclasses.replace(CONFIG, warmup_steps=4, power=2.0, final_rate=0.5)
    rate = optim.schedule(config, 104)
    np.testing.assert_allclose([rate(s) for s in range(5)], [0.02, 0.04, 0.06, 0.08, 0.1], rtol=1e-5)
    np.testing.assert_allclose(rate(54), 0.05 + 0.05 * 0.5**2, rtol=1e-5)
    np.testing.assert_allclose([rate(104), rate(5000)], 0.05, rtol=1e-5)
    np.testing.assert_allclose(optim.schedule(CONFIG, STEPS)(0), 0.1, rtol=1e-5)


def test_the_longest_prefix_sets_the_rate():
    config = dataclasses.replace(CONFIG, lr_scales={"backbone": 0.1, "backbone/stem": 0.01, "head": 2.0})
    out = first_update(config, ones())
    # Adam's first step is the sign of the gradient.
    np.testing.assert_allclose(out["backbone"]["stage1"]["kernel"], -0.01, rtol=1e-4)
    np.testing.assert_allclose(out["backbone"]["stem"]["bias"], -0.001, rtol=1e-4)
    np.testing.assert_allclose(out["head"]["kernel"], -0.2, rtol=1e-4)
    np.testing.assert_allclose(out["header"], -0.1, rtol=1e-4)  # "head" is no prefix of this path


def test_only_matrices_decay():
    out = first_update(dataclasses.replace(CONFIG, weight_decay=0.5), ones(0.0))
    np.testing.assert_allclose(out["head"]["kernel"], -0.05, rtol=1e-5)
    assert not out["head"]["gain"].any() and not out["backbone"]["stem"]["bias"].any()


def test_the_gradient_is_clipped_as_a_whole():
    config = dataclasses.replace(CONFIG, clip_norm=1.0, eps=1.0)
    count = sum(x.size for x in jax.tree.leaves(PARAMS))
    clipped = 1.0 / np.sqrt(count)  # each of equal numbers
    out = first_update(config, ones(100.0))
    for leaf in jax.tree.leaves(out):
        np.testing.assert_allclose(leaf, -0.1 * clipped / (clipped + 1.0), rtol=1e-4)


@pytest.mark.parametrize("size", [0.01, 100.0])
def test_the_norm_of_one_vector_clips_as_those_of_all_arrays(size):
    """An accelerator's form; the state's arrays, and so checkpoints, are the same."""
    config = dataclasses.replace(CONFIG, frozen=("head",), clip_norm=1.0, weight_decay=0.5, eps=1.0)
    keys = iter(jax.random.split(jax.random.key(0), 9))
    gradients = jax.tree.map(lambda x: size * jax.random.normal(next(keys), x.shape), PARAMS)
    expected, norm = first_update(config, gradients), optim.global_norm(gradients)
    with target.compile_for("cuda"):
        found = first_update(config, gradients)
        assert "concatenate" in str(jax.make_jaxpr(lambda g: optim.global_norm(g))(gradients))
        np.testing.assert_allclose(optim.global_norm(gradients), norm, rtol=1e-6)
        assert "concatenate" not in str(
            jax.make_jaxpr(lambda g: optim.global_norm(g, sharded=True))(gradients)
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    reference = optax.clip_by_global_norm(1.0).update(gradients, optax.EmptyState())[0]
    clipped = optim._clip(1.0, False).update(gradients, optax.EmptyState())[0]
    jax.tree.map(np.testing.assert_array_equal, clipped, reference)


def test_frozen_parameters_stay_and_have_no_state():
    config = dataclasses.replace(
        CONFIG, frozen=("backbone/stem", "head"), weight_decay=0.5, clip_norm=1.0, eps=1.0
    )
    tx = optim.make_tx(config, PARAMS, STEPS)
    out = first_update(config, ones())
    for frozen in (out["backbone"]["stem"]["kernel"], out["backbone"]["stem"]["bias"], out["head"]["kernel"]):
        assert not frozen.any()
    assert out["header"].all()
    moments = [x.shape for x in jax.tree.leaves(tx.init(PARAMS)) if x.ndim]
    assert sorted(moments) == [(2, 2), (2, 2), (4, 4), (4, 4)]


def test_frozen_parameters_get_no_gradient_and_keep_no_activations():
    def loss(params, x, frozen):
        params = optim.freeze(params, frozen)
        for name in ("stem", "stage1"):
            x = jnp.tanh(x @ params["backbone"][name]["kernel"])
        return jnp.sum(x @ params["head"]["kernel"])

    def kept(frozen):
        x = jnp.ones((1000, 3))
        back = jax.eval_shape(lambda p: jax.vjp(lambda q: loss(q, x, frozen), p)[1], PARAMS)
        return sum(leaf.size for leaf in jax.tree.leaves(back) if leaf.size >= 1000)

    gradients = jax.grad(loss)(PARAMS, jnp.ones((5, 3)), ("backbone/stem",))
    assert not gradients["backbone"]["stem"]["kernel"].any()
    assert gradients["backbone"]["stage1"]["kernel"].any() and gradients["head"]["kernel"].any()
    # Frozen whole, only the head's input of 4 columns is kept.
    assert kept(("backbone",)) == 4000 < kept(("backbone/stem",)) < kept(())


def test_a_prefix_that_fits_nothing_is_refused():
    for change in ({"frozen": ("backbone/stage9",)}, {"lr_scales": {"spine": 0.1}}):
        with pytest.raises(errors.VosError, match="there are: backbone"):
            optim.make_tx(dataclasses.replace(CONFIG, **change), PARAMS, STEPS)
    with pytest.raises(errors.VosError, match="stage9"):
        optim.freeze(PARAMS, ("backbone/stage9",))
    for bad in ({"learning_rate": 0.0}, {"ema_decay": 1.0}, {"clip_norm": -1.0}):
        with pytest.raises(errors.VosError, match=next(iter(bad)).split("_")[0]):
            dataclasses.replace(CONFIG, **bad)


def test_averaged_weights_follow_fast_then_slowly():
    ema, params = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    np.testing.assert_allclose(optim.update_ema(ema, params, 0, 0.99)["a"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(optim.update_ema(ema, params, 10**6, 0.99)["a"], 0.01, rtol=1e-4)


def test_state_owns_its_arrays():
    """Donating a state must delete neither the caller's parameters nor one array twice."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    tx = optim.make_tx(CONFIG, params, STEPS)
    first = state.init_train_state(params, tx, jax.random.key(3))
    moved = jax.jit(lambda s: jax.tree.map(lambda x: x, s).replace(step=s.step + 1), donate_argnums=0)(first)
    assert moved.step == 1
    np.testing.assert_array_equal(params["header"], 1.0)
    shapes = jax.eval_shape(lambda p: state.init_train_state(p, tx, jax.random.key(3)), params)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, shapes)
