"""The whole method: its variants' shapes, its symmetries, and that nothing padded changes what is real."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.inference import coloured
from vos_jax.inference import session as session_lib
from vos_jax.models import alignment, matching, proposals, read, templates, vos
from vos_jax.models import config as model_config
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib

SIZE = (64, 64)


@pytest.fixture(scope="module")
def params():
    """Parameters with which every stage says something: no zeros at the end of RefineNet."""
    values = tiny.params()
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape).astype(np.float32), values)


def shapes_of(f, *args, **kwargs):
    return jax.eval_shape(functools.partial(f, **kwargs), *args)


def state_shapes(model, num_objects, size=SIZE):
    return shapes_of(lambda: state_lib.init_state(model, num_objects, size, size))


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["pairs", "all"])
def test_every_combination_of_template_alignment_and_matching_has_the_right_shapes(every):
    """Tries all combinations, or one matching for each template and alignment, all of them by turns."""
    n, h, w, channels = 2, 4, 4, tiny.CONFIG.embed_size
    float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    model = tiny.model()
    state = state_shapes(model, n)
    found = read.Read(
        value=float32((n, h, w, 8)),
        embed=float32((n, h, w, channels)),
        prob=float32((n, h, w)),
        slot_attention=float32((n, 3)),
        region=jax.ShapeDtypeStruct((n, h, w), bool),
    )
    candidates = proposals.Proposals(
        boxes=float32((5, 4)),
        scores=float32((5,)),
        masks=float32((5, 16, 16)),
        valid=jax.ShapeDtypeStruct((5,), bool),
    )
    weights = shapes_of(model.init, jax.random.key(0))
    choices = [list(enumerate(c)) for c in (templates.TEMPLATES, alignment.ALIGNMENTS, matching.MATCHINGS)]
    for (i, template), (j, align), (k, match) in itertools.product(*choices):
        if not every and (i + j) % len(matching.MATCHINGS) != k:
            continue
        variant = tiny.model(template=template, alignment=align, matching=match)
        embed = float32((h, w, channels))
        out = shapes_of(variant.match, weights, found, embed, candidates, state, soft=False)
        assert out.match.assignment.shape == (n, 6), (template, align, match)
        assert out.coarse.shape == (n, 16, 16)
        assert out.templates.vectors.shape == (n, 25, channels)
        assert (out.match.attention is None) == (align in ("none", "pooled"))


CHOICES = [
    *({"template": name} for name in templates.TEMPLATES),
    *({"alignment": name} for name in alignment.ALIGNMENTS),
    *({"matching": name} for name in matching.MATCHINGS),
    *(
        {"read": read.ReadConfig(**switches, window=2, affinity="dot", search_radius=0.0)}
        for switches in ({}, {"weight": "none"}, {"weight": "none", "topk": 8}, {"kernel_sigma": 7.0})
    ),
    {"proposals": tiny.NO_NETWORK},
    {"refine": False},
    {"iou_with": "propagated"},
    {"dtype": "bfloat16"},
]


def check_clip_shapes(model, size=SIZE, num_objects=3, length=2):
    weights = shapes_of(model.init, jax.random.key(0))
    prompts = shapes_of(lambda: state_lib.no_prompt(num_objects, size))
    prompts = jax.tree.map(lambda x: jax.ShapeDtypeStruct((length, *x.shape), x.dtype), prompts)
    frames = jax.ShapeDtypeStruct((length, *size, 3), jnp.uint8)
    state = state_shapes(model, num_objects, size)
    new_state, output = shapes_of(functools.partial(step_lib.scan, model), weights, state, frames, prompts)
    quarter = size[0] // 4, size[1] // 4
    assert output.prob.shape == (length, num_objects + 1, *quarter) and output.prob.dtype == jnp.float32
    assert output.prediction.out.coarse.shape == (length, num_objects, *quarter)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


@pytest.mark.parametrize("changes", CHOICES, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items())[:40])
def test_a_clip_keeps_its_shapes_whatever_is_chosen(changes):
    check_clip_shapes(tiny.model(**changes))


@pytest.mark.parametrize("variant", sorted(model_config.VARIANTS))
def test_published_variants_run_a_clip(variant):
    check_clip_shapes(vos.VOS(config=model_config.change_variant(model_config.ModelConfig(), variant)))


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(model_config.VARIANTS))
@pytest.mark.parametrize("changes", CHOICES, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items())[:40])
def test_published_variants_run_a_clip_whatever_is_chosen(variant, changes):
    check_clip_shapes(
        vos.VOS(
            config=dataclasses.replace(
                model_config.change_variant(model_config.ModelConfig(), variant), **changes
            )
        )
    )


@pytest.fixture(scope="module")
def segment(params):
    """Runs the tiny model over a video in a bucket of 4 and returns every frame's result."""
    engine = coloured.make_engine(tiny.model(), params, object_buckets=(4,))
    return lambda frames, prompts: list(session_lib.Session(engine).run(frames, prompts, soft=True))


def test_permuting_objects_permutes_masks(segment):
    frames, ids = tiny.video(4)
    swapped_ids = np.array([0, 2, 1], np.uint8)[ids]
    plain = segment(frames, {0: ids[0]})
    # The larger id first: object 2 now has index 0 in the model.
    run_order = segment(frames, {0: swapped_ids[0]})
    for a, b in zip(plain, run_order, strict=True):
        np.testing.assert_allclose(a.prob[[0, 2, 1]], b.prob, atol=2e-5)


