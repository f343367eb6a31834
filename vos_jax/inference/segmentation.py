"""One video from its frames to written masks: decoding ahead, segmenting, writing behind."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from vos_jax import geometry
from vos_jax.data import prefetch, proposal_files
from vos_jax.data import video as video_lib
from vos_jax.inference import config as config_lib
from vos_jax.inference import direction as direction_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import video_results

FRAMES_AHEAD = 4

Item = direction_lib.Item


def segment(
    video: video_lib.Video,
    engine: engine_lib.Engine,
    results: video_results.VideoResults,
    advance: Callable[[float], None] = lambda fps: None,
    *,
    read: Callable[[int], Item] | None = None,
    direction: str = "forward",
) -> video_results.VideoSummary:
    """Segments one video and writes the masks that are results.

    Forward, an interrupted video goes on from its saved state.

    Args:
      video: checked (`video.check()`).
      engine: the model.
      results: of this video, with `first` the first frame with a prompt.
      advance: called after every frame with frames per second so far, compilation apart.
      read: from a frame's index to the frame, or to a pair of it and its proposals; default: `video.frame`.
      direction: one of `direction.DIRECTIONS`.
    """
    prompts, forward = video.prompts(), direction == "forward"
    session = results.resume(engine) if forward else None
    start = 0 if session is None else min(prompts) + session.index
    results.begin(start)
    for _ in range(start):
        advance(0.0)
    clock = _Clock(engine.seconds, results.seconds)

    def frames(indices: Iterable[int]) -> Iterator[Item]:
        ahead = prefetch.prefetch(map(read or video.frame, indices), FRAMES_AHEAD)
        return clock.waiting(ahead)

    resumed = {}
    if forward:
        resumed = {"session": session, "done": lambda now: results.save(now, clock.spent())}
    run = direction_lib.DIRECTIONS[direction]
    found = run(engine, frames, len(video), video.size, prompts, soft=results.soft, **resumed)
    for done, result in enumerate(found, start=1):
        with clock.io():
            results.write(result.index, result, prompts.get(result.index))
        advance(done / clock.without_compilation())
    with clock.io():
        results.flush()
    return results.finish(len(video), clock.spent())


class _Clock:
    """Splits the wall time of a video by kind (`video_results.KINDS`), on top of `earlier` runs."""

    def __init__(self, seconds: Mapping[str, float], earlier: Mapping[str, float]):
        self._seconds, self._before, self._earlier = seconds, dict(seconds), dict(earlier)
        self._start, self._io = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def io(self) -> Iterator[None]:
        """Counts the time in this context as waiting for files."""
        before = time.perf_counter()
        yield
        self._io += time.perf_counter() - before

    def waiting(self, frames: Iterable[Item]) -> Iterator[Item]:
        """Passes frames on and counts the wait for them."""
        frames = iter(frames)
        while True:
            with self.io():
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def without_compilation(self) -> float:
        """Returns the seconds of this run so far without compilation, above 0."""
        compiled = self._seconds["compile"] - self._before["compile"]
        return max(time.perf_counter() - self._start - compiled, 1e-9)

    def spent(self) -> dict[str, float]:
        """Returns the seconds of all runs so far by kind."""
        spent = {kind: value - self._before[kind] for kind, value in self._seconds.items()}
        now = {"compile": spent["compile"], "adaptation": spent["adaptation"], "io": self._io}
        now["inference"] = time.perf_counter() - self._start - sum(now.values())
        now["model"] = spent["inference"]
        return {kind: self._earlier.get(kind, 0.0) + value for kind, value in now.items()}


def reader(
    video: video_lib.Video, config: config_lib.InferenceConfig, places: int, folder: str
) -> Callable[[int], Item]:
    """Returns a function from a frame's index to the frame, with its proposals if those come from files.

    Args:
      video: the video.
      config: its limits of the working size.
      places: of a frame for proposals; 0: they do not come from files.
      folder: of the proposal files.

    Raises:
      VosError: the video's proposals are missing or broken.
    """
    if not places:
        return video.frame
    # Read again, though it was checked before: the proposals of a large data set need not fit into memory.
    found = proposal_files.read_video(folder, video)
    size = geometry.working_size(video.size, config.min_size, config.max_size)
    padded = geometry.padded_size(size)

    def read(index: int) -> Item:
        name = video.frame_names[index]
        arrays = proposal_files.arrays(found, name, frame_size=size, padded_size=padded, capacity=places)
        return video.frame(index), arrays

    return read


def cost(video: video_lib.Video) -> float:
    """How long a video takes, relative to others: its pixels."""
    return float(len(video) * video.size[0] * video.size[1])
