"""Each term of the loss against its definition in numpy, and what may not count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax import errors
from vos_jax.models import matcher, proposals, vos
from vos_jax.models import read as read_lib
from vos_jax.ops import masks
from vos_jax.train import losses

CONFIG = losses.LossConfig()
H, W, N, P = 8, 10, 2, 4


def rectangles(*boxes):
    out = np.zeros((len(boxes), H, W), np.float32)
    for mask, (y0, x0, y1, x1) in zip(out, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1.0
    return out


def candidates(pictures, valid):
    shape = (len(pictures),)
    return proposals.Proposals(
        boxes=np.zeros((*shape, 4), np.float32),
        scores=np.zeros(shape, np.float32),
        masks=pictures,
        valid=np.array(valid),
    )


TRUTH = rectangles((0, 0, 4, 4), (4, 4, 8, 10))


def predicted(found, truth, object_valid, **match):
    """A predicted frame that holds what a term looks at."""
    empty = dict.fromkeys(("attention", "similarity", "iou", "cost", "null_cost", "assignment"))
    match = matcher.Match(**{**empty, **match})
    out = vos.Out(proposals=found, templates=None, regions=None, match=match, coarse=None)
    return losses.PredictedFrame(prob=None, truth=truth, object_valid=object_valid, cell_valid=None, out=out)


def test_match_targets_are_greedy_and_each_used_once():
    # Object 0 could take 0 or 1 and object 1 only 2. Proposal 3 is perfect but invalid.
    shown = rectangles((0, 0, 4, 4), (0, 0, 4, 3), (3, 4, 8, 10), (4, 4, 8, 10))
    similarity = np.array([[0.9, 0.5, -0.2, 0.3], [0.1, 0.2, 0.4, 1.0]], np.float32)
    target = np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.float32)

    @jax.jit
    def loss(similarity, found, truth, object_valid):
        return losses.match_loss(predicted(found, truth, object_valid, similarity=similarity))

    both, three = np.array([True, True]), [True, True, True, False]
    expected = np.mean(np.square(similarity - target)[:, :3])
    np.testing.assert_allclose(loss(similarity, candidates(shown, three), TRUTH, both), expected, rtol=1e-6)

    # An absent object gets no proposal, whatever its row says; an invalid one does not count at all.
    absent = TRUTH * np.array([1, 0], np.float32)[:, None, None]
    target[1] = 0
    expected = np.mean(np.square(similarity - target)[:, :3])
    np.testing.assert_allclose(loss(similarity, candidates(shown, three), absent, both), expected, rtol=1e-6)
    one = np.array([True, False])
    expected = np.mean(np.square(similarity - target)[0, :3])
    np.testing.assert_allclose(loss(similarity, candidates(shown, three), absent, one), expected, rtol=1e-6)

    # Two objects that want the same proposal: the better overlap wins, the other takes what is left.
    same = rectangles((0, 0, 4, 4), (0, 0, 4, 2), (6, 6, 8, 8), (0, 0, 1, 1))
    truth = rectangles((0, 0, 4, 4), (0, 0, 4, 3))
    target = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    expected = np.mean(np.square(similarity - target)[:, :3])
    np.testing.assert_allclose(loss(similarity, candidates(same, three), truth, both), expected, rtol=1e-6)


def test_ious():
    prob = TRUTH * 0.5
    # Object 0: 16 cells at .5 over 16: (8 + 1) / (16 + 1); 24 likewise.
    np.testing.assert_allclose(losses.soft_iou(prob, TRUTH), [9 / 17, 13 / 25], rtol=1e-6)
    np.testing.assert_allclose(losses.soft_iou(0 * prob, 0 * TRUTH), [1.0, 1.0])
    np.testing.assert_allclose(losses.hard_iou(TRUTH > 0, TRUTH > 0), [1.0, 1.0])
    np.testing.assert_allclose(losses.hard_iou(TRUTH[::-1] > 0, TRUTH > 0), [0.0, 0.0])
    np.testing.assert_allclose(losses.hard_iou(TRUTH > 1, TRUTH > 1), [1.0, 1.0])


def test_cross_entropy_of_shares():
    prob = np.full((3, 1, 2), 1 / 3, np.float32)
    prob[:, 0, 1] = [0.2, 0.7, 0.1]
    truth = np.array([[[0.0, 0.5]], [[0.0, 0.25]]], np.float32)
    expected = [[np.log(3), -(0.25 * np.log(0.2) + 0.5 * np.log(0.7) + 0.25 * np.log(0.1))]]
    np.testing.assert_allclose(losses.cross_entropy(prob, truth), expected, rtol=1e-6)


def test_bootstrapping_keeps_the_hardest_cells_of_those_that_count():
    rng = np.random.default_rng(0)
    values = rng.permutation(60).reshape(3, 4, 5).astype(np.float32)
    counts = rng.random((3, 4, 5)) < 0.7
    config = dataclasses.replace(CONFIG, hard_share=0.25, hard_begin=10, hard_end=30)
    loss = jax.jit(losses.bootstrapped, static_argnums=3)
    ranked = np.sort(values[counts])[::-1]
    for step, share in ((0, 1.0), (10, 1.0), (20, 0.625), (30, 0.25), (99, 0.25)):
        expected = ranked[: int(np.ceil(share * len(ranked)))].mean()
        np.testing.assert_allclose(loss(values, counts, step, config), expected, rtol=1e-6)
    assert loss(values, np.zeros_like(counts), 20, config) == 0
    # Cells that do not count are not chosen, however hard.
    spoiled = np.where(counts, values, 1e6).astype(np.float32)
    assert loss(spoiled, counts, 30, config) == loss(values, counts, 30, config)


def frame(num_objects=N, num_proposals=P, grid=(H, W), seed=0):
    """Random outputs of one frame; the last `num_objects` candidates are the propagated masks."""
    rng = np.random.default_rng(seed)
    shown = rng.random((num_proposals + num_objects, *grid), np.float32)
    out = vos.Out(
        proposals=candidates(shown, [True] * len(shown)),
        templates=None,
        regions=None,
        match=matcher.Match(
            attention=None,
            similarity=rng.uniform(-1, 1, (num_objects, len(shown))).astype(np.float32),
            iou=None,
            cost=rng.uniform(-1, 0, (num_objects, len(shown))).astype(np.float32),
            null_cost=np.full(num_objects, -0.5, np.float32),
            assignment=None,
        ),
        coarse=rng.random((num_objects, *grid), np.float32),
        refined_logits=None,
    )
    prob = np.asarray(
        masks.aggregate(rng.random((num_objects, *grid), np.float32), np.ones(num_objects, bool))
    )
    return out, prob


def beside(out, prob, truth, object_valid, cell_valid):
    """The outputs of a frame and its truth."""
    return losses.PredictedFrame(
        prob=prob, truth=truth, object_valid=object_valid, cell_valid=cell_valid, out=out
    )


def test_padding_changes_no_term():
    """Objects and proposals that are not valid and cells beyond the frame count for nothing."""
    compute = jax.jit(losses.mask_losses, static_argnums=1)
    out, prob = frame()
    cells = np.ones((H, W), bool)
    terms, entropy = compute(beside(out, prob, TRUTH, np.ones(N, bool), cells), CONFIG)

    more, _ = frame(num_objects=N + 1, num_proposals=P + 2, grid=(H + 3, W + 2), seed=7)
    small = out.proposals.masks

    def put(big, real):
        big = np.array(big)
        big[tuple(slice(n) for n in real.shape)] = real
        return big

    order = [*range(P), P, P + 1, P + 2, P + 3, P + 4]  # P proposals, 2 invalid ones, N + 1 propagated masks
    pictures = np.array(more.proposals.masks)
    pictures[:P, :H, :W], pictures[P + 2 : P + 2 + N, :H, :W] = small[:P], small[P:]
    similarity, cost = np.array(more.match.similarity), np.array(more.match.cost)
    for big, real in ((similarity, out.match.similarity), (cost, out.match.cost)):
        big[:N, :P], big[:N, P + 2 : P + 2 + N] = real[:, :P], real[:, P:]
    padded = more.replace(
        proposals=candidates(pictures, [index < P or P + 2 <= index < P + 2 + N for index in order]),
        match=more.match.replace(similarity=similarity, cost=cost),
        coarse=put(more.coarse, out.coarse),
    )
    padded_prob = np.concatenate([np.zeros((N + 1, H + 3, W + 2)), np.zeros((1, H + 3, W + 2))])
    padded_prob = put(padded_prob.astype(np.float32) + 0.25, prob)
    padded_prob[N + 1, :H, :W] = 0
    truth = put(np.ones((N + 1, H + 3, W + 2), np.float32), TRUTH)
    valid = np.array([True] * N + [False])
    cells = put(np.zeros((H + 3, W + 2), bool), cells)
    padded_terms, padded_entropy = compute(beside(padded, padded_prob, truth, valid, cells), CONFIG)
    assert set(terms) == set(padded_terms)
    for name, value in terms.items():
        np.testing.assert_allclose(padded_terms[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(padded_entropy[:H, :W], entropy, rtol=1e-5)


def test_gradients_stay_finite_where_the_prediction_is_certain():
    outputs, _ = frame()

    def loss(prob, coarse):
        aggregated = masks.aggregate(prob, jnp.ones(N, bool))
        out = outputs.replace(coarse=coarse)
        everything = jnp.asarray(TRUTH), jnp.ones(N, bool), jnp.ones((H, W), bool)
        terms, entropy = losses.mask_losses(beside(out, aggregated, *everything), CONFIG)
        hard = losses.bootstrapped(entropy[None], jnp.ones((1, H, W), bool), 9999, CONFIG)
        return losses.total({**terms, "refined_ce": hard}, CONFIG)

    certain = jnp.stack([jnp.ones((H, W)), jnp.zeros((H, W))])
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(certain, 1.0 - certain)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in gradients)


def test_total_weighs_every_term():
    terms = {name: jnp.float32(10.0**-index) for index, name in enumerate(losses.TERMS)}
    weights = {name: float(index + 1) for index, name in enumerate(losses.TERMS)}
    expected = sum(weights[name] * float(terms[name]) for name in losses.TERMS)
    found = losses.total({**terms, "j": jnp.float32(99)}, losses.LossConfig(**weights))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_users_term_is_one_function_and_one_weight():
    """Cells and objects that do not count are kept out by the masks that the term is given."""

    def distance(frame):
        counts = frame.object_valid[:, None, None] & frame.cell_valid[None]
        return losses.mean(jnp.abs(frame.prob[1:] - frame.truth), counts)

    out, prob = frame()
    cells = np.ones((H, W), bool)
    cells[-1] = False
    config = losses.LossConfig(terms={"distance": losses.Term(function=distance, weight=0.5)})
    given = beside(out, prob, TRUTH, np.array([True, False]), cells)
    terms, _ = jax.jit(losses.mask_losses, static_argnums=1)(given, config)
    expected = np.abs(prob[1] - TRUTH[0])[:-1].mean()
    np.testing.assert_allclose(terms["distance"], expected, rtol=1e-6)
    others = {name: value for name, value in terms.items() if name != "distance"}
    total = losses.total(others, CONFIG) + 0.5 * expected
    np.testing.assert_allclose(losses.total(terms, config), total, rtol=1e-6)


def test_a_users_term_that_cannot_be_is_refused():
    out, prob = frame()
    given = beside(out, prob, TRUTH, np.ones(N, bool), np.ones((H, W), bool))
    config = losses.LossConfig(terms={"whole": losses.Term(function=lambda frame: frame.prob)})
    with pytest.raises(errors.VosError, match=r"terms.whole: the function returned an array \[3, 8, 10\]"):
        losses.mask_losses(given, config)
    with pytest.raises(errors.VosError, match="weight is -1"):
        losses.Term(function=len, weight=-1.0)
    for name in ("box", "lr"):
        with pytest.raises(errors.VosError, match=f"terms.{name}: the name is taken"):
            losses.LossConfig(terms={name: losses.Term(function=len)})


@pytest.mark.parametrize("bad", [{"match": -1.0}, {"hard_share": 0.0}, {"hard_begin": 9, "hard_end": 3}])
def test_values_out_of_range_are_refused_by_name(bad):
    with pytest.raises(errors.VosError, match=next(iter(bad))):
        losses.LossConfig(**bad)


def test_the_null_cost_learns_to_lie_above_present_objects_and_below_absent_ones():
    """Object 0 is shown by a proposal, object 1 by none."""
    truth = jnp.zeros((2, 4, 4)).at[0, :2].set(1.0).at[1, 3, 3].set(1.0)
    shown = jnp.zeros((3, 4, 4)).at[0, :2].set(1.0).at[1, 2:3].set(1.0)
    found = proposals.Proposals(
        boxes=jnp.zeros((3, 4)), scores=jnp.ones(3), masks=shown, valid=jnp.asarray([True, True, False])
    )
    cost = jnp.asarray([[-0.6, -0.1, -0.9], [-0.2, -0.3, -0.9]])

    def loss(null_cost, cost, valid):
        return losses.presence_loss(predicted(found, truth, valid, cost=cost, null_cost=null_cost))

    valid = jnp.ones(2, bool)
    slope, cost_slope = jax.grad(loss, argnums=(0, 1))(jnp.asarray([-0.5, -0.5]), cost, valid)
    assert slope[0] < 0 < slope[1], "up where the object is there, down where it is not"
    assert not np.any(cost_slope)
    expected = [np.log1p(np.exp(-1.0)), np.log1p(np.exp(-2.0))]  # margins (-.5 + .6) / .1 and (-.5 + .3) / .1
    np.testing.assert_allclose(loss(jnp.asarray([-0.5, -0.5]), cost, valid), np.mean(expected), rtol=1e-5)
    one = loss(jnp.asarray([-0.5, 7.0]), cost, jnp.asarray([True, False]))
    np.testing.assert_allclose(one, expected[0], rtol=1e-5)


READ = read_lib.ReadConfig(affinity="l2", scale=0.5)
GRID = (5, 6)


def moved_layers():
    """Origins of a frame 0 of two layers and of two later frames in which both have moved.

    The last column of frame 0 and a row of each later frame are of no known layer.
    """
    y, x = np.mgrid[: GRID[0], : GRID[1]] * 16.0 + 8
    layer = np.where((x > 30) & (y > 30), 1.0, 0.0)
    layer[:, -1] = -1
    first = np.stack([layer, x, y], -1)
    moves = np.where(layer[None, ..., None] == 1, 20.0, [[[[5.0, 0.0]]], [[[40.0, -7.0]]]])
    later = np.concatenate([np.stack([layer] * 2)[..., None], first[None, ..., 1:] + moves], -1)
    later[:, 0, :, 0] = -1
    return first.astype(np.float32), later.astype(np.float32)


def keys_of(origins):
    """Keys whose affinity by `READ` is a Gaussian of 4 pixels around the origin; layers lie far apart."""
    scale = np.sqrt(1 / (2 * 4.0**2 * READ.scale))
    return jnp.asarray(origins * np.array([1e4, 1, 1]) * scale, jnp.float32)


def near_cells(first, later, valid):
    """Cells that count and what is near them, by loops: bool [Q], [Q, K]."""
    rows = []
    for layer, *point in later.reshape(-1, 3):
        squared = np.sum((first[..., 1:].reshape(-1, 2) - point) ** 2, -1)
        rows.append((first[..., 0].ravel() == layer) & (layer >= 0) & valid.ravel() & (squared <= 16**2))
    return np.any(rows, -1), np.array(rows)


def test_correspondence_of_keys_that_tell_every_point_is_almost_zero():
    first, later = moved_layers()
    valid = np.ones(GRID, bool)
    valid[-1] = False
    compute = jax.jit(losses.correspondence, static_argnums=5)
    found = compute(keys_of(later), keys_of(first), later, first, valid, READ)
    counts, _ = near_cells(first, later, valid)
    assert 10 < counts.sum() < counts.size - 2 * GRID[1]
    assert 0 <= found["correspondence"] < 0.05
    assert found["correspondence_accuracy"] == 1.0


def test_correspondence_of_random_keys_against_its_definition():
    """The affinity is the read's, scale included; all valid cells of frame 0 are rivals, unknown ones too."""
    first, later = moved_layers()
    valid = np.ones(GRID, bool)
    valid[-1] = False
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(*x.shape[:-1], 4)).astype(np.float32) for x in (later, first))
    counts, near = near_cells(first, later, valid)
    compute = jax.jit(losses.correspondence, static_argnums=5)
    for variant in ("dot", "l2"):
        config = dataclasses.replace(READ, affinity=variant)
        found = compute(query, key, later, first, valid, config)
        rows, columns = query.reshape(-1, 4), key.reshape(-1, 4)
        logits = rows @ columns.T if variant == "dot" else -np.sum((rows[:, None] - columns) ** 2, -1)
        logits = np.where(valid.ravel(), 0.5 * logits, -1e4)
        share = np.sum(np.exp(logits) * near, -1) / np.exp(logits).sum(-1)
        expected = -np.log(share[counts]).mean()
        assert found["correspondence"] == pytest.approx(expected, rel=1e-4)
        best = np.argmax(logits, -1)
        chosen = first.reshape(-1, 3)[best]
        squared = np.sum((chosen - later.reshape(-1, 3))[:, 1:] ** 2, -1)
        hits = (chosen[:, 0] == later.reshape(-1, 3)[:, 0]) & (squared <= 16**2)
        assert found["correspondence_accuracy"] == pytest.approx(hits[counts].mean())
        # Keys that say nothing: a guess among the valid cells.
        nothing = compute(0 * query, 0 * key, later, first, valid, config)
        guess = np.log(valid.sum() / near[counts].sum(-1)).mean()
        assert nothing["correspondence"] == pytest.approx(guess, rel=1e-5)


def test_correspondence_of_unknown_origins_is_zero_and_its_gradient_finite():
    first, later = moved_layers()
    valid = np.ones(GRID, bool)
    valid[-1] = False

    def loss(keys, first, later):
        return losses.correspondence(*keys, later, first, valid, READ)["correspondence"]

    compute = jax.jit(jax.value_and_grad(loss))
    keys = keys_of(later) + 3.0, keys_of(first)
    value, gradients = compute(keys, first, later)
    assert value > 0 and all(np.isfinite(x).all() and np.any(x) for x in gradients)
    # Padding has no say: neither as what is read nor as who reads.
    assert not np.any(gradients[1][-1])
    for unknown in ((np.full_like(first, -1), later), (first, np.full_like(later, -1)), (first - 7, later)):
        value, gradients = compute(keys, *unknown)
        assert value == 0 and not any(np.any(x) for x in gradients)
