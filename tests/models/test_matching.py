"""Matching layers: numbers by hand, an entry-by-entry reference, scipy's optimum, padding, order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from scipy import optimize

from vos_jax import errors
from vos_jax.models import matching

# Object 0 takes proposal 0, whereas the optimum gives it proposal 1 and proposal 0 to object 1.
CONTESTED = np.array([[-0.9, -0.8, -0.1], [-0.85, -0.2, -0.3]])


@functools.cache
def compiled(name: str, **fields):
    """The layer over a batch of cases that share their validity."""
    layer = functools.partial(matching.MATCHINGS[name], config=matching.MatchingConfig(**fields))
    return jax.jit(jax.vmap(layer, (0, 0, None, None)))


def solve(name, cost, null_cost=None, object_valid=None, proposal_valid=None, **fields):
    """One case, or a batch of them."""
    cost = np.asarray(cost, np.float32)
    batch = cost.reshape(-1, *cost.shape[-2:])
    null_cost = np.zeros(batch.shape[:2], np.float32) if null_cost is None else null_cost
    null_cost = np.asarray(null_cost, np.float32).reshape(batch.shape[:2])
    object_valid = np.ones(batch.shape[1], bool) if object_valid is None else object_valid
    proposal_valid = np.ones(batch.shape[2], bool) if proposal_valid is None else proposal_valid
    found = compiled(name, **fields)(batch, null_cost, object_valid, proposal_valid)
    return np.asarray(found).reshape(*cost.shape[:-1], -1)


def random_costs(rng):
    """One shape for many tests: every new one compiles."""
    return -rng.random((20, 3, 5)), -rng.random((20, 3))


def with_null(cost, null_cost):
    """The full extended matrix [N, P + N]; infinity where a null column is somebody else's."""
    own = np.full((len(cost), len(cost)), np.inf)
    np.fill_diagonal(own, null_cost)
    return np.concatenate([cost, own], 1)


def reference_pgd(cost, start, num_grad, num_proj, step, average):
    """Entry by entry in float64; infinite costs are no variables."""
    num_rows, num_columns = cost.shape
    entries = [(o, j) for o in range(num_rows) for j in range(num_columns) if np.isfinite(cost[o, j])]
    x, kept = start.astype(float), [start.astype(float)]
    corrections = [np.zeros_like(x) for _ in range(3)]
    for _ in range(num_grad):
        for o, j in entries:
            x[o, j] -= step * cost[o, j]
        kept.append(x.copy())
        for _ in range(num_proj):
            for which in range(3):
                lifted = x + corrections[which]
                x = lifted.copy()
                for o, j in entries:
                    column = [lifted[i, k] for i, k in entries if k == j]
                    row = [lifted[i, k] for i, k in entries if i == o]
                    if which == 0:
                        x[o, j] = max(lifted[o, j], 0)
                    elif which == 1 and sum(column) > 1:
                        x[o, j] -= (sum(column) - 1) / len(column)
                    elif which == 2:
                        x[o, j] -= (sum(row) - 1) / len(row)
                corrections[which] = lifted - x
        if average == "post":
            kept[-1] = x.copy()
    return np.mean(kept, 0)


