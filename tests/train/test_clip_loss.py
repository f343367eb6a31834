"""The loss of a batch of clips on a tiny model.

One program is compiled; most tests only give it other clips.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vos_jax import errors
from vos_jax.train import clip_loss, corruption, losses

SAMPLED = 100  # from this step on, previous masks are predictions now and then
CONFIG = clip_loss.ClipLossConfig(
    unroll=False,  # compiles in half the time
    correspondence=0.5,
    hard_begin=0,
    hard_end=100,
    sampling_begin=SAMPLED,
    sampling_prob=0.5,
    oracle_prob=1.0,
    oracle_end=10,
)
# Within the windows in which the oracle proposes, and in which nothing is drawn.
ORACLE, PLAIN = 0, 50


@pytest.fixture(scope="module")
def params():
    out = tiny.params()
    # RefineNet starts at zero, by which it would hide all that goes into it.
    kernel = out["refine"]["logit"]["kernel"]
    out["refine"]["logit"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(1), kernel.shape)
    return out


@pytest.fixture(scope="module")
def run(params):
    """`run(batch, step, key=0, params=params) -> (gradients, metrics)` of two clips, compiled once."""
    loss_fn = clip_loss.make_loss_fn(tiny.model(), CONFIG)
    compute = jax.jit(jax.grad(loss_fn, has_aux=True))
    given = params

    def run(batch, step=PLAIN, key=0, params=None):
        batch = {"clip": np.arange(2, dtype=np.int32), **batch}
        out = compute(given if params is None else params, batch, jax.random.key(key), jnp.int32(step))
        gradients, metrics = jax.device_get(out)
        return gradients, {name: float(x) for name, x in metrics.items()}

    return run


def close(a, b, tolerance=1e-5):
    """Returns True if two trees differ by at most `tolerance` of the whole tree's norm."""
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(a)))
    return all(
        np.abs(x - y).max() <= tolerance * norm
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_every_term_and_every_parameter_takes_part(run):
    gradients, metrics = run(tiny.batch())
    others = {"loss", "j", "j_coarse", "j_propagated", "correspondence_accuracy"}
    assert {*losses.TERMS, *others} == set(metrics)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((gradients, metrics)))
    assert metrics["loss"] == pytest.approx(losses.total(metrics, CONFIG), rel=1e-5)
    paths = jax.tree_util.tree_leaves_with_path(gradients)
    still = [jax.tree_util.keystr(path) for path, x in paths if not np.any(x)]
    assert not still, f"no gradient reaches {still}"


def test_the_batch_is_the_mean_of_its_clips(run):
    batch = tiny.batch()
    batch["object_valid"][1, 1] = False  # clips of unlike size count alike
    batch["truth_valid"][1, 2] = False

    def only(index):
        same = {name: np.stack([x[index]] * 2) for name, x in batch.items()}
        return run({**same, "clip": np.full(2, index, np.int32)}, SAMPLED)

    both = run(batch, SAMPLED)
    halves = jax.tree.map(lambda a, b: (a + b) / 2, only(0), only(1))
    assert close(both[0], halves[0])
    for name, value in both[1].items():
        assert value == pytest.approx(halves[1][name], rel=1e-4, abs=1e-6), name


def test_what_is_padding_changes_nothing(run):
    """Frames that are not valid, pixels of frames without truth, ids of objects that are not valid."""
    batch = tiny.batch()
    batch["object_valid"][1, 1] = False
    batch["frame_valid"][0, 2] = False
    batch["truth_valid"][0, 2] = False
    batch["truth_valid"][1, 1] = False
    expected = run(batch, SAMPLED)

    spoiled = {name: x.copy() for name, x in batch.items()}
    rng = np.random.default_rng(3)
    spoiled["frames"][0, 2] = rng.integers(0, 255, (64, 64, 3))
    spoiled["ids"][0, 2] = rng.integers(0, 3, (64, 64))
    spoiled["origins"][0, 2] = spoiled["origins"][0, 0]
    spoiled["instances"][0, 2] = spoiled["instances"][1, 1] = 1
    spoiled["ids"][1, 1] = rng.integers(0, 3, (64, 64))
    spoiled["ids"][1] = np.where(spoiled["ids"][1] == 2, 7, spoiled["ids"][1])
    found = run(spoiled, SAMPLED)
    for name, value in expected[1].items():
        assert found[1][name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    assert close(expected[0], found[0])


def test_clips_without_anything_to_learn_from_give_zero_and_no_nan(run):
    batch = tiny.batch()
    batch["ids"][0] = 0  # the objects have vanished, frame 0 included
    batch["truth_valid"][1, 1:] = False
    gradients, metrics = run(batch)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((gradients, metrics)))
    for name in ("match", "coarse_iou", "refined_ce", "refined_iou"):
        assert metrics[name] == 0, name


