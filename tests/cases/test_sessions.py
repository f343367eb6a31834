"""Cases C01, C11 and C26: several videos at once, and JAX settings of the caller's session."""

import logging
import threading

import jax
import numpy as np
import pytest

import vos_jax
from tests.inference.coloured import make_engine, make_video
from vos_jax import api, devices, errors
from vos_jax.inference import session

FRAMES, IDS = make_video()


@pytest.fixture(scope="module")
def engine():
    return make_engine(editable=True)


@pytest.fixture(scope="module")
def plain():
    """An engine whose states are donated to the next step."""
    return make_engine()


def videos():
    other = FRAMES[::-1].copy(), {0: IDS[-1]}
    return (FRAMES, {0: IDS[0], 2: IDS[2]}), other


def masks(results):
    return [result.ids.copy() for result in results]


@pytest.fixture(scope="module")
def alone(engine):
    return [masks(session.Session(engine).run(*video)) for video in videos()]


# ---------------------------------------------------------------- C01
@pytest.mark.parametrize("editable", [True, False])
def test_c01_two_videos_in_a_zip_have_their_own_masks(engine, plain, alone, editable):
    used = engine if editable else plain
    runs = [session.Session(used).run(*video) for video in videos()]
    found = [masks(x) for x in zip(*zip(*runs, strict=True), strict=True)]
    np.testing.assert_array_equal(found, alone)


def test_c01_two_videos_in_threads_have_their_own_masks(plain, alone):
    barrier, found = threading.Barrier(2), [[], []]

    def run(number):
        results = session.Session(plain).run(*videos()[number])
        for _ in range(len(FRAMES)):
            barrier.wait()
            found[number].append(next(results).ids.copy())

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    _ = [thread.start() for thread in threads], [thread.join() for thread in threads]
    np.testing.assert_array_equal(found, alone)


def test_c01_frame_by_frame_and_with_edits_in_between(engine, alone):
    first, second = session.Session(engine), session.Session(engine)
    for index in range(len(FRAMES)):
        ids = first.step(FRAMES[index], {0: IDS[0], 2: IDS[2]}.get(index)).ids
        second.step(FRAMES[-1 - index], IDS[-1] if index == 0 else None)
        second.edit(IDS[-1 - index])
        np.testing.assert_array_equal(ids, alone[0][index])


def test_c01_a_restored_session_leaves_the_first_one_alone(engine, alone):
    first = session.Session(engine)
    early = masks(first.run(FRAMES[:3], videos()[0][1]))
    copy = session.Session.restore(engine, first.snapshot())
    masks(copy.run(FRAMES[:2]))
    np.testing.assert_array_equal(early + masks(first.run(FRAMES[3:])), alone[0])


def test_c01_two_runs_of_one_session_are_refused(engine):
    one = session.Session(engine)
    first = one.run(*videos()[0])
    next(first)
    second = one.run(videos()[1][0])
    next(second)
    with pytest.raises(errors.VosError, match="began another run.*make a Session for each video"):
        next(first)
    assert len(masks(second)) == len(FRAMES) - 1


def test_c01_a_video_left_halfway_goes_on_with_a_second_run(engine, alone):
    one = session.Session(engine)
    first = one.run(*videos()[0])
    early = [next(first).ids for _ in range(4)]
    np.testing.assert_array_equal(early + masks(one.run(FRAMES[4:])), alone[0])


# ---------------------------------------------------------------- C11 and C26
def work(used):
    """Everything that a user's session does with JAX."""
    one = session.Session(used)
    found = masks(one.run(FRAMES[:3], videos()[0][1], soft=True))
    prob = one.probabilities()[3]
    found.append(one.edit(vos_jax.Prompt(ids=IDS[2], remove={7})).ids)
    assert prob.dtype == np.float32 and one.result is not None and one.result.prob.dtype == np.float32
    one.inspect(FRAMES[3])
    found.append(one.step(FRAMES[3]).ids)
    return found


@pytest.mark.parametrize("settings", [{}, {"scales": (1.0, 0.7)}, {"flip": True}])
def test_c11_x64_changes_nothing(settings):
    expected = work(make_engine(editable=True, **settings))
    with jax.enable_x64(True):
        found = work(make_engine(editable=True, **settings))
        assert jax.numpy.zeros(2).dtype == np.float64, "the caller's own setting stays"
    np.testing.assert_array_equal(found, expected)


def test_c11_a_shared_engine_in_and_out_of_x64(engine):
    expected = work(engine)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(work(engine), expected)
    np.testing.assert_array_equal(work(engine), expected)


def test_c11_programs_compute_in_float32(monkeypatch):
    monkeypatch.setenv(devices.CACHE_VARIABLE, "off")
    with jax.enable_x64(False):
        pass
    before = jax.config.jax_enable_x64
    try:
        jax.config.update("jax_enable_x64", True)
        devices.choose(None)
        assert not jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.mark.slow
def test_c26_a_session_runs_op_by_op(engine):
    one, expected = session.Session(engine), None
    seen = []
    model_track = type(engine.model).track

    def track(self, *arguments, **options):
        found = model_track(self, *arguments, **options)
        seen.append(np.asarray(found.prob))  # a value, not a tracer
        return found

    expected = [result.ids for result in session.Session(engine).run(FRAMES[:2], {0: IDS[0]})]
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        patch.setattr(type(engine.model), "track", track)
        found = [result.ids for result in one.run(FRAMES[:2], {0: IDS[0]})]
    assert len(seen) == 2
    assert np.mean(np.asarray(found) == np.asarray(expected)) > 0.999


# ---------------------------------------------------------------- the cache, and what is compiled
def test_the_python_api_uses_the_cache_and_logs_compilations(monkeypatch, caplog):
    used = []
    monkeypatch.setattr(devices, "cache_programs", lambda: used.append(True))
    monkeypatch.setattr(api, "make_engine", lambda config, editable: make_engine(editable=editable))
    with caplog.at_level(logging.INFO, "vos_jax"):
        next(session.Session(vos_jax.load("training_free")).run(FRAMES, {0: IDS[0]}))
    assert used and [r.message for r in caplog.records if "compil" in r.message] != []
    assert "compiling the step for frames of 64x96 and 1 object(s)" in caplog.text


@pytest.mark.parametrize("own", [True, False])
def test_the_log_is_shown_where_nobody_set_up_another(monkeypatch, own):
    package = logging.getLogger("vos_jax")
    monkeypatch.setattr(package, "handlers", [])
    monkeypatch.setattr(package, "level", logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()] if own else [])
    api._show_log()
    assert bool(package.handlers) != own