def test_pgd_by_hand():
    """One step of length 0.1, then one cycle.

    Start: proposals 0 and 1 keep object 0, proposal 2 keeps object 1; object 0 takes 0, object 1 takes 2.
    Step:    1.09   .08   .01 |  .085  .02  1.03
    X >= 0:  the same
    Columns: sums 1.175 .1 1.04, so .0875 and .02 off columns 0 and 2
             1.0025 .08  -.01 | -.0025 .02  1.01
    Rows:    sums 1.0725 1.0275, so .0725 / 3 and .0275 / 3 off
             .97833 .05583 -.03417 | -.01167 .01083 1.00083
    """
    start = np.array([[1, 0, 0], [0, 0, 1]])
    stepped = np.array([[1.09, 0.08, 0.01], [0.085, 0.02, 1.03]])
    projected = np.array([[0.97833, 0.05583, -0.03417], [-0.01167, 0.01083, 1.00083]])
    once = {"null": False, "num_grad": 1, "num_proj": 1}
    pre = solve("pgd", CONTESTED, **once)
    post = solve("pgd", CONTESTED, average="post", **once)
    np.testing.assert_allclose(pre[:, :3], (start + stepped) / 2, atol=1e-6)
    np.testing.assert_allclose(post[:, :3], (start + projected) / 2, atol=1e-5)
    # Second cycle: X >= 0 lifts the negatives to 0; then corrections .0875 and .02 return to both rows.
    lifted = np.array([[0.97833 + 0.0875, 0.05583, 0.02], [0.0875, 0.01083, 1.00083 + 0.02]])
    columns = lifted - np.array([[(lifted[:, 0].sum() - 1) / 2, 0, (lifted[:, 2].sum() - 1) / 2]])
    rows = columns + np.array([[0.0725 / 3], [0.0275 / 3]])
    rows = rows - (rows.sum(1, keepdims=True) - 1) / 3
    twice = solve("pgd", CONTESTED, average="post", null=False, num_grad=1, num_proj=2)
    np.testing.assert_allclose(twice[:, :3], (start + rows) / 2, atol=2e-5)


