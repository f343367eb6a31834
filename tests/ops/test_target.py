"""The forms for accelerators, run on the CPU, compute what those for CPUs do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.inference import coloured
from tests.models.test_read import GRID, SLOTS, filled_memory
from vos_jax.inference import session
from vos_jax.models import alignment, matching, search_region
from vos_jax.models import read as read_lib
from vos_jax.ops import attention, boxes, target

CONFIGS = [
    {},
    {"affinity": "dot", "scale": 0.3},
    {"weight": "none", "topk": 3},
    {"kernel_sigma": 2.0},
    {"window": 1},
]


def both(function, *arguments):
    """The results of a function, traced for the CPU and for an accelerator."""
    found = [jax.jit(lambda *x: function(*x))(*arguments)]
    with target.compile_for("cuda"):
        assert not target.is_cpu()
        found.append(jax.jit(lambda *x: function(*x))(*arguments))
    assert target.is_cpu()
    return found


def assert_close(found, atol=2e-6):
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), atol=atol)


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
@pytest.mark.parametrize("searched", [False, True])
def test_the_read_is_dense(changes, searched, monkeypatch):
    monkeypatch.setattr(read_lib, "DENSE", 0)  # the CPU streams
    config = read_lib.ReadConfig(**changes)
    memory = filled_memory()
    key = jnp.asarray(np.random.default_rng(1).normal(size=(*GRID, 8)).astype(np.float32))
    region = None
    if searched:
        previous = jnp.zeros((2, *GRID)).at[0, 1, 1:3].set(1.0).at[1, 2, 4].set(1.0)
        region = search_region.around(previous, GRID, config.search_radius)
    assert_close(both(lambda k, m: read_lib.read(k, m, config, region), key, memory), atol=1e-5)


@pytest.mark.slow
def test_the_dense_read_holds_few_affinities_at_a_time():
    """Blocks of queries give what all queries at once give, with its gradient."""
    memory, pixels = filled_memory(), GRID[0] * GRID[1]
    config = read_lib.ReadConfig()
    key = jnp.asarray(np.random.default_rng(1).normal(size=(*GRID, 8)).astype(np.float32))

    def read(key, most):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(read_lib, "DENSE_ON_ACCELERATORS", most)
            found = read_lib.read(key, memory, config)
        return jnp.sum(found.value**2) + jnp.sum(found.embed**2) + jnp.sum(found.prob**2)

    sizes = []
    with target.compile_for("cuda"), pytest.MonkeyPatch.context() as patch:
        dense = attention.dense
        patch.setattr(attention, "dense", lambda logits, *x: sizes.append(logits.size) or dense(logits, *x))
        whole, blocks = (
            jax.value_and_grad(functools.partial(read, most=most))(key)
            for most in (10**9, 7 * 2 * SLOTS * pixels)
        )
    assert_close((whole, blocks), atol=1e-5)
    assert max(sizes) == SLOTS * pixels**2 and min(sizes) == 7 * SLOTS * pixels


def test_matching_is_unrolled():
    rng = np.random.default_rng(2)
    cost, null = rng.uniform(size=(3, 7)).astype(np.float32), np.full(3, 0.6, np.float32)
    config = matching.MatchingConfig(num_grad=3, num_proj=2)

    def loss(cost):
        found = matching.pgd(cost, null, jnp.ones(3, bool), jnp.ones(7, bool), config=config)
        return jnp.sum(found * jnp.arange(8)[None]), found

    assert_close(both(jax.grad(loss, has_aux=True), cost))

    def num_loops():
        return jax.jit(lambda cost: loss(cost)[1]).lower(cost).as_text().count("stablehlo.while")

    on_cpu = num_loops()
    with target.compile_for("cuda"):
        assert num_loops() == 1 < on_cpu, "the loop of the initial assignment stays"


def test_boxes_are_suppressed_in_fewer_rounds():
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 40, (60, 2)).astype(np.float32)
    found = np.concatenate([corners, corners + rng.uniform(5, 30, (60, 2)).astype(np.float32)], axis=1)
    scores = np.sort(rng.uniform(size=60).astype(np.float32))[::-1].copy()
    kept = both(lambda b, s: boxes.greedy_nms(b, s, jnp.ones(60, bool), threshold=0.3), found, scores)
    np.testing.assert_array_equal(*kept)
    assert 0 < np.count_nonzero(kept[0]) < 60


def test_alignment_scores_all_proposals_at_once():
    rng = np.random.default_rng(4)
    template, proposals = (rng.normal(size=(n, 9, 8)).astype(np.float32) for n in (2, 5))
    align = alignment.resolve(alignment.ALIGNMENTS["adaptive"])
    scores = both(
        lambda t, p: alignment.score_all(align, t, jnp.ones((2, 9)), p, 0.1)[0], template, proposals
    )
    assert_close(scores)


@pytest.mark.slow
def test_a_video_has_the_same_masks():
    """The whole step; RefineNet sees the whole frame on accelerators, as in training."""
    frames, ids = coloured.make_video()
    model, params = tiny.model(refine=False), tiny.params(refine=False)

    def run():
        engine = coloured.make_engine(model, params)
        return [result.ids for result in session.Session(engine).run(frames[:4], {0: ids[0]})]

    on_cpu = run()
    with target.compile_for("cuda"):
        on_accelerator = run()
    np.testing.assert_array_equal(on_cpu, on_accelerator)


def test_a_program_for_any_platform_holds_both_forms():
    def run(x):
        return target.choose(x, cpu=lambda x: x + 1, accelerator=lambda x: x * 2)

    found = both(run, jnp.ones(()))
    assert [float(x) for x in found] == [2.0, 2.0]
    with target.compile_for(target.ANY):
        assert target.is_cpu()
        exported = jax.export.export(jax.jit(lambda x: run(x)), platforms=("cpu", "cuda"))(jnp.zeros(()))
    assert float(exported.call(jnp.full((), 4.0))) == 5.0
    assert "multiply" in exported.mlir_module() and "add" in exported.mlir_module()
