"""The long-term memory in a whole video: what only evicted frames showed is found when it comes back."""

import colorsys
import dataclasses

import jax
import numpy as np
import pytest

from tests.inference import coloured
from vos_jax.evaluation import davis
from vos_jax.inference import session as session_lib
from vos_jax.inference import session_file
from vos_jax.models import training_free

SIZE, STEPS, AWAY, BACK = (32, 48), 20, 20, 3


def chameleon():
    """A square turns from red to blue, is away, and comes back green, as half-way; frames and truth."""
    turns = [index / STEPS for index in range(STEPS + 1)] + [None] * AWAY + [0.5] * BACK
    frames = np.full((len(turns), *SIZE, 3), 40, np.uint8)
    truth = np.zeros((len(turns), *SIZE), bool)
    for frame, mask, turn in zip(frames, truth, turns, strict=True):
        if turn is not None:
            frame[8:24, 16:32] = np.round(255 * np.array(colorsys.hsv_to_rgb(turn * 2 / 3, 0.9, 0.95)))
            mask[8:24, 16:32] = True
    return frames, truth


def make_engine(eviction):
    model = coloured.make_model(4)
    memory = dataclasses.replace(model.config.memory, eviction=eviction)
    config = dataclasses.replace(model.config, memory=memory)
    return coloured.make_engine(training_free.TrainingFree(config=config), object_buckets=(1, 2))


@pytest.mark.parametrize("eviction", ["fifo", "consolidate"])
def test_an_object_that_comes_back_as_evicted_frames_knew_it(eviction):
    frames, truth = chameleon()
    engine = make_engine(eviction)
    found = [result.ids == 1 for result in session_lib.Session(engine).run(frames, {0: truth[0]})]
    together = [davis.region_similarity(b, a) for a, b in zip(found, truth, strict=True)]
    assert min(together[: STEPS + 1]) > 0.7, "followed while it turns, by either"
    assert not np.any(found[STEPS + 1 : STEPS + 1 + AWAY])
    if eviction == "fifo":
        assert max(together[-BACK:]) < 0.1, "else this would show nothing"
    else:
        assert min(together[-BACK:]) > 0.7
    assert engine.compilations == 1


def test_a_state_with_a_long_term_grows_and_is_saved(tmp_path):
    frames, truth = chameleon()
    engine = make_engine("consolidate")
    session = session_lib.Session(engine)
    for index in range(STEPS):
        session.step(frames[index], truth[0] if index == 0 else None)
    assert np.any(session.snapshot().states[0].memory.prototype_usage > 0)
    session_file.save(tmp_path / "state", session)
    resumed = session_file.load(tmp_path / "state", engine)
    jax.tree.map(np.testing.assert_array_equal, resumed.snapshot().states, session.snapshot().states)
    other = np.zeros(SIZE, np.uint8)
    other[26:30, 2:6] = 9
    for one in (session, resumed):
        one.step(frames[STEPS], other)
    (state,) = session.snapshot().states
    assert state.object_valid.size == 2
    jax.tree.map(np.testing.assert_array_equal, resumed.snapshot().states, session.snapshot().states)
    assert list(np.asarray(state.memory.object_in_slot[:, -1])) == [True, False]
