"""RefineNet and soft masks."""

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.models import backbones, masks, refine


def features(h=2, w=3, seed=0):
    rng = np.random.default_rng(seed)

    def level(stride, channels):
        return jnp.asarray(rng.normal(size=(h * 16 // stride, w * 16 // stride, channels)), jnp.float32)

    return backbones.Features(c2=level(4, 3), c3=level(8, 4), c4=level(16, 5), c5=level(16, 1))


def test_untrained_it_hands_on_the_memorys_mask_and_every_parameter_can_learn():
    net = refine.RefineNet(channels=(8, 6, 4))
    rng = np.random.default_rng(1)
    value = jnp.asarray(rng.normal(size=(2, 3, 7)), jnp.float32)
    prob = jnp.asarray(rng.uniform(size=(2, 3)), jnp.float32)
    coarse, prev = jnp.asarray(rng.uniform(size=(2, 8, 12)), jnp.float32)
    inputs = (features(), value, prob, coarse, prev)
    params = net.init(jax.random.key(0), *inputs)
    logits = net.apply(params, *inputs)
    np.testing.assert_allclose(logits, masks.upsample(refine.logit(prob), 4), atol=1e-5)

    def loss(params):
        return jnp.mean(jnp.square(net.apply(params, *inputs) - 1.0))

    # Behind a head of zeros nothing learns in the first step; after it, everything does.
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    for path, grad in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params)):
        assert np.any(grad) and np.all(np.isfinite(grad)), path


def test_aggregation_by_hand():
    prob = jnp.asarray([0.8, 0.5])[:, None, None]
    merged = masks.aggregate(prob, jnp.asarray([True, True]))[:, 0, 0]
    odds = np.array([0.1 / 0.9, 4.0, 1.0])  # background (1 - .8)(1 - .5) = .1
    np.testing.assert_allclose(merged, odds / odds.sum(), rtol=1e-5)
    alone = masks.aggregate(prob, jnp.asarray([True, False]))[:, 0, 0]
    odds = np.array([0.2 / 0.8, 4.0, 0.0])
    np.testing.assert_allclose(alone, odds / odds.sum(), rtol=1e-5)


def test_aggregation_is_finite_at_certainty_and_has_finite_gradients():
    prob = jnp.asarray([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    valid = jnp.ones(2, bool)
    merged = masks.aggregate(prob, valid)
    np.testing.assert_allclose(jnp.sum(merged, axis=0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(merged[:, 0], [0.0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(merged[:, 1], [1.0, 0.0, 0.0], atol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda p: jnp.sum(masks.aggregate(p, valid)[1]))(prob)))


def test_resampling_is_aligned():
    """Down and up again keeps a half-plane's edge where it was."""
    plane = jnp.zeros((32, 32)).at[:, :16].set(1.0)
    back = masks.upsample(masks.downsample(plane, 4), 4)
    np.testing.assert_array_equal(back > 0.5, plane > 0.5)
    np.testing.assert_allclose(masks.downsample(plane, 8)[0], [1, 1, 0, 0])


def test_cells_beyond_the_frame_are_padding():
    valid = masks.pixel_valid(jnp.asarray([40.0, 20.0]), (4, 4), 16)
    np.testing.assert_array_equal(
        np.asarray(valid), np.outer([1, 1, 0, 0], [1, 0, 0, 0]).astype(bool) | False
    )
