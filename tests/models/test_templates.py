"""Templates: which box, which slot, what is sampled; features that name their own coordinates say where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.models import templates

H, W, M = 6, 8, 3  # cells of 16 pixels; the frame's last column of cells is padding
FRAME = np.array([96.0, 112.0], np.float32)
SIZE = 4


def coordinates():
    """[h, w, 2]: every cell holds its own centre in pixels, so that a sample says where it was taken."""
    y, x = np.mgrid[:H, :W]
    return (16 * np.stack([y, x], -1) + 8).astype(np.float32)


def cells(rows, columns, factor=1):
    """A mask that is 1 on a rectangle of cells."""
    mask = np.zeros((factor * H, factor * W), np.float32)
    mask[slice(*rows), slice(*columns)] = 1
    return mask


def context(**changes):
    """Returns a context of three slots; slot m adds 1000 m to features.

    Slot 0 is not this object's, slot 1 is its first, slot 2 the latest.
    """
    nothing = np.zeros((H, W), np.float32)
    offsets = 1000 * np.arange(M, dtype=np.float32)[:, None, None, None]
    fields = dict(
        read_embed=coordinates(),
        read_prob=nothing,
        prev_prob=np.zeros((4 * H, 4 * W), np.float32),
        last_box=np.zeros(4, np.float32),
        frame_size=FRAME,
        memory_embed=coordinates()[None] + offsets,
        memory_prob=np.stack([nothing, cells((1, 3), (2, 4)), cells((2, 4), (3, 5))]),
        in_slot=np.array([False, True, True]),
        slot_frame=np.array([9, 3, 7], np.int32),
        first_slot=np.int32(1),
    )
    return templates.TemplateContext(**fields | changes)


@functools.cache
def compiled(name):
    return jax.jit(functools.partial(templates.TEMPLATES[name], size=SIZE))


def bin_centres(box):
    """[S, 2]: where RoIAlign's bins lie, away from the border of the map."""
    y0, x0, y1, x1 = box
    steps = (np.arange(SIZE) + 0.5) / SIZE
    y, x = np.meshgrid(y0 + steps * (y1 - y0), x0 + steps * (x1 - x0), indexing="ij")
    return np.stack([y, x], -1).reshape(-1, 2)


def test_dynamic_samples_the_read_over_the_enlarged_box_of_the_propagated_mask():
    """Rows 1..2 and columns 2..4 are pixels 16..48 and 32..80; 1.25 times that is 12..52 and 26..86."""
    prob = 0.9 * cells((1, 3), (2, 5))
    template = compiled("dynamic")(context(read_prob=prob))
    np.testing.assert_allclose(template.box, [12, 26, 52, 86])
    np.testing.assert_allclose(template.vectors, bin_centres([12, 26, 52, 86]), atol=1e-3)
    weights = np.asarray(template.weights).reshape(SIZE, SIZE)
    assert weights.max() <= 0.9 + 1e-6 and weights[1:3, 1:3].min() > 0.85 and weights[0, 0] < 0.5


def test_reference_box_falls_back_step_by_step():
    box = jax.jit(templates.reference_box)
    before = cells((5, 8), (9, 14), factor=4)  # stride 4: 20..32, 36..56
    last = np.array([10.0, 20, 30, 200], np.float32)
    found = {
        "propagated": box(context(read_prob=0.6 * cells((1, 3), (2, 4)), prev_prob=before, last_box=last)),
        "previous": box(context(read_prob=0.5 * cells((1, 3), (2, 4)), prev_prob=before, last_box=last)),
        "last": box(context(last_box=last)),
        "frame": box(context()),
    }
    np.testing.assert_allclose(found["propagated"], [12, 28, 52, 68])
    np.testing.assert_allclose(found["previous"], [20, 36, 32, 56])
    np.testing.assert_allclose(found["last"], [10, 20, 30, 112])
    np.testing.assert_allclose(found["frame"], [0, 0, 96, 112])
    # At the corner the enlarged box is clipped; a mask in the padding is no object.
    np.testing.assert_allclose(box(context(read_prob=cells((4, 6), (5, 8)))), [60, 76, 96, 112])
    np.testing.assert_allclose(box(context(read_prob=cells((0, 6), (7, 8)))), [0, 0, 96, 112])


def test_first_and_previous_sample_their_own_slot_over_its_own_mask():
    first, previous = compiled("first")(context()), compiled("previous")(context())
    np.testing.assert_allclose(first.box, [12, 28, 52, 68])
    np.testing.assert_allclose(previous.box, [28, 44, 68, 84])
    np.testing.assert_allclose(first.vectors, 1000 + bin_centres(first.box), atol=1e-3)
    np.testing.assert_allclose(previous.vectors, 2000 + bin_centres(previous.box), atol=1e-3)
    assert first.weights.max() == 1 and previous.weights.max() == 1


def test_mean_averages_them_and_leaves_out_what_is_missing():
    first, previous = compiled("first")(context()), compiled("previous")(context())
    mean = compiled("mean")(context())
    np.testing.assert_allclose(mean.vectors, (first.vectors + previous.vectors) / 2, atol=1e-3)
    np.testing.assert_allclose(mean.weights, (first.weights + previous.weights) / 2, atol=1e-6)
    alone = compiled("mean")(context(first_slot=np.int32(-1)))
    np.testing.assert_allclose(alone.vectors, previous.vectors, atol=1e-3)
    np.testing.assert_allclose(alone.weights, previous.weights, atol=1e-6)


@pytest.mark.parametrize("name", ["first", "previous", "mean"])
def test_an_object_that_no_slot_holds_has_no_weight(name):
    template = compiled(name)(context(in_slot=np.zeros(M, bool), first_slot=np.int32(-1)))
    assert not np.any(template.weights) and np.isfinite(template.vectors).all()


def test_an_object_of_less_than_half_a_cell_still_has_a_box():
    tiny = np.zeros((M, H, W), np.float32)
    tiny[1, 2, 3] = 0.1
    template = compiled("first")(context(memory_prob=tiny))
    np.testing.assert_allclose(template.box, [30, 46, 50, 66])
    assert template.weights.max() > 0.05


@pytest.mark.parametrize("name", templates.TEMPLATES)
def test_one_context_for_all_objects(name):
    """Mapped over objects, frames shared: the same as one at a time."""
    one = context(read_prob=cells((1, 3), (2, 5)))
    other = context(read_prob=cells((0, 2), (0, 3)), first_slot=np.int32(2))
    axes = templates.OBJECT_AXES

    def pick(axis, a, b):
        return a if axis is None else np.stack([a, b])

    both = jax.tree.map(pick, axes, one, other, is_leaf=lambda x: x is None)
    found = jax.vmap(compiled(name), in_axes=(axes,))(both)
    for index, single in enumerate((one, other)):
        wanted = compiled(name)(single)
        jax.tree.map(lambda a, b, i=index: np.testing.assert_allclose(a[i], b, atol=1e-3), found, wanted)


@pytest.mark.parametrize("name", ["dynamic", "first"])
def test_gradients_reach_the_features(name):
    def total(context):
        return jnp.sum(compiled(name)(context).vectors)

    grads = jax.grad(total, allow_int=True)(context(read_prob=cells((1, 3), (2, 5))))
    sampled = grads.read_embed if name == "dynamic" else grads.memory_embed
    np.testing.assert_allclose(np.sum(sampled), 2 * SIZE**2, rtol=1e-5)  # every bin's weights sum to 1
