"""Segments a video and writes its results; saves the state now and then."""

import time
from collections.abc import Iterator

from vos_jax.data import prompts as prompts_lib
from vos_jax.data import video as video_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import propagate, video_results
from vos_jax.inference import session as session_lib
from vos_jax.inference.frame_result import FrameResult


def segment_video(
    engine: engine_lib.Engine,
    video: video_lib.FrameSource,
    prompts: prompts_lib.Prompts,
    results: video_results.VideoResults,
) -> Iterator[FrameResult]:
    """Returns an iterator that segments a video, writes each frame's results and yields them.

    Forward, a video that was interrupted, or whose prompts changed, goes on from a saved state; frames before
    it are not yielded again. The results are finished (`VideoResults.summary`) when the iterator is
    exhausted.

    Args:
      engine: the model.
      video: the frames.
      prompts: by frame index; `propagate.check` has accepted them.
      results: of this video, not finished.

    Raises:
      VosError: as `propagate.propagate`; a result cannot be written.
      video_results.Truncated: `VideoResults.truncate` was called meanwhile.
    """
    session = None
    if engine.config.direction == "forward":
        # No room for later objects: another number of objects can round differently, and a state that did not
        # depend on later prompts gives the same masks when these change.
        ahead = None if results.correctable else prompts
        session = results.resume(engine) or session_lib.Session(engine, video.size, ahead)
    # At once, not when the first frame is asked for: the caller may hold a lock.
    results.begin(0 if session is None else session.index)
    return _segment(engine, video, prompts, results, session)


def _segment(
    engine: engine_lib.Engine,
    video: video_lib.FrameSource,
    prompts: prompts_lib.Prompts,
    results: video_results.VideoResults,
    session: session_lib.Session | None,
) -> Iterator[FrameResult]:
    start, earlier, before = time.perf_counter(), dict(results.seconds), dict(engine.seconds)
    found = propagate.propagate(
        engine, video, prompts, session=session, soft=results.soft, hold=results.is_due
    )
    for result in found:
        results.write(result)
        seconds = {kind: value - before[kind] for kind, value in engine.seconds.items()}
        seconds["other"] = time.perf_counter() - start - sum(seconds.values())
        results.seconds = {kind: earlier[kind] + value for kind, value in seconds.items()}
        if session is not None and session.index == result.index + 1:  # else a frame is in flight
            results.save(session)
        yield result
    results.finish()
