"""Videos that are segmented together: the same masks, each with its own results, resume and errors."""

import contextlib
import dataclasses
import threading

import jax
import numpy as np
import pytest

from tests import layouts
from tests.inference.coloured import make_engine, make_video
from vos_jax import errors
from vos_jax.evaluation import segment_dataset
from vos_jax.inference import lanes, propagate, result_store

SMALL, LARGE = (50, 70), (70, 100)


@dataclasses.dataclass
class Clip:
    """A video of coloured squares that is shifted by `number` pixels and is broken at frame `broken`."""

    number: int
    length: int
    size: tuple[int, int] = SMALL
    late: int = 0
    broken: int | None = None

    @property
    def name(self):
        return f"clip{self.number}"

    @property
    def num_frames(self):
        return self.length

    def __len__(self):
        return self.length

    def _made(self):
        return [np.roll(array, self.number, axis=2) for array in make_video(self.size, self.length)]

    def mask_name(self, index):
        return f"{index:05d}"

    def frames(self, start=0, *, reverse=False):
        for index, frame in list(enumerate(self._made()[0]))[start:]:
            if index == self.broken:
                raise errors.VosError(f"{self.name}: frame {index} is broken")
            yield frame

    def prompts(self):
        ids = self._made()[1]
        given = {self.late: layouts.only(ids[self.late], 3)}
        return given if self.length <= 3 else {**given, 3: layouts.only(ids[3], 7)}


CLIPS = [Clip(0, 6), Clip(1, 2), Clip(2, 5, late=1), Clip(3, 4, LARGE), Clip(4, 3), Clip(5, 6, LARGE)]


@contextlib.contextmanager
def opened(folder, clips):
    with result_store.ResultStore(folder, {}) as store:
        yield {clip.name: store.video(clip, soft=True) for clip in clips}


def segment(engine, clips, results, batch):
    done = segment_dataset.segment_dataset(
        [engine], jax.local_devices()[:1], clips, results, lambda frames, fps: None, batch=batch
    )
    with contextlib.closing(done):
        return {clip.name: summary for clip, summary in done}


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The summaries and files of the videos, segmented one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    with opened(folder, CLIPS) as results:
        return segment(make_engine(), CLIPS, results, 1), files(folder)


@pytest.mark.parametrize("ahead", [False, True])
def test_masks_are_those_of_one_video_after_the_other(alone, tmp_path, ahead, monkeypatch):
    made = lanes.make_lanes

    def make(*args):
        found = made(*args)
        for lane in found:
            lane.runs_ahead = ahead
        return found

    monkeypatch.setattr(lanes, "make_lanes", make)
    with opened(tmp_path, CLIPS) as results:
        together = segment(make_engine(), CLIPS, results, 3)
    summaries, expected = alone
    assert together.keys() == summaries.keys()
    for name, summary in summaries.items():
        assert together[name].presence == summary.presence and together[name].frames == summary.frames
        assert together[name].seconds["inference"] > 0
    assert len(expected) == sum(map(len, CLIPS)) and files(tmp_path) == expected


def test_steps_are_shared_and_compiled_once_per_shape():
    engine, sizes = make_engine(), []
    one, two, three = lanes.make_lanes(engine, 3)
    meeting = one._meeting
    run = meeting._run
    meeting._run = lambda calls: (sizes.append(len(calls)), run(calls))
    together = threading.Barrier(3, timeout=30)

    def work(lane, clip):
        with lane.at_work():
            together.wait()
            for _ in propagate.propagate(lane, clip, clip.prompts()):
                pass

    # Two objects from frame 3 on are another bucket, known from the start.
    clips = [Clip(0, 3), Clip(1, 3), Clip(2, 2)]
    threads = [
        threading.Thread(target=work, args=pair) for pair in zip((one, two, three), clips, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sizes == [3, 3, 2] and len(meeting._programs) == 1
    assert one.seconds["compile"] == two.seconds["compile"] > 0


def test_an_error_in_one_video_keeps_the_work_of_the_others(tmp_path):
    engine, clips = make_engine(), [Clip(0, 6, broken=2), Clip(1, 6), Clip(2, 6)]
    with opened(tmp_path, clips) as results:
        with pytest.raises(errors.VosError, match="clip0: frame 2 is broken"):
            segment(engine, clips, results, 3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vos-device")]
    with opened(tmp_path, clips[1:]) as results:
        segment(engine, clips[1:], results, 2)
        assert all(each.finished() for each in results.values())


def test_an_error_of_the_step_reaches_every_video(tmp_path, monkeypatch):
    engine, clips = make_engine(), [Clip(0, 3), Clip(1, 3)]

    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(lanes._Meeting, "_compile", fail)
    with opened(tmp_path, clips) as results, pytest.raises(RuntimeError, match="no memory"):
        segment(engine, clips, results, 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vos-device")]


def test_videos_that_the_model_adapts_to_have_no_common_step(monkeypatch):
    engine = make_engine()
    monkeypatch.setattr(engine, "_adapter", object())
    with pytest.raises(errors.VosError, match="no --adapt"):
        lanes.make_lanes(engine, 2)
