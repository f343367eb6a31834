"""Engines that run ahead: the same results, one frame in flight, and states that fit the masks on disk."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests import layouts
from tests.inference.coloured import make_engine, make_video
from vos_jax import errors
from vos_jax.data.prompts import Prompt
from vos_jax.inference import (
    propagate,
    result_store,
    segment_video,
    session_file,
    state_files,
    video_results,
)
from vos_jax.inference import session as session_lib

FRAMES, IDS = make_video()


@dataclasses.dataclass
class Frames:
    """The frames as a `video.FrameSource`; they end with an error before frame `broken`."""

    broken: int | None = None
    name, size, num_frames = "coloured", IDS.shape[1:], len(FRAMES)

    def mask_name(self, index):
        return f"{index:05d}"

    def frames(self, start=0, *, reverse=False):
        for index in range(start, -1, -1) if reverse else range(start, len(FRAMES)):
            if index == self.broken:
                raise errors.VosError(f"frame {index} is broken")
            yield FRAMES[index]


def run(ahead, prompts, *, soft=False, **settings):
    engine = make_engine(**settings)
    engine.runs_ahead = ahead
    return list(propagate.propagate(engine, Frames(), prompts, soft=soft)), engine.seconds


LATE = {0: layouts.only(IDS[0], 3), 2: layouts.only(IDS[2], 7)}


@pytest.mark.parametrize(
    ("prompts", "settings"),
    [
        (LATE, {}),
        (LATE, {"soft": True}),
        ({**LATE, 4: Prompt(IDS[4], remove={3})}, {"soft": True}),
        (LATE, {"scales": (1.0, 0.75), "flip": True}),
        (LATE, {"min_size": 60, "soft": True}),
        ({3: IDS[3]}, {"direction": "backward"}),
        ({1: layouts.only(IDS[1], 3), 4: layouts.only(IDS[4], 7)}, {"direction": "both"}),
    ],
)
def test_results_are_the_same_bit_for_bit(prompts, settings):
    plain, _ = run(False, prompts, **settings)
    ahead, seconds = run(True, prompts, **settings)
    assert [a.index for a in plain] == [b.index for b in ahead] and len(ahead) == len(FRAMES)
    for a, b in zip(plain, ahead, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        assert a.presence == b.presence and (a.prob is None) == (b.prob is None)
        if a.prob is not None:
            np.testing.assert_array_equal(a.prob, b.prob)
    assert seconds["inference"] > 0 and seconds["compile"] > 0


def events(engine, **options):
    """Begins of frames and the results that `propagate` yields, in their order."""
    session, noted = session_lib.Session(engine, Frames.size, LATE), []
    dispatch = session.dispatch

    def begin(*args, **kwargs):
        noted.append(("begin", session.index))
        return dispatch(*args, **kwargs)

    session.dispatch = begin
    for result in propagate.propagate(engine, Frames(), LATE, session=session, **options):
        noted.append(("result", result.index))
    return noted


def test_a_frame_begins_before_the_result_of_the_one_before_is_taken():
    engine = make_engine()
    in_turn = [(kind, t) for t in range(6) for kind in ("begin", "result")]
    assert not engine.runs_ahead and events(engine) == in_turn, "on a CPU both would share the cores"
    engine.runs_ahead = True
    begins = [("begin", t) for t in range(6)]
    results = [("result", t) for t in range(6)]
    assert events(engine) == [begins[0], *sum(zip(begins[1:], results[:-1], strict=True), ()), results[-1]]
    asked = itertools.count(1)  # in frame 0 for the first time
    held = events(engine, hold=lambda: next(asked) == 3)
    assert held.index(("result", 2)) < held.index(("begin", 3))
    assert held.index(("begin", 5)) < held.index(("result", 4))


def test_an_error_comes_after_the_results_before_it():
    engine = make_engine()
    engine.runs_ahead = True
    found = []
    with pytest.raises(errors.VosError, match="frame 4 is broken"):
        for result in propagate.propagate(engine, Frames(broken=4), LATE):
            found.append(result.index)
    assert found == [0, 1, 2, 3]
    wrong = {**LATE, 3: Prompt(remove={9})}
    found = []
    with pytest.raises(errors.VosError, match="object 9 cannot be removed"):
        for result in propagate.propagate(engine, Frames(), wrong):
            found.append(result.index)
    assert found == [0, 1, 2]


def test_saved_states_know_no_frame_whose_mask_is_not_written(tmp_path, monkeypatch):
    """Killed anywhere, a run goes on to the masks of an uninterrupted one."""

    def is_due(self):
        return self.frames >= 2 + max(map(state_files.index_of, self._states.paths()), default=0)

    monkeypatch.setattr(video_results.VideoResults, "is_due", is_due)
    engine = make_engine()
    engine.runs_ahead = True
    through = [result.ids for result in propagate.propagate(engine, Frames(), LATE)]
    for last in range(len(FRAMES) - 1):
        with result_store.ResultStore(tmp_path / f"{last}", {}) as store:
            results = store.video(Frames(), correctable=True)
            for result in segment_video.segment_video(engine, Frames(), LATE, results):
                if result.index == last:
                    break
        states = sorted((store.folder / ".states").glob("*.safetensors"))
        # Nothing is in flight at a save, so all frames before a state have their masks.
        saved = [session_file.load(path, engine).index for path in states]
        assert saved == list(range(3, last + 2, 3))
        with result_store.ResultStore(store.folder, {}) as store:
            results = store.video(Frames(), correctable=True)
            rest = [r.index for r in segment_video.segment_video(engine, Frames(), LATE, results)]
            assert rest == list(range(max(saved, default=0), len(FRAMES))) and results.finished()
            for index, ids in enumerate(through):
                np.testing.assert_array_equal(results.read(index), ids)