def test_pgd_equals_the_reference_with_and_without_null():
    start = np.array([[1.0, 0, 0], [0, 0, 1]])
    wanted = reference_pgd(CONTESTED, start, 10, 5, 0.1, "pre")
    found = solve("pgd", CONTESTED, null=False)
    np.testing.assert_allclose(found, np.pad(wanted, ((0, 0), (0, 1))), atol=1e-5)
    # The null block of the reference has all 2 x 2 entries. Object 0 takes proposal 0; object 1 would have
    # had it rather than its null column, so it waits one round, and then its null column is the cheapest.
    null_cost = np.array([-0.5, -0.6])
    start = np.array([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    wanted = reference_pgd(with_null(CONTESTED, null_cost), start, 10, 5, 0.1, "post")
    found = solve("pgd", CONTESTED, null_cost, average="post")
    np.testing.assert_allclose(found[:, :3], wanted[:, :3], atol=1e-5)
    np.testing.assert_allclose(found[:, 3], np.diag(wanted[:, 3:]), atol=1e-5)


def test_pgd_appends_zero_cost_columns_where_proposals_do_not_outnumber_objects():
    """2 objects and 1 proposal without null: 2 columns more, whose sum is the last column of the result."""
    cost = CONTESTED[:, :1]
    start = np.array([[1.0, 0, 0], [0, 1, 0]])
    wanted = reference_pgd(np.pad(cost, ((0, 0), (0, 2))), start, 10, 5, 0.1, "post")
    found = solve("pgd", cost, null=False, average="post")
    np.testing.assert_allclose(found, np.stack([wanted[:, 0], wanted[:, 1:].sum(1)], 1), atol=1e-5)
    assert found[1, 1] > 0.9  # room for the one that lost


def test_the_start_of_pgd_repeats_its_rule_for_those_who_lost_every_comparison():
    """Object 0 is the cheapest everywhere and takes proposal 0; then 1 and 2 both prefer object 1."""
    cost = np.array([[-0.9, -0.8, -0.7], [-0.6, -0.5, -0.4], [-0.55, -0.3, -0.2]], np.float32)
    for null_cost, wanted in ((0.0, [0, 1, 2]), (-0.25, [0, 1, 3]), (-0.45, [0, 1, 3]), (-0.52, [0, 3, 3])):
        valid = np.ones(3, bool), np.ones(3, bool)
        null = np.full(3, null_cost, np.float32)
        problem = matching.extend(cost, null, *valid, matching.MatchingConfig())
        start = np.asarray(jax.jit(matching.initial_assignment)(problem))
        np.testing.assert_array_equal(start.argmax(1), wanted)
        np.testing.assert_array_equal(start.sum(1), 1)


def test_pgd_residuals():
    """Rows hold exactly, the rest as far as the cycles went; the average before projection holds nothing."""
    cost, null_cost = random_costs(np.random.default_rng(0))
    for cycles, slack in ((5, 0.05), (100, 2e-3)):
        found = solve("pgd", cost, null_cost, average="post", num_proj=cycles)
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
        assert found.min() > -slack and found[..., :-1].sum(1).max() < 1 + slack
    assert solve("pgd", cost, null_cost, null=True).sum(-1).mean() > 1.2


def test_pgd_approaches_the_optimum_with_many_iterations():
    cost = -np.random.default_rng(1).random((40, 5, 10))
    best = [optimize.linear_sum_assignment(case) for case in cost]
    regret = {}
    for steps, cycles in ((10, 5), (400, 50)):
        found = solve("pgd", cost, null=False, num_grad=steps, num_proj=cycles)[..., :-1]
        rounded = [optimize.linear_sum_assignment(-case) for case in found]
        regret[steps] = np.mean(
            [c[r].sum() - c[b].sum() for c, r, b in zip(cost, rounded, best, strict=True)]
        )
    assert 0 <= regret[400] < 0.25 * regret[10] and regret[400] < 0.02


@pytest.mark.parametrize(("name", "null"), [*((name, True) for name in matching.MATCHINGS), ("pgd", False)])
def test_padding_changes_nobodys_assignment(name, null):
    rng = np.random.default_rng(2)
    cost, null_cost = random_costs(rng)
    objects, proposals = np.array([0, 2, 5]), np.array([1, 3, 4, 7, 8])
    wide, wide_null = 1e3 * rng.normal(size=(20, 6, 9)), 1e3 * rng.normal(size=(20, 6))
    wide[:, objects[:, None], proposals], wide_null[:, objects] = cost, null_cost
    valid = np.isin(np.arange(6), objects), np.isin(np.arange(9), proposals)
    found = solve(name, wide, wide_null, *valid, null=null)
    wanted = solve(name, cost, null_cost, null=null)
    np.testing.assert_allclose(found[:, objects][..., [*proposals, 9]], wanted, atol=1e-6)
    assert not found[..., :-1][..., ~valid[1]].any()
    assert not found[:, ~valid[0], :-1].any() and (found[:, ~valid[0], -1] == 1).all()


@pytest.mark.parametrize("name", matching.MATCHINGS)
def test_order_of_objects_and_proposals_does_not_matter(name):
    rng = np.random.default_rng(3)
    cost, null_cost = random_costs(rng)
    found = solve(name, cost, null_cost, null=True)
    objects, proposals = np.array([2, 0, 1]), rng.permutation(5)
    moved = solve(name, cost[:, objects][..., proposals], null_cost[:, objects], null=True)
    np.testing.assert_allclose(moved, found[:, objects][..., [*proposals, 5]], atol=1e-6)


def test_hungarian_is_scipys_optimum():
    rng = np.random.default_rng(4)
    cost, null_cost = random_costs(rng)
    found = solve("hungarian", cost, null_cost, null=True)
    for case, null, assignment in zip(cost, null_cost, found, strict=True):
        columns = optimize.linear_sum_assignment(with_null(case, null))[1]
        np.testing.assert_array_equal(assignment.argmax(1), np.minimum(columns, 5))
    assert set(np.unique(found)) == {0, 1} and (found.sum(-1) == 1).all()
    # Without null columns and with 2 proposals for 3 objects: two zero-cost columns.
    cost += 0.5
    found = solve("hungarian", cost, None, None, np.arange(5) < 2, null=False)
    for case, assignment in zip(cost, found, strict=True):
        columns = optimize.linear_sum_assignment(np.pad(case[:, :2], ((0, 0), (0, 2))))[1]
        np.testing.assert_array_equal(assignment.argmax(1), np.where(columns < 2, columns, 5))


@pytest.mark.parametrize("name", matching.MATCHINGS)
def test_an_object_goes_absent_if_that_is_cheaper_or_nothing_is_left(name):
    cost, _ = random_costs(np.random.default_rng(7))
    absent = matching.hard(solve(name, cost, np.full((20, 3), -2.0), null=True))[..., -1] > 0
    present = matching.hard(solve(name, cost, np.full((20, 3), 1.0), null=True))[..., -1] == 0
    assert absent.all() and present.all()
    nothing = solve(name, cost, np.full((20, 3), 0.5), None, np.zeros(5, bool), null=True)
    assert not nothing[..., :-1].any() and nothing[..., -1].min() > 0.9
    nobody = solve(name, cost, np.full((20, 3), 0.5), np.zeros(3, bool), null=True)
    assert not nobody[..., :-1].any() and (nobody[..., -1] == 1).all()


def test_greedy_takes_the_cheapest_pair_first():
    cost = [[-0.9, -0.8, -0.1], [-0.85, -0.2, -0.3], [-0.7, -0.75, -0.6]]
    found = solve("greedy", cost, null=False)
    np.testing.assert_array_equal(found.argmax(1), [0, 2, 1])
    np.testing.assert_array_equal(found.sum(0), [1, 1, 1, 0])


def test_sinkhorn_meets_the_constraints_and_sharpens_to_the_optimum():
    cost, null_cost = random_costs(np.random.default_rng(5))
    soft = solve("sinkhorn", cost, null_cost, null=True)
    np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-4)
    assert soft.min() >= 0 and soft[..., :-1].sum(1).max() < 1.05
    sharp = solve("sinkhorn", cost, null_cost, sinkhorn_temperature=0.003, sinkhorn_iterations=2000)
    best = solve("hungarian", cost, null_cost, null=True)
    assert (sharp.argmax(-1) == best.argmax(-1)).mean() > 0.98


@pytest.mark.parametrize(("name", "null"), [("pgd", True), ("sinkhorn", False)])
def test_gradients(name, null):
    rng = np.random.default_rng(6)
    valid = np.array([True, True, False]), np.array([True, False, True, True, True])
    config = matching.MatchingConfig(null=null, num_grad=3, num_proj=2, sinkhorn_iterations=5)
    with jax.enable_x64(True):
        cost, null_cost = jnp.asarray(-rng.random((3, 5))), jnp.asarray(-rng.random(3))
        layer = jax.jit(lambda *costs: matching.MATCHINGS[name](*costs, *valid, config=config))
        test_util.check_grads(layer, (cost, null_cost), order=1, modes=["rev"], eps=1e-6)
        grad, null_grad = jax.grad(lambda *costs: (layer(*costs) ** 2).sum(), (0, 1))(cost, null_cost)
        grad, null_grad = np.asarray(grad), np.asarray(null_grad)
    assert (np.abs(grad[:2][:, valid[1]]) > 1e-6).all() and (np.abs(null_grad[:2]) > 1e-6).all() == null
    assert not np.any(grad[2]) and not np.any(grad[:, 1]) and null_grad[2] == 0


def test_hard_keeps_each_rows_maximum():
    found = matching.hard(jnp.array([[0.4, 1.07, 0.2], [0.5, 0.5, 0.1]]))
    np.testing.assert_allclose(found, [[0, 1.07, 0], [0.5, 0, 0]])


def test_cost_mixes_similarity_and_overlap():
    similarity, overlap = jnp.array([[0.8, 0.2]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(matching.cost(similarity, overlap, jnp.array(0.0)), [[-0.4, -0.6]])
    third = matching.cost(similarity, overlap, jnp.log(jnp.array(0.5)))  # lambda = 1/3
    np.testing.assert_allclose(third, [[-0.53333, -0.46667]], atol=1e-5)


def test_mask_iou():
    a = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], bool)
    b = np.array([[[1, 0], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]], bool)
    np.testing.assert_allclose(matching.mask_iou(a, b), [[1 / 3, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(matching.mask_iou(jnp.asarray(a, jnp.bfloat16), b), matching.mask_iou(a, b))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"average": "mean"}, "average"),
        ({"num_grad": 0}, "num_grad"),
        ({"step": 0.0}, "step is 0.0; it must be above 0"),
    ],
)
def test_config_says_what_is_wrong(fields, says):
    with pytest.raises(errors.VosError, match=says):
        matching.MatchingConfig(**fields)