def test_unknown_origins_give_no_correspondence_and_no_nan(run):
    batch = tiny.batch()
    known = run(batch)[1]
    batch["origins"][:] = -1
    gradients, metrics = run(batch)
    assert metrics["correspondence"] == metrics["correspondence_accuracy"] == 0 < known["correspondence"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((gradients, metrics)))
    rest = known["loss"] - CONFIG.correspondence * known["correspondence"]
    assert metrics["loss"] == pytest.approx(rest, rel=1e-5)


def test_correspondence_is_computed_only_where_it_has_a_weight(params):
    def names(weight):
        config = dataclasses.replace(CONFIG, correspondence=weight)
        loss_fn = clip_loss.make_loss_fn(tiny.model(), config)
        return set(jax.eval_shape(loss_fn, params, tiny.batch(), jax.random.key(0), jnp.int32(PLAIN))[1])

    assert names(0.1) - names(0.0) == {"correspondence", "correspondence_accuracy"}


def test_an_object_that_the_first_frame_does_not_show_is_not_asked_for(run):
    batch = tiny.batch()
    batch["ids"][:, 0][batch["ids"][:, 0] == 2] = 0
    late = run(batch)[1]
    batch["object_valid"][:, 1] = False
    assert late == pytest.approx(run(batch)[1], rel=1e-5)


def test_instances_that_nobody_follows_teach_the_proposal_network_only(run):
    batch = tiny.batch()
    batch["object_valid"][:, 1] = False
    both = run(batch)[1]
    batch["instances"][batch["instances"] == 2] = 0
    one = run(batch)[1]
    of_proposals = {"objectness", "centerness", "box", "mask_bce", "mask_dice", "loss"}
    for name, value in both.items():
        if name not in of_proposals:
            assert one[name] == pytest.approx(value, rel=1e-5), name
    assert both["objectness"] != pytest.approx(one["objectness"], rel=1e-3)
    batch["exhaustive"][:] = False
    assert all(np.isfinite(value) for value in run(batch)[1].values())


def test_randomness_is_by_step_and_clip(run):
    batch = tiny.batch()
    metrics = [run(batch, SAMPLED + index)[1] for index in range(4)]
    # Predictions come in from `sampling_begin` on, in some clips; nothing else depends on the step then.
    assert len({float(m["refined_ce"]) for m in metrics}) > 1
    again = run(batch, SAMPLED)[1]
    assert again == metrics[0]
    keys = {float(run(batch, SAMPLED, key=key)[1]["refined_ce"]) for key in range(4)}
    assert len(keys) > 1
    # Before, the previous mask is the true one, and the key decides nothing.
    assert run(batch, PLAIN, key=1)[1] == run(batch, PLAIN, key=2)[1]


def test_the_oracle_proposes_early_in_training(run):
    batch = tiny.batch()
    # Its proposals overlap the truth, which those of an untrained network hardly do.
    oracle, network = (run(batch, at)[1] for at in (ORACLE, PLAIN))
    assert oracle["coarse_iou"] < network["coarse_iou"] - 0.1
    assert run(batch, ORACLE, key=1)[1]["match"] != run(batch, ORACLE, key=2)[1]["match"]


def test_the_loss_can_be_learned(run, params):
    batch = tiny.batch()
    first = None
    for _ in range(12):
        gradients, metrics = run(batch, params=params)
        first = first or metrics
        norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(gradients)))
        rate = 0.1 / max(norm, 1.0)
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, gradients)
    assert metrics["loss"] < 0.9 * first["loss"]
    assert metrics["refined_ce"] < first["refined_ce"]


