"""Alignment variants: numpy references, what may change a score and what may not, users' own variants."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax import config as configs
from vos_jax import errors
from vos_jax.models import alignment

S, C = 9, 32

HELD = list(alignment.ALIGNMENTS)
"""The alignments that are held to the rules of docs/experiments.md."""
if own := os.environ.get("VOS_JAX_VARIANT"):
    HELD.append(configs.load(own).model.alignment)
ATTENDING = ("adaptive", "topk", "transport")


def grids(seed: int = 0):
    rng = np.random.default_rng(seed)
    template, proposal = (rng.normal(size=(S, C)).astype(np.float32) for _ in range(2))
    return template, rng.random(S).astype(np.float32), proposal


@functools.cache
def compiled(name: str):
    return jax.jit(alignment.resolve(name))


@functools.cache
def compiled_all(name: str, chunk: int):
    align = alignment.resolve(name)
    return jax.jit(lambda *inputs: alignment.score_all(align, *inputs, 0.1, chunk=chunk))


def score(name, template, weights, proposal, temperature=0.1):
    return float(compiled(name)(template, weights, proposal, temperature=temperature)[0])


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def reference(name, template, weights, proposal, temperature):
    """One location at a time, in float64: (score, attention or None)."""
    x, w, y = (np.asarray(a, np.float64) for a in (template, weights, proposal))
    size = len(x)
    if name == "none":
        return sum(w[p] * cosine(x[p], y[p]) for p in range(size)) / w.sum(), None
    if name == "pooled":
        return cosine(sum(w[p] * x[p] for p in range(size)), sum(y)), None
    kernel = np.array([[np.exp(cosine(a, b) / temperature) for b in y] for a in x])
    if name == "topk":
        for row in kernel:
            row[row < np.sort(row)[-4]] = 0
    if name == "transport":  # scale columns to equal mass, rows to their weights, rows last
        plan = kernel / kernel.sum(1, keepdims=True) * (w / w.sum())[:, None]
        for _ in range(5):
            plan = plan / plan.sum(0, keepdims=True) / size
            plan = plan / plan.sum(1, keepdims=True) * (w / w.sum())[:, None]
        kernel = plan
    attention = kernel / kernel.sum(1, keepdims=True)
    return sum(w[p] * cosine(x[p], attention[p] @ y) for p in range(size)) / w.sum(), attention


@pytest.mark.parametrize("name", alignment.ALIGNMENTS)
def test_equals_a_plain_loop(name):
    template, weights, proposal = grids()
    found, aligned, attention = compiled(name)(template, weights, proposal, temperature=0.1)
    wanted, wanted_attention = reference(name, template, weights, proposal, 0.1)
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    if name in ATTENDING:
        np.testing.assert_allclose(attention, wanted_attention, atol=1e-5)
        np.testing.assert_allclose(aligned, wanted_attention @ proposal, atol=1e-5)
    else:
        assert attention is None and aligned.shape == proposal.shape


def test_adaptive_by_hand():
    """Two swapped unit vectors at temperature 1.

    a = e / (1 + e) = 0.7311, cos = a / |(a, 1 - a)| = 0.9386.
    """
    template, proposal = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1]
    found, _, attention = alignment.adaptive(template, jnp.ones(2), proposal, temperature=1.0)
    np.testing.assert_allclose(attention, [[0.26894, 0.73106], [0.73106, 0.26894]], atol=1e-5)
    np.testing.assert_allclose(found, 0.93851, atol=1e-5)
    assert alignment.none(template, jnp.ones(2), proposal)[0] == 0.0


@pytest.mark.parametrize("name", alignment.ALIGNMENTS)
def test_only_none_depends_on_where_the_proposals_locations_are(name):
    template, weights, proposal = grids()
    moved = proposal[np.random.default_rng(1).permutation(S)]
    change = abs(score(name, template, weights, proposal) - score(name, template, weights, moved))
    assert change > 0.01 if name == "none" else change < 1e-5


@pytest.mark.parametrize("name", ATTENDING)
def test_finds_a_shuffled_template_whatever_the_norms(name):
    """Weights are equal, as `transport` has to use every location."""
    rng = np.random.default_rng(2)
    template, _, _ = grids(2)
    norms = np.geomspace(0.01, 100, S, dtype=np.float32)[rng.permutation(S)]
    shuffled = (template * norms[:, None])[rng.permutation(S)]
    assert score(name, template, np.ones(S, np.float32), shuffled, 0.02) > 0.99
    assert score("none", template, np.ones(S, np.float32), shuffled) < 0.5


@pytest.mark.parametrize("name", HELD)
def test_locations_outside_the_object_do_not_count(name):
    template, weights, proposal = grids()
    weights[::2] = 0
    before = score(name, template, weights, proposal)
    template[::2] = 7.0
    np.testing.assert_allclose(score(name, template, weights, proposal), before, atol=1e-6)
    np.testing.assert_allclose(score(name, template, 0.1 * weights, proposal), before, atol=1e-6)


@pytest.mark.parametrize("name", HELD)
def test_degenerate_inputs_have_finite_scores_and_gradients(name):
    align = alignment.resolve(name)

    @jax.jit
    def gradients(template, weights, proposal, temperature):
        def value(*args):
            return align(*args[:3], temperature=args[3])[0]

        return jax.value_and_grad(value, (0, 1, 2, 3))(template, weights, proposal, temperature)

    template, weights, proposal = grids()
    zeros, none = np.zeros_like(template), np.zeros_like(weights)
    half = template * (np.arange(S) < 5)[:, None].astype(np.float32)
    cases = (
        (zeros, weights, proposal),
        (template, weights, zeros),
        (template, none, proposal),
        (zeros, none, zeros),
        (half, weights, half),
        (template, weights, -template),
    )
    for case in cases:
        value, grads = gradients(*case, 0.01)
        assert abs(value) <= 1 + 1e-5
        assert all(np.isfinite(g).all() for g in grads)
        assert max(np.abs(g).max() for g in grads[:1] + grads[2:3]) < 1e3
    assert gradients(template, none, proposal, 0.1)[0] == 0.0
    value, grads = gradients(template, weights, proposal, 0.1)
    assert np.abs(grads[0]).max() > 1e-3 and np.abs(grads[2]).max() > 1e-3
    assert not isinstance(name, str) or (grads[3] != 0) == (name in ATTENDING)


def test_topk_looks_at_k_locations():
    template, weights, proposal = grids()
    topk = jax.jit(alignment.topk, static_argnames="k")
    attention = topk(template, weights, proposal, temperature=0.1, k=2)[2]
    assert (np.count_nonzero(attention, axis=1) == 2).all()
    everywhere = topk(template, weights, proposal, temperature=0.1, k=S + 3)[0]
    np.testing.assert_allclose(everywhere, score("adaptive", template, weights, proposal), atol=1e-6)


def test_transport_uses_locations_evenly_where_adaptive_does_not():
    """Every template location likes location 0 best; transport makes them share."""
    rng = np.random.default_rng(3)
    template = rng.normal(size=(S, C)).astype(np.float32) * 0.1 + np.eye(C, dtype=np.float32)[:1]
    proposal = rng.normal(size=(S, C)).astype(np.float32)
    proposal[0] = np.eye(C)[0]
    weights = np.ones(S, np.float32)
    used = {}
    for name in ("adaptive", "transport"):
        used[name] = np.asarray(compiled(name)(template, weights, proposal, temperature=0.2)[2]).mean(0)
    assert used["adaptive"].max() > 0.5
    np.testing.assert_allclose(used["transport"], 1 / S, atol=0.02)


def test_score_all_is_a_loop_over_pairs_in_chunks_of_any_size():
    rng = np.random.default_rng(4)
    templates, proposals = (rng.normal(size=(n, S, C)).astype(np.float32) for n in (2, 5))
    weights = rng.random((2, S)).astype(np.float32)
    wanted = [[score("adaptive", templates[o], weights[o], y) for y in proposals] for o in range(2)]
    for chunk in (1, 2, 32):
        scores, attention = compiled_all("adaptive", chunk)(templates, weights, proposals)
        np.testing.assert_allclose(scores, wanted, atol=1e-5)
        pair = compiled("adaptive")(templates[1], weights[1], proposals[3], temperature=0.1)
        np.testing.assert_allclose(attention[1, 3], pair[2], atol=1e-6)
    scores, attention = compiled_all("none", 1)(templates, weights, proposals)
    assert attention is None and scores.shape == (2, 5)


def test_half_precision_inputs_give_full_precision_scores():
    template, weights, proposal = (jnp.asarray(x, jnp.bfloat16) for x in grids())
    found, aligned, attention = compiled("adaptive")(template, weights, proposal, temperature=0.1)
    assert (found.dtype, aligned.dtype, attention.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    full = [x.astype(jnp.float32) for x in (template, weights, proposal)]
    np.testing.assert_allclose(found, score("adaptive", *full), atol=1e-5)


def test_users_callables_may_leave_out_temperature():
    template, weights, proposal = grids()

    def untempered(template, weights, proposal):
        return jnp.sum(weights), proposal, None

    def tempered(template, weights, proposal, temperature):
        return jnp.asarray(temperature), proposal, None

    hardest = functools.partial(alignment.topk, k=1)
    for align, wanted in ((untempered, weights.sum()), (tempered, 0.3)):
        resolved = alignment.resolve(alignment.resolve(align))
        found = resolved(template, weights, proposal, temperature=0.3)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-6)
    attention = jax.jit(alignment.resolve(hardest))(template, weights, proposal, temperature=0.3)[2]
    assert (np.count_nonzero(attention, axis=1) == 1).all()


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("adaptve", "unknown variant 'adaptve'; choose one of adaptive, none, pooled, topk, transport"),
        (3, "expected a name or a callable, found 3"),
        (lambda template, proposal: None, r"must take \(template \[S, C\], weights \[S\], proposal"),
    ],
)
def test_resolve_says_what_is_wrong(choice, says):
    with pytest.raises(errors.VosError, match=says):
        alignment.resolve(choice)


@pytest.mark.parametrize("returned", [0.0, (0.0, None), (jnp.zeros(3), jnp.zeros((S, C)), None)])
def test_score_all_says_what_a_callable_must_return(returned):
    template, weights, proposal = (jnp.asarray(x)[None] for x in grids())
    align = alignment.resolve(lambda template, weights, proposal: returned)
    with pytest.raises(errors.VosError, match=r"must return \(score \[\], aligned \[S, C\], attention"):
        alignment.score_all(align, template, weights, proposal, 0.1)
