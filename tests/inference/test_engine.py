"""The step and the engine, on a training-free model whose features are pooled colours."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference.coloured import iou, make_engine, make_model, make_video
from vos_jax import errors
from vos_jax.data import prompts
from vos_jax.inference import session as session_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib


def run(engine, frames, prompts, **options):
    return list(session_lib.Session(engine).run(frames, prompts, **options))


def test_follows_objects_that_come_late_under_the_users_ids():
    frames, ids = make_video()
    results = run(make_engine(), frames, {0: ids[0], 2: np.where(ids[2] == 7, ids[2], 0).astype(np.uint8)})
    for t, result in enumerate(results):
        assert result.ids.dtype == np.uint8 and result.ids.shape == ids[t].shape
        assert set(np.unique(result.ids)) == set(np.unique(ids[t]))
        for i in set(np.unique(ids[t])) - {0}:
            assert iou(result.ids == i, ids[t] == i) > 0.7, (t, i)
            assert result.presence[int(i)] > 0.5
    np.testing.assert_array_equal(results[0].ids, ids[0], err_msg="a given mask comes back to the pixel")
    assert results[1].presence == {3: pytest.approx(1.0, abs=0.05)}, "7 is unknown before it is given"


def test_compiles_once_per_padded_size_and_bucket(caplog):
    frames, ids = make_video()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        engine = make_engine()
        for size in ((50, 70), (64, 96), (40, 68)):  # all padded to 64 x 96
            run(engine, *(lambda f, i: (f, {0: i[0]}))(*make_video(size)))
        assert engine.compilations == 1
        run(engine, frames, {0: ids[0], 2: ids[2]})  # two objects: the next bucket
        assert engine.compilations == 2
        run(engine, *(lambda f, i: (f, {0: i[0]}))(*make_video((70, 100))))  # 96 x 128
        assert engine.compilations == 3
    steps = [r for r in caplog.records if r.getMessage().startswith("Finished XLA compilation of jit(step)")]
    assert len(steps) == 3, "what the counter says is what XLA did"


def test_scan_equals_streaming():
    frames, ids = make_video((64, 96))
    model = make_model()
    streamed = run(make_engine(model), frames, {0: ids[0]}, soft=True)
    stacked = jax.tree.map(lambda x: jnp.stack([x] * len(frames)), state_lib.no_prompt(1, (64, 96)))
    mask, given = stacked.mask.at[0, 0].set(ids[0] > 0), stacked.given.at[0, 0].set(True)
    stacked = stacked.replace(mask=mask, given=given)
    state = state_lib.init_state(model, 1, (64, 96), (64, 96))
    final, output = step_lib.scan(model, {}, state, jnp.asarray(frames), stacked)
    prob = output.prob
    assert int(final.frame_index) == len(frames)
    for t in range(1, len(frames)):
        full = jax.image.resize(prob[t], (2, 64, 96), "bilinear")
        np.testing.assert_allclose(streamed[t].prob, full, atol=1e-5)
        np.testing.assert_allclose(streamed[t].prob.sum(axis=0), 1.0, atol=1e-5)


def test_a_larger_bucket_and_more_padding_change_nothing():
    frames, ids = make_video()
    small = run(make_engine(), frames, {0: ids[0]})
    large = run(make_engine(object_buckets=(4,)), frames, {0: ids[0]})
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)


def test_objects_are_removed_corrected_and_their_place_is_used_again():
    frames, ids = make_video()
    one = session_lib.Session(make_engine(), frames.shape[1:3])
    one.step(frames[0], ids[0])
    gone = one.step(frames[1], prompts.Prompt(remove={3}))
    assert not np.any(gone.ids) and gone.presence == {}
    both = np.where(ids[2] == 3, 9, ids[2]).astype(np.uint8)
    back = one.step(frames[2], both)
    np.testing.assert_array_equal(back.ids, both)
    assert set(back.presence) == {7, 9} and one.snapshot().states[0].object_valid.shape == (2,)
    corrected = np.where(ids[3] == 3, 9, 0).astype(np.uint8)
    result = one.step(frames[3], corrected)
    assert iou(result.ids == 9, ids[3] == 3) == 1.0 and iou(result.ids == 7, ids[3] == 7) > 0.7


def test_permuting_objects_permutes_masks():
    frames, ids = make_video()
    ids, frames = ids[2:], frames[2:]
    swap = np.zeros(256, np.uint8)
    swap[[3, 7]] = 7, 3
    plain = run(make_engine(), frames, {0: ids[0]})
    swapped = run(make_engine(), frames, {0: swap[ids[0]]})
    for a, b in zip(plain, swapped, strict=True):
        np.testing.assert_array_equal(swap[a.ids], b.ids)


def test_memory_stays_bounded_and_the_step_does_not_change_with_time():
    frames, ids = make_video(length=3)
    engine = make_engine()
    one = session_lib.Session(engine, frames.shape[1:3])
    shapes = None
    for t in range(40):
        one.step(frames[t % 3], ids[0] if t == 0 else None)
        now = jax.tree.map(lambda x: (x.shape, x.dtype), one.snapshot().states)
        assert shapes is None or shapes == now
        shapes = now
    assert engine.compilations == 1 and one.index == 40


def test_wrong_input_is_refused_by_name_and_leaves_the_session_as_it_was():
    frames, ids = make_video()
    engine = make_engine(object_buckets=(1, 2))
    with pytest.raises(errors.VosError, match="no prompt holds an object"):
        run(engine, frames, {0: np.zeros_like(ids[0])})
    many = np.arange(50, dtype=np.uint8)[:, None].repeat(70, 1)
    with pytest.raises(errors.VosError, match="49 objects at once; at most 2"):
        run(engine, frames, {0: many})
    late = {t: np.full_like(ids[0], t + 1) for t in range(3)}
    with pytest.raises(errors.VosError, match="object 3 in frame 2.*model.memory.capacity to 5"):
        run(make_engine(), frames, late)
    one = session_lib.Session(engine, frames.shape[1:3])
    one.step(frames[0], ids[0])
    before = jax.tree.map(np.asarray, one.snapshot().states)
    for wrong, match in (
        (dict(frame=frames[1][:-1]), "frame 1 is 70x49"),
        (dict(frame=frames[1], prompt=ids[0][:, :-1]), "mask for frame 1 is 69x50"),
        (dict(frame=frames[1], prompt=prompts.Prompt(remove={4})), "object 4 cannot be removed"),
        (dict(frame=frames[1], prompt=many), "objects at once"),
    ):
        with pytest.raises(errors.VosError, match=match):
            one.step(**wrong)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, one.snapshot().states))
    assert one.objects == (3,)
