"""Boxes, suppression, pasting, the proposal network and the sources of proposals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.models import proposals
from vos_jax.models.backbones import Features
from vos_jax.ops import boxes as box_lib
from vos_jax.ops import paste, roi_align

# Compiling takes far longer than running here, so the compiler may leave the code as it is.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# A score threshold of 0 keeps everything an untrained network says: 8 places are then always filled.
TINY = proposals.ProposalConfig(
    channels=8, head_layers=1, mask_layers=1, candidates=24, capacity=8, score_threshold=1e-6
)
CHANNELS = (4, 5, 6, 7)


def random_boxes(rng, count, size=100.0):
    low = rng.uniform(0, size, (count, 2))
    return np.concatenate([low, low + rng.uniform(5, size / 2, (count, 2))], 1).astype(np.float32)


def features_of(rng, height, width):
    def level(stride, channels):
        return jnp.asarray(rng.normal(size=(height // stride, width // stride, channels)), jnp.float32)

    return Features(*(level(s, c) for s, c in zip((4, 8, 16, 32), CHANNELS, strict=True)))


# Boxes


def test_overlaps_of_hand_worked_boxes():
    a = np.array([[0, 0, 10, 10], [0, 0, 0, 0]], np.float32)
    b = np.array([[0, 5, 10, 15], [0, 0, 10, 10], [20, 0, 30, 10], [5, 5, 2, 2]], np.float32)
    np.testing.assert_allclose(jit(box_lib.pairwise_iou)(a, b), [[1 / 3, 1, 0, 0], [0, 0, 0, 0]], atol=1e-6)
    # Side by side with a gap of 10: nothing in common, a third of the hull (30×10) is empty.
    giou = jit(box_lib.giou)(np.stack([a[0], a[0], a[0]]), b[:3])
    np.testing.assert_allclose(giou, [1 / 3, 1.0, -1 / 3], atol=1e-6)


def test_box_of_a_mask():
    mask = np.zeros((6, 8), np.float32)
    mask[2:4, 3:7], mask[0, 0] = 0.9, 0.5
    of_mask = jit(box_lib.of_mask)
    box, found = of_mask(mask)
    assert found and box.tolist() == [8, 12, 16, 28]
    box, found = of_mask(np.full((6, 8), 0.5, np.float32))
    assert not found and box.tolist() == [0, 0, 0, 0]


def iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    intersection = np.prod(np.maximum(sides, 0))
    return intersection / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - intersection)


def sequential_nms(boxes, valid, threshold):
    kept = []
    for i in range(len(boxes)):
        if valid[i] and all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def test_greedy_nms_equals_the_sequential_loop():
    rng = np.random.default_rng(0)
    sets = np.stack([random_boxes(rng, 64, size) for size in (30, 60, 100, 300, 60, 60)])
    sets[4, 1:] = (
        sets[4, :-1] + 3.0
    )  # a long chain: every box overlaps the next, so settling takes many rounds
    sets[5] = sets[5, :1]  # all the same
    scores = -np.sort(-rng.uniform(0.1, 1, sets.shape[:2]).astype(np.float32))
    valid = rng.uniform(size=sets.shape[:2]) < 0.8

    @jit
    def suppress(boxes, scores, valid, threshold):
        return jax.vmap(lambda b, s, v: box_lib.greedy_nms(b, s, v, threshold=threshold))(
            boxes, scores, valid
        )

    for threshold in (0.1, 0.4, 0.7):
        out = np.asarray(suppress(sets, scores, valid, threshold))
        for boxes, score, ok, result in zip(sets, scores, valid, out, strict=True):
            kept = sequential_nms(boxes, ok, threshold)
            expected = np.zeros_like(score)
            expected[kept] = score[kept]
            np.testing.assert_array_equal(result, expected)
    assert len(kept) == 1  # the set of equal boxes keeps one


def test_matrix_nms_decays_duplicates_only():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    suppress = jit(functools.partial(box_lib.matrix_nms, threshold=0.5))
    out = suppress(boxes, scores, np.array([True, True, True, False]))
    np.testing.assert_allclose(out, [0.9, 0.8 * np.exp(-((0.9 / 0.5) ** 2)), 0.7, 0.0], rtol=1e-5)


# Masks between grid and frame


def test_pasting_a_full_mask_fills_the_box_and_nothing_else():
    pasted = jit(lambda box: paste.paste(jnp.ones((28, 28)), box, height=16, width=24))
    full = np.zeros((16, 24))
    full[2:10, 5:20] = 1
    np.testing.assert_allclose(pasted(jnp.array([8.0, 20, 40, 80])), full, atol=1e-6)
    # Hanging out, only the part inside; empty or inside-out, nothing.
    full[:] = 0
    full[:3, :4] = 1
    np.testing.assert_allclose(pasted(jnp.array([-50.0, -9, 12, 16])), full, atol=1e-6)
    for box in ([8, 8, 8, 30], [30, 30, 8, 8], [0, 0, 0, 0], [200, 200, 300, 300]):
        np.testing.assert_array_equal(pasted(jnp.array(box, jnp.float32)), 0.0)


def test_pasting_inverts_roi_align_on_a_smooth_mask():
    y, x = np.mgrid[:32, :48] + 0.5
    blob = np.exp(-(((y - 15) / 6) ** 2 + ((x - 22) / 9) ** 2)).astype(np.float32)
    box = jnp.array([10.0, 20.0, 110.0, 156.0])

    @jit
    def there_and_back(blob):
        region = roi_align.roi_align(blob[..., None], box, size=28, stride=4)[..., 0]
        return paste.paste(region, box, height=32, width=48)

    back = np.asarray(there_and_back(blob))
    # Cells whose centre (·4 + 2) is in the box.
    np.testing.assert_allclose(back[2:27, 5:39], blob[2:27, 5:39], atol=0.02)
    assert back[:2].max() == back[27:].max() == back[:, :4].max() == back[:, 39:].max() == 0


def test_moving_a_mask():
    mask = np.zeros((12, 16), np.float32)
    mask[2:6, 4:8] = 1
    source = np.array([8, 16, 24, 32], np.float32)
    move = jit(paste.move)
    np.testing.assert_allclose(move(mask, source, source), mask, atol=1e-6)
    shifted = move(mask, source, source + np.float32([4, 8, 4, 8]))
    np.testing.assert_allclose(shifted, np.roll(mask, (1, 2), (0, 1)), atol=1e-6)
    # Stretched to double width, the area doubles.
    assert move(mask, source, np.float32([8, 16, 24, 48])).sum() == pytest.approx(32, abs=1e-4)


# The network


@pytest.fixture(scope="module")
def network():
    """One compiled network with random parameters on frames of 64×96 pixels, real size as an argument."""
    module = proposals.ProposalNetwork(TINY)
    features = features_of(np.random.default_rng(1), 64, 96)
    shapes = jax.eval_shape(module.init, jax.random.key(0), features, jnp.array([64, 96]))["params"]
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.4), jnp.float32), shapes)
    apply = jit(lambda features, size: module.apply({"params": params}, features, size))
    return params, lambda *args: jax.device_get(apply(*args))


@pytest.mark.parametrize(
    "channels, config, dtype",
    [
        ((24, 40, 112, 320), proposals.ProposalConfig(), jnp.float32),
        ((256, 512, 1024, 2048), proposals.ProposalConfig(channels=128, depthwise=False), jnp.bfloat16),
    ],
    ids=["lite0", "resnet50"],
)
def test_shapes_at_full_size(channels, config, dtype):
    module = proposals.ProposalNetwork(config, dtype)
    shapes = [(480 // s, 864 // s, c) for s, c in zip((4, 8, 16, 32), channels, strict=True)]
    features = Features(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))

    def both(features):
        params = module.init(jax.random.key(0), features, jnp.array([480, 854]))
        out = module.apply(params, features, jnp.array([480, 854]))
        again = module.apply(params, features, jnp.zeros((3, 4)), method="masks_of_boxes")
        return params, out, again

    params, out, again = jax.eval_shape(both, features)
    locations = 60 * 108 + 30 * 54 + 15 * 27 + 8 * 14
    assert out.boxes.shape == (locations, 4) and out.locations.shape == (locations, 2)
    assert out.proposals.masks.shape == (32, 120, 216)
    assert out.mask_logits.shape == (32, 28, 28) and again.shape == (3, 28, 28)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype("float32"), jnp.dtype("bool")}


def test_proposals_stay_inside_the_real_frame(network):
    _, apply = network
    out = apply(features_of(np.random.default_rng(1), 64, 96), jnp.array([50, 61]))
    found = out.proposals
    assert found.valid.sum() >= 2
    boxes = found.boxes[found.valid]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 50).all() and (boxes[:, 3] <= 61).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= TINY.min_size).all()
    # Stride-4 cells whose centre is beyond row 50 or column 61.
    assert found.masks[:, 12:].max() == 0 and found.masks[:, :, 15:].max() == 0
    assert 0 < found.masks.max() <= 1
    invalid = ~found.valid
    assert (
        not found.boxes[invalid].any() and not found.scores[invalid].any() and not found.masks[invalid].any()
    )
    overlap = [iou(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert max(overlap) <= TINY.nms_threshold
    assert (np.diff(found.scores) <= 0).all()


def test_padding_changes_no_proposal(network):
    """The same frame in a larger padded size, the padding full of what a backbone may leave there."""
    params, apply = network
    small = features_of(np.random.default_rng(1), 64, 96)
    rng = np.random.default_rng(5)
    large = features_of(rng, 96, 160)
    large = jax.tree.map(lambda a, b: (10 * a).at[: b.shape[0], : b.shape[1]].set(b), large, small)
    size = jnp.array([64, 90])
    expected, out = apply(small, size).proposals, apply(large, size).proposals
    assert expected.valid.sum() >= 2
    np.testing.assert_array_equal(out.valid, expected.valid)
    np.testing.assert_allclose(out.boxes, expected.boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(out.scores, expected.scores, rtol=1e-4)
    np.testing.assert_allclose(out.masks[:, :16, :24], expected.masks, atol=1e-4)
    assert out.masks[:, 16:].max() == out.masks[:, :, 24:].max() == 0


def test_masks_of_boxes_are_the_masks_of_the_proposals(network):
    params, apply = network
    features, size = features_of(np.random.default_rng(1), 64, 96), jnp.array([64, 96])
    out = apply(features, size)
    module = proposals.ProposalNetwork(TINY)

    @jit
    def masks_of_boxes(boxes):
        return module.apply({"params": params}, features, boxes, method="masks_of_boxes")

    np.testing.assert_allclose(masks_of_boxes(out.proposals.boxes), out.mask_logits, atol=1e-4)


def test_select_survives_fewer_locations_than_places():
    config = dataclasses.replace(TINY, capacity=8)
    boxes = jnp.array([[0, 0, 20, 20], [0, 0, 19, 20], [-30, 10, 30, 500]], jnp.float32)
    select = jit(lambda *args: proposals.select(*args, config))
    kept, scores, valid = select(boxes, jnp.array([0.5, 0.9, 0.7]), jnp.array([40, 60]))
    assert valid.tolist() == [True, True] + [False] * 6
    np.testing.assert_allclose(kept[:2], [[0, 0, 19, 20], [0, 10, 30, 60]])
    np.testing.assert_allclose(scores[:2], [0.9, 0.7])


def test_appended_masks_are_candidates():
    found = proposals.Proposals(
        boxes=np.ones((2, 4)), scores=np.ones(2), masks=np.ones((2, 6, 8)), valid=np.ones(2, bool)
    )
    masks = np.zeros((3, 6, 8), np.float32)
    masks[0, 1:3, 2:4], masks[1], masks[2] = 0.8, 0.4, 1.0
    out = jax.device_get(jit(proposals.append)(found, masks, np.array([True, True, False])))
    assert out.valid.tolist() == [True, True, True, False, False]
    assert out.boxes[2].tolist() == [4, 8, 12, 16] and out.scores[2] == pytest.approx(0.8)
    np.testing.assert_array_equal(out.masks[2], masks[0])
    assert not out.masks[3:].any() and not out.boxes[3:].any()