def kept(config, model, frozen=()):
    """Returns how many numbers the gradient of two clips keeps of the forward pass, by shape alone."""
    loss_fn = clip_loss.make_loss_fn(model, config, frozen)
    shapes = jax.eval_shape(functools.partial(model.init, jax.random.key(0)))
    batch = tiny.batch()

    def back(params):
        return jax.vjp(lambda p: loss_fn(p, batch, jax.random.key(0), jnp.int32(0))[0], params)[1]

    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(back, shapes)))


@pytest.mark.slow
def test_frozen_backbones_and_rematerialised_and_burn_in_frames_keep_less():
    model = tiny.model(proposals=tiny.NO_NETWORK)
    everything = kept(clip_loss.ClipLossConfig(unroll=False), model)
    frozen = kept(clip_loss.ClipLossConfig(unroll=False), model, ("backbone",))
    remat = kept(clip_loss.ClipLossConfig(remat=True, unroll=False), model)
    # At least the input of each of the backbone's layers but the first is not kept: 2 clips of 3 frames.
    assert frozen < everything - 2 * 3 * (16 * 16 * 8 + 8 * 8 * 12 + 4 * 4 * 16)
    assert remat < 0.6 * everything
    # Of two predicted frames one is left, beside the first frame, which is only written.
    assert kept(clip_loss.ClipLossConfig(unroll=False, burn_in=1), model) < 0.75 * everything


@pytest.mark.slow
def test_neither_rematerialising_nor_loops_change_a_gradient(params):
    model = tiny.model()

    def gradients(config):
        compute = jax.jit(jax.grad(clip_loss.make_loss_fn(model, config), has_aux=True))
        return jax.device_get(compute(params, tiny.batch(), jax.random.key(0), jnp.int32(0)))[0]

    expected = gradients(clip_loss.ClipLossConfig())
    for change in ({"unroll": False}, {"remat": True}, {"remat": True, "unroll": False}):
        assert close(expected, gradients(clip_loss.ClipLossConfig(**change))), change


def test_values_out_of_range_are_refused_by_name():
    for bad in ({"sampling_prob": 1.5}, {"oracle_prob": -0.1}, {"sampling_begin": -1}, {"oracle_end": -5}):
        with pytest.raises(errors.VosError, match=next(iter(bad))):
            clip_loss.ClipLossConfig(**bad)


@pytest.mark.slow
def test_burn_in_frames_are_remembered_but_have_no_loss_and_no_gradient(run, params):
    burned = dataclasses.replace(CONFIG, burn_in=1)
    compute = jax.jit(jax.grad(clip_loss.make_loss_fn(tiny.model(), burned), has_aux=True))
    batch = {"clip": np.arange(2, dtype=np.int32), **tiny.batch()}
    batch["truth_valid"][:, 1] = False
    gradients, metrics = jax.device_get(compute(params, batch, jax.random.key(0), jnp.int32(PLAIN)))
    with_gradient = run(batch)
    # Without truth frame 1 has no loss either way: the values agree, the gradients do not.
    for name in ("refined_ce", "refined_iou", "coarse_iou", "match"):
        assert float(metrics[name]) == pytest.approx(with_gradient[1][name], rel=1e-4), name
    assert not close(with_gradient[0]["value_encoder"], gradients["value_encoder"])
    assert any(np.any(x) for x in jax.tree.leaves(gradients["value_encoder"]))


@pytest.mark.slow
def test_corrupted_memories_change_what_later_frames_say(run, params):
    wrong = dataclasses.replace(CONFIG, corruption=corruption.CorruptionConfig(take=1.0, lose=1.0))
    compute = jax.jit(clip_loss.make_loss_fn(tiny.model(), wrong))
    batch = {"clip": np.arange(2, dtype=np.int32), **tiny.batch()}
    metrics = jax.device_get(compute(params, batch, jax.random.key(0), jnp.int32(PLAIN)))[1]
    assert float(metrics["refined_ce"]) != pytest.approx(run(batch)[1]["refined_ce"], rel=1e-4)


def test_burn_in_that_leaves_no_frame_to_learn_from_is_refused(params):
    loss_fn = clip_loss.make_loss_fn(tiny.model(), dataclasses.replace(CONFIG, burn_in=2))
    with pytest.raises(errors.VosError, match="burn_in is 2, and clips have 3 frames"):
        jax.eval_shape(loss_fn, params, tiny.batch(), jax.random.key(0), jnp.int32(PLAIN))
