"""RoIAlign against a plain numpy reference, and what must hold for any box."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.ops import roi_align

# Compiling takes far longer than running here, so the compiler may leave the code as it is.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
FORMS = sorted(roi_align.FORMS)


def compiled(form, **options):
    return jit(functools.partial(roi_align.roi_align, form=form, **options))


def reference(features, box, size, stride, samples):
    """Loops over bins, points and corners, as the paper describes them."""
    height, width, channels = features.shape
    y0, x0, y1, x1 = box
    out = np.zeros((size, size, channels))
    for p in range(size):
        for q in range(size):
            for i in range(samples):
                for j in range(samples):
                    y = y0 + (y1 - y0) * (p + (i + 0.5) / samples) / size
                    x = x0 + (x1 - x0) * (q + (j + 0.5) / samples) / size
                    out[p, q] += bilinear(features, y / stride - 0.5, x / stride - 0.5) / samples**2
    return out


def bilinear(features, y, x):
    height, width, _ = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    total = 0.0
    for row in {int(y), min(int(y) + 1, height - 1)}:
        for column in {int(x), min(int(x) + 1, width - 1)}:
            total = total + (1 - abs(y - row)) * (1 - abs(x - column)) * features[row, column]
    return total


BOXES = np.array(
    [
        [8, 16, 40, 80],  # on cell borders
        [3.3, 7.7, 61.2, 49.9],
        [-20, -9, 30, 25],  # hangs out at the top left
        [40, 60, 90, 130],  # hangs out at the bottom right
        [20.5, 20.5, 21, 21],  # within one cell
        [0, 0, 64, 96],  # the whole map
    ],
    np.float32,
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("samples", [1, 2])
def test_equals_the_numpy_reference(form, samples):
    features = np.random.default_rng(0).normal(size=(8, 12, 3)).astype(np.float32)
    align = jit(
        jax.vmap(lambda b: roi_align.roi_align(features, b, size=5, stride=8, samples=samples, form=form))
    )
    expected = np.stack([reference(features, box, 5, 8, samples) for box in BOXES])
    np.testing.assert_allclose(align(BOXES), expected, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_box_of_one_cell_returns_that_cell(form):
    features = jnp.arange(4 * 6.0).reshape(4, 6, 1)
    # One sample falls on the centre; four samples sit symmetrically about it, and the map is linear.
    for samples in (1, 2):
        box = jnp.array([2 * 16, 3 * 16, 3 * 16, 4 * 16.0])
        out = compiled(form, size=1, stride=16, samples=samples)(features, box)
        assert out.item() == features[2, 3, 0].item()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_cells_under_the_box_and_no_others(form):
    box = jnp.array([16.0, 16.0, 32.0, 48.0])

    def total(features):
        return roi_align.roi_align(features, box, size=2, stride=8, form=form).sum()

    gradient = np.asarray(jit(jax.grad(total))(jnp.zeros((8, 10, 1))))[..., 0]
    assert gradient.sum() == pytest.approx(4.0)  # every bin's weights sum to 1
    touched = np.argwhere(gradient != 0)
    # Cells 2..3 × 2..5. A bin is 1 × 2 cells: its points lie between rows, but on the columns' centres.
    assert touched.min(0).tolist() == [1, 2] and touched.max(0).tolist() == [4, 5]


@pytest.mark.parametrize("form", FORMS)
def test_degenerate_boxes_stay_finite(form):
    features = np.ones((4, 6, 2), np.float32)
    boxes = np.array(
        [
            [10, 10, 10, 10],  # a point
            [40, 40, 10, 10],  # inside out
            [0, 0, 0, 0],
            [500, 500, 600, 600],  # outside the map
            [-1e6, -1e6, 1e6, 1e6],
        ],
        np.float32,
    )
    align = functools.partial(roi_align.roi_align, size=3, stride=16, form=form)

    @jit
    def values_and_gradients(features, boxes):
        values, pull = jax.vjp(jax.vmap(align, (None, 0)), features, boxes)
        return values, pull(jnp.ones_like(values))

    values, gradients = jax.device_get(values_and_gradients(features, boxes))
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[:3], 1.0, atol=1e-6)
    np.testing.assert_array_equal(values[3], 0.0)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_follows_float32(form):
    features = np.random.default_rng(0).normal(size=(6, 6, 4)).astype(np.float32)
    align = compiled(form, size=4, stride=8)
    half = align(features.astype(jnp.bfloat16), BOXES[1])
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float32), align(features, BOXES[1]), atol=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_padding_is_never_read(form):
    """A box that reaches the real border gives the same in a larger map, whatever the padding holds."""
    features = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
    padded = np.full((8, 7, 3), 1e3, np.float32)
    padded[:5, :6] = features
    box = np.array([10.0, 5.0, 40.0, 44.0], np.float32)
    expected = compiled(form, size=4, stride=8)(features, box)
    # 35 pixels end within the fifth cell.
    out = compiled(form, size=4, stride=8)(padded, box, frame_size=np.array([35, 48]))
    np.testing.assert_allclose(out, expected, atol=1e-5)
