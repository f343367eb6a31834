"""RefineNet and soft masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.models import backbones, refine
from vos_jax.models import read as read_lib
from vos_jax.ops import masks, windows


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
    params = jax.jit(net.init)(jax.random.key(0), *inputs)
    logits = jax.jit(net.apply)(params, *inputs)
    np.testing.assert_allclose(logits, masks.upsample(refine.logit(prob), 4), atol=1e-5)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.mean(jnp.square(net.apply(params, *inputs) - 1.0))

    # Behind a head of zeros nothing learns in the first step; after it, everything does.
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(params)):
        assert np.any(grad) and np.all(np.isfinite(grad)), path


def test_windows_refine_as_the_whole_frame_does():
    """Up to what lies within RefineNet's sight of a window's border; an object nobody knows costs nothing."""
    h, w, n = 20, 30, 3
    rng = np.random.default_rng(2)
    net = refine.RefineNet(channels=(8, 6, 4))
    near = np.zeros((n, h, w), bool)
    near[0, 2:20, 5:21] = True
    near[1, 2:20, 14:30] = True
    read = read_lib.Read(
        value=jnp.asarray(rng.normal(size=(n, h, w, 7)), jnp.float32),
        embed=jnp.zeros((n, h, w, 1)),
        prob=jnp.asarray(rng.uniform(size=(n, h, w)), jnp.float32),
        slot_attention=jnp.zeros((n, 1)),
        region=jnp.asarray(near),
    )
    coarse, prev = jnp.asarray(rng.uniform(size=(2, n, 4 * h, 4 * w)), jnp.float32)
    own = read.value[0], read.prob[0], coarse[0], prev[0]
    params = jax.jit(net.init)(jax.random.key(0), features(h, w), *own)
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params)

    @functools.partial(jax.jit, static_argnums=0)
    def run(windowed):
        images = features(h, w), read, coarse, prev
        return refine.refine_all(net, params["params"], *images, windowed=windowed)

    whole, windowed = run(False), run(True)
    # Windows of 20 x 18 cells, from the top to the bottom of the frame; the second one's ends with the frame.
    for index, columns in ((0, slice(4 * 11, 4 * 15)), (1, slice(4 * 20, 4 * 30))):
        np.testing.assert_allclose(windowed[index, :, columns], whole[index, :, columns], atol=1e-4)
    np.testing.assert_array_equal(windowed[2], np.float32(refine.ABSENT))
    assert np.ptp(whole[0]) > 1.0


def test_a_window_holds_what_is_needed_wherever_it_lies():
    rng = np.random.default_rng(3)
    grid = (10, 20)
    assert windows.sizes(grid) == [(5, 8), (9, 10), (10, 13), (10, 20)]
    image = jnp.asarray(rng.normal(size=(20, 40, 2)), jnp.float32)

    @jax.jit
    def run(near):
        return windows.apply(lambda x: x[..., 1], near, image, factor=2, outside=-7.0)

    for _ in range(30):
        top, left = rng.integers(0, 10), rng.integers(0, 20)
        bottom, right = rng.integers(top, 10) + 1, rng.integers(left, 20) + 1
        near = np.zeros(grid, bool)
        near[top:bottom, left:right] = True
        found = np.asarray(run(jnp.asarray(near)))
        computed = found != -7.0
        np.testing.assert_array_equal(found[computed], np.asarray(image[..., 1])[computed])
        assert np.all(computed[2 * top : 2 * bottom, 2 * left : 2 * right])
        wanted = min(bottom - top + 2, 10), min(right - left + 2, 20)
        smallest = next(h * w for h, w in windows.sizes(grid) if h >= wanted[0] and w >= wanted[1])
        assert computed.sum() == 4 * smallest
    np.testing.assert_array_equal(run(jnp.zeros(grid, bool)), -7.0)


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
    merged = jax.jit(masks.aggregate)(prob, valid)
    np.testing.assert_allclose(jnp.sum(merged, axis=0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(merged[:, 0], [0.0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(merged[:, 1], [1.0, 0.0, 0.0], atol=1e-6)
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda p: jnp.sum(masks.aggregate(p, valid)[1])))(prob)))


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
