"""FCOS targets by hand, what may not count, and a tiny network that learns to find three objects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vos_jax.models import fpn, proposals
from vos_jax.models.backbones import Features
from vos_jax.ops import boxes as box_lib
from vos_jax.train import proposal_losses

SIZE = 128


def grid(size):
    """Locations and strides of all levels on a square frame."""
    levels = [proposals.locations_of((-(-size // s), -(-size // s)), s) for s in fpn.STRIDES]
    strides = [np.full(len(x), s, np.float32) for x, s in zip(levels, fpn.STRIDES, strict=True)]
    return np.concatenate(levels), np.concatenate(strides)


def test_assignment_of_hand_placed_boxes():
    locations, strides = grid(SIZE)
    boxes = np.array(
        [
            [40, 40, 60, 60],  # 20 pixels: level P3, centre 50
            [0, 0, 128, 128],  # sides at least 64 away: P4
            [44, 44, 52, 52],  # within the first: the smaller wins
            [0, 0, 0, 0],  # valid but empty
            [100, 100, 120, 120],  # not valid
        ],
        np.float32,
    )
    valid = np.array([True, True, True, True, False])
    real = np.ones(len(locations), bool)
    out = jax.device_get(jit(proposal_losses.assign)(locations, strides, real, boxes, valid))

    def centres(index):
        return {tuple(x) for x in locations[out.positive & (out.object_index == index)]}

    # Cells of stride 8 have their centres at 44, 52, 60: inside the small box (44, 52) lies none; on its rim
    # is outside. So the first box takes 44 and 52 in both directions (60 is its rim).
    assert centres(2) == set()
    assert centres(0) == {(y, x) for y in (44.0, 52.0) for x in (44.0, 52.0)}
    # P4, within 1.5 × 16 pixels of the centre: 56 and 72; 40 and 88 lie on the limit, 24 away.
    assert centres(1) == {(y, x) for y in (56.0, 72.0) for x in (56.0, 72.0)}
    assert set(strides[out.positive & (out.object_index == 1)]) == {16.0}
    assert not centres(3) and not centres(4)
    at = np.flatnonzero((locations == [44, 52]).all(1) & (strides == 8))[0]
    # top 4, bottom 16, left 12, right 8: sqrt(4/16 · 8/12)
    assert out.centerness[at] == pytest.approx((4 / 16 * 8 / 12) ** 0.5)
    assert not out.centerness[~out.positive].any()

    # The same boxes one cell further: a location exactly between is the small one's.
    moved = boxes + np.float32(4)
    out = jax.device_get(jit(proposal_losses.assign)(locations, strides, real, moved, valid))
    assert centres(2) == {(52.0, 52.0)} and (52.0, 52.0) not in centres(0)


def scene():
    """A frame of three coloured rectangles on noise, as stride-4 truth and pooled colours for features."""
    rng = np.random.default_rng(0)
    frame = rng.normal(size=(SIZE, SIZE, 3), scale=0.1).astype(np.float32)
    truth = np.zeros((4, SIZE // 4, SIZE // 4), np.float32)  # the fourth object is padding
    places = ((8, 12, 36, 32), (24, 60, 100, 116), (88, 8, 120, 48))
    for index, (y0, x0, y1, x1) in enumerate(places):
        frame[y0:y1, x0:x1] += np.eye(3)[index]
        truth[index, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = 1
    truth[1, 10:16, 15:20] = 0  # the largest is an L

    def pooled(stride):
        shape = (SIZE // stride, stride, SIZE // stride, stride, 3)
        return np.tile(frame.reshape(shape).mean((1, 3)), 2)

    return Features(*(pooled(s) for s in (4, 8, 16, 32))), truth, np.array(places, np.float32)


CONFIG = proposals.ProposalConfig(
    channels=16, depthwise=False, head_layers=1, mask_layers=1, candidates=64, capacity=8
)
# Compiling takes far longer than running here, so the compiler may leave the code as it is.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
VALID = np.array([True, True, True, False])
FRAME = np.array([SIZE, SIZE])


@pytest.fixture(scope="module")
def trained():
    """200 Adam steps on the scene."""
    module = proposals.ProposalNetwork(CONFIG)
    features, truth, places = scene()

    def loss(params):
        out = module.apply({"params": params}, features, FRAME)
        losses = proposal_losses.proposal_losses(out, truth, VALID, FRAME)
        return sum(losses.values()), (losses, out)

    tx = optax.adam(5e-3)

    # Not a scan: XLA's CPU convolutions are slow inside loops.
    @jit
    def step(params, state, reached):
        (_, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradient, state)
        reached = jax.tree.map(lambda r, g: jnp.maximum(r, jnp.abs(g).max()), reached, gradient)
        return optax.apply_updates(params, updates), state, reached, aux

    params = jit(module.init)(jax.random.key(0, impl="rbg"), features, FRAME)["params"]
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(tx.init, params))
    reached = jax.tree.map(lambda p: np.zeros((), np.float32), params)
    history = []
    for _ in range(200):
        params, state, reached, (losses, out) = step(params, state, reached)
        history.append(losses)
    return jax.device_get((reached, history, out)), truth, places


@pytest.mark.slow
def test_a_tiny_network_finds_the_objects(trained):
    (_, history, out), truth, places = trained
    found = out.proposals
    overlap = np.asarray(box_lib.pairwise_iou(places, found.boxes)) * found.valid[None]
    recall = (overlap.max(1) > 0.5).mean()
    assert recall > 0.9, overlap.max(1)
    # And their masks, not only their boxes.
    for index, proposal in enumerate(overlap.argmax(1)):
        mask, real = found.masks[proposal] > 0.5, truth[index] > 0.5
        assert (mask & real).sum() / (mask | real).sum() > 0.7
    assert np.isfinite([list(losses.values()) for losses in history]).all()
    for name in ("objectness", "box"):
        assert history[-1][name] < 0.5 * history[0][name], name


def test_the_gradient_reaches_every_parameter(trained):
    (reached, _, _), _, _ = trained
    silent = [
        jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(reached) if not g > 0
    ]
    assert not silent


@pytest.fixture(scope="module")
def losses_and_gradient():
    def both(out, truth, valid, frame_size):
        def total(leaves):
            objectness, centerness, boxes, mask_logits = leaves
            changed = out.replace(
                objectness_logits=objectness,
                centerness_logits=centerness,
                boxes=boxes,
                mask_logits=mask_logits,
            )
            losses = proposal_losses.proposal_losses(changed, truth, valid, frame_size)
            return sum(losses.values()), losses

        leaves = (out.objectness_logits, out.centerness_logits, out.boxes, out.mask_logits)
        gradient, losses = jax.grad(total, has_aux=True)(leaves)
        return losses, gradient

    compiled = jit(both)
    return lambda *args: jax.device_get(compiled(*args))


def test_padded_objects_and_proposals_do_not_count(trained, losses_and_gradient):
    (_, _, out), truth, places = trained
    valid = np.array([True] * 4 + [False] * 4)
    out = out.replace(proposals=out.proposals.replace(valid=valid))
    expected, gradient = losses_and_gradient(out, truth, VALID, FRAME)
    assert all(value > 0 for value in expected.values())
    assert all(np.isfinite(g).all() for g in gradient)
    assert gradient[3][:4].any() and not gradient[3][4:].any()
    # Something where the padded object is, and padded proposals that overlap a true box with a bad mask.
    noisy = truth.copy()
    noisy[3, 5:20, 3:20] = 1
    boxes, mask_logits = out.proposals.boxes.copy(), out.mask_logits.copy()
    boxes[4:], mask_logits[4:] = places[1], 7.0
    noisy_out = out.replace(proposals=out.proposals.replace(boxes=boxes), mask_logits=mask_logits)
    losses, _ = losses_and_gradient(noisy_out, noisy, VALID, FRAME)
    for name, value in expected.items():
        assert losses[name] == pytest.approx(value, rel=1e-5), name


def test_locations_and_truth_beyond_the_frame_do_not_count(trained, losses_and_gradient):
    (_, _, out), truth, _ = trained
    size = np.array([SIZE, 56])  # the second object is then in the padding
    inside = (out.locations < size).all(1)
    out = out.replace(location_valid=inside)
    expected, _ = losses_and_gradient(out, truth, VALID, size)
    cut = truth.copy()
    cut[:, :, 14:] = 0
    outside = np.where(inside, out.objectness_logits, 9.0).astype(np.float32)
    losses, gradient = losses_and_gradient(out.replace(objectness_logits=outside), cut, VALID, size)
    for name, value in expected.items():
        assert losses[name] == pytest.approx(value, rel=1e-5), name
    assert not gradient[0][~inside].any()


def test_a_frame_without_objects_only_asks_for_silence(trained, losses_and_gradient):
    (_, _, out), truth, _ = trained
    losses, gradient = losses_and_gradient(out, 0 * truth, VALID, FRAME)
    assert losses.pop("objectness") > 0
    assert not any(losses.values()) and len(losses) == 4
    assert all(np.isfinite(g).all() for g in gradient)
    assert (gradient[0] >= 0).all() and gradient[0].any()


def hand_made(logits: dict[tuple[float, float], float]):
    """Detections of one level, stride 8, on 32x32 pixels, that find nothing but what `logits` say."""
    locations = np.asarray(proposals.locations_of((4, 4), 8))
    count = len(locations)
    found = np.full(count, -20.0, np.float32)
    for place, logit in logits.items():
        found[(locations == place).all(1)] = logit
    return proposals.Detections(
        locations=locations,
        strides=np.full(count, 8.0, np.float32),
        location_valid=np.ones(count, bool),
        objectness_logits=found,
        centerness_logits=np.zeros(count, np.float32),
        boxes=np.tile(np.array([0, 0, 8, 8], np.float32), (count, 1)),
        proposals=proposals.empty(1, (32, 32)),
        mask_logits=np.zeros((1, 28, 28), np.float32),
    )


def focal(logit: float, target: float) -> float:
    prob = 1 / (1 + np.exp(-logit))
    right, weight = (prob, 0.25) if target else (1 - prob, 0.75)
    return -weight * (1 - right) ** 2 * np.log(right)


def test_unlabelled_and_ignored_places_by_hand():
    """One object in the upper left; the network is sure of another one at (20, 28), unsure at (28, 4)."""
    truth = np.zeros((2, 8, 8), np.float32)
    truth[0, :4, :4] = 1  # 16x16 pixels, centre (8, 8): the locations 4 and 12 are within 1.5 strides
    logits = {(4.0, 4.0): 1.0, (20.0, 28.0): 3.0, (28.0, 4.0): -2.0}
    ignored = np.zeros((8, 8), np.float32)
    ignored[5, 7] = 0.1  # the cell of (20, 28)
    compiled = jit(
        lambda out, truth, ignored, exhaustive: proposal_losses.proposal_losses(
            out, truth, np.array([True, False]), np.array([32, 32]), ignored=ignored, exhaustive=exhaustive
        )["objectness"]
    )

    def objectness(truth, ignored, exhaustive):
        return float(compiled(hand_made(logits), truth, ignored, exhaustive))

    positives = focal(1.0, 1) + 3 * focal(-20.0, 1)
    sure, unsure = focal(3.0, 0), focal(-2.0, 0)
    nowhere = 0 * ignored
    assert objectness(truth, nowhere, True) == pytest.approx((positives + sure + unsure) / 4, rel=1e-4)
    # Nobody labelled what is at (20, 28); at (28, 4) the network itself says background.
    assert objectness(truth, nowhere, False) == pytest.approx((positives + unsure) / 4, rel=1e-4)
    assert objectness(truth, ignored, True) == pytest.approx((positives + unsure) / 4, rel=1e-4)
    # Labelled as a second object that counts, its pixels are known; an invalid object labels nothing.
    labelled = truth.copy()
    labelled[0, 5, 7] = 1
    with_part = objectness(labelled, nowhere, False)
    without = objectness(labelled, nowhere, True)
    assert with_part == pytest.approx(without, rel=1e-4)
    invalid = truth.copy()
    invalid[1, 5, 7] = 1
    assert objectness(invalid, nowhere, False) == pytest.approx((positives + unsure) / 4, rel=1e-4)


def test_gradients_trace_over_a_batch():
    """Traces as training does: a gradient through everything, the suppression's loop included, under vmap."""
    config = proposals.ProposalConfig(channels=8, head_layers=1, mask_layers=1, candidates=32, capacity=4)
    module = proposals.ProposalNetwork(config)
    one, truth, _ = scene()
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), one)

    def losses_and_gradient(features):
        params = module.init(jax.random.key(0), one, FRAME)

        def loss(params):
            def of_frame(features):
                out = module.apply(params, features, FRAME)
                losses = proposal_losses.proposal_losses(out, truth, VALID, FRAME)
                return sum(losses.values()) + out.proposals.masks.sum()

            return jax.vmap(of_frame)(features).mean()

        return params, jax.grad(loss)(params)

    params, gradient = jax.eval_shape(losses_and_gradient, batch)
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, gradient)