def test_scan_equals_streaming(params, segment):
    frames, ids = tiny.video(4)
    streamed = segment(frames, {0: ids[0]})
    model = tiny.model()
    prompts = jax.tree.map(lambda x: jnp.stack([x] * 4), state_lib.no_prompt(4, SIZE))
    masks = np.zeros((4, *SIZE), np.float32)
    masks[0], masks[1] = ids[0] == 1, ids[0] == 2
    prompts = prompts.replace(mask=prompts.mask.at[0].set(masks), given=prompts.given.at[0, :2].set(True))
    state = state_lib.init_state(model, 4, SIZE, SIZE)
    run = jax.jit(functools.partial(step_lib.scan, model))
    prob = run(params, state, jnp.asarray(frames), prompts)[1].prob
    for t in range(1, 4):
        full = jax.image.resize(prob[t, :3], (3, *SIZE), "bilinear")
        np.testing.assert_allclose(streamed[t].prob, full, atol=2e-5)


@pytest.fixture(scope="module")
def remembered(params):
    """A state with two objects in memory, in capacity 2 and grown to 4, and the next frame encoded."""
    model = tiny.model()
    frames, ids = tiny.video(3)

    @jax.jit
    def run(params, frames, masks):
        state = state_lib.init_state(model, 2, SIZE, SIZE)
        prompt = state_lib.no_prompt(2, SIZE).replace(mask=masks, given=jnp.ones(2, bool))
        state, _ = step_lib.step(model, params, state, frames[0], prompt)
        return state, model.encode(params, frames[1], state.frame_size)

    masks = jnp.stack([ids[0] == 1, ids[0] == 2]).astype(jnp.float32)
    state, encoded = run(params, jnp.asarray(frames), masks)
    return state, state_lib.grow(state, 4), encoded


def made_proposals(count, capacity):
    """`count` real proposals in `capacity` places; what fills the rest is large and invalid."""
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 30, (count, 2))
    boxes = np.full((capacity, 4), 7.0, np.float32)
    boxes[:count] = np.concatenate([corner, corner + rng.uniform(10, 30, (count, 2))], axis=1)
    masks = np.ones((capacity, 16, 16), np.float32)
    masks[:count] = rng.uniform(size=(count, 16, 16)) > 0.5
    scores = np.ones(capacity, np.float32)
    valid = np.arange(capacity) < count
    return proposals.Proposals(*map(jnp.asarray, (boxes, scores, masks, valid)))


@pytest.mark.parametrize(
    "match",
    [pytest.param(m, marks=() if m in ("greedy", "pgd") else pytest.mark.slow) for m in matching.MATCHINGS],
)
def test_padding_objects_and_proposals_changes_nothing(params, remembered, match):
    small_state, large_state, encoded = remembered
    model = tiny.model(
        matching=match,
        proposals=tiny.NO_NETWORK,
        read=read.ReadConfig(affinity="dot", search_radius=0.0),
    )
    track = jax.jit(model.track)
    small = track(params, encoded.replace(proposals=made_proposals(5, 5)), small_state)
    large = track(params, encoded.replace(proposals=made_proposals(5, 12)), large_state)
    np.testing.assert_allclose(small.prob, large.prob[:2], atol=1e-5)
    np.testing.assert_allclose(small.presence, large.presence[:2], atol=1e-5)
    columns = [*range(5), 12, 13]  # the real ones, then the two propagated masks
    np.testing.assert_allclose(
        small.out.match.similarity, large.out.match.similarity[:2][:, columns], atol=1e-5
    )
    wanted, found = small.out.match.assignment[:, :-1], large.out.match.assignment[:2][:, columns]
    np.testing.assert_allclose(wanted, found, atol=1e-5)


def test_bfloat16_agrees_with_float32(params, remembered):
    """Within 0.06 of probability at 99 % of pixels; matching may choose another of two equal proposals."""
    state, _, encoded = remembered
    exact = jax.jit(tiny.model().track)(params, encoded, state).prob
    model = tiny.model(dtype="bfloat16")
    memory = state.memory
    memory = memory.replace(
        key=memory.key.astype(jnp.bfloat16),
        embed=memory.embed.astype(jnp.bfloat16),
        value=memory.value.astype(jnp.bfloat16),
    )
    encoded = encoded.replace(
        key=encoded.key.astype(jnp.bfloat16),
        embed=encoded.embed.astype(jnp.bfloat16),
        features=jax.tree.map(lambda x: x.astype(jnp.bfloat16), encoded.features),
    )
    rounded = jax.jit(model.track)(params, encoded, state.replace(memory=memory)).prob
    assert rounded.dtype == jnp.float32
    assert np.quantile(np.abs(np.asarray(exact - rounded)), 0.99) < 0.06


def test_an_alignment_of_ones_own_needs_no_edit_of_the_package(params, remembered):
    """docs/experiments.md: any callable of the signature is a config value."""

    def best_location(template, weights, proposal):
        similarity = template @ proposal.T
        attention = jax.nn.one_hot(jnp.argmax(similarity, axis=-1), proposal.shape[0])
        score = jnp.sum(weights * jnp.max(similarity, axis=-1)) / jnp.maximum(jnp.sum(weights), 1e-6)
        return score, attention @ proposal, attention

    state, _, encoded = remembered
    model = tiny.model(alignment=best_location)
    own = jax.jit(model.track)(params, encoded, state)
    assert np.all(np.isfinite(own.prob)) and own.out.match.attention.shape[-1] == 25


def test_an_object_matched_to_nothing_is_absent(params, remembered):
    """A null cost below every other sends all objects to their null columns."""
    state, _, encoded = remembered
    certain = {**params, "matcher": {**params["matcher"], "null_cost": jnp.asarray(-5.0)}}
    prediction = jax.jit(tiny.model().track)(certain, encoded, state)
    np.testing.assert_allclose(prediction.presence, 0.0, atol=1e-5)
    assert not np.any(prediction.out.coarse)
