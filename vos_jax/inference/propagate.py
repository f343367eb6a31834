"""Propagation: the loop over the frames of a video, in the direction of the settings."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

import cv2
import numpy as np

from vos_jax import errors, geometry
from vos_jax.data import prefetch, proposal_files
from vos_jax.data import prompts as prompts_lib
from vos_jax.data import proposals as proposal_arrays
from vos_jax.data import video as video_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import frame_result
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import session as session_lib
from vos_jax.inference.frame_result import FrameResult
from vos_jax.typing import UInt8

FRAMES_AHEAD = 4
"""Frames that wait decoded while the model runs."""

Inputs = tuple[UInt8[np.ndarray, "H W 3"], proposal_arrays.ProposalArrays | None]


def propagate(
    engine: engine_lib.Engine,
    video: video_lib.FrameSource,
    prompts: prompts_lib.Prompts,
    *,
    session: session_lib.Session | None = None,
    soft: bool = False,
    hold: Callable[[], bool] = lambda: False,
) -> Iterator[FrameResult]:
    """Yields the result of each frame, in the engine's direction (`inference.direction`).

    Forward, frames before the first prompt have empty masks; backward, those after the last one. Both ways,
    an object has a mask from each of its prompts to the end, and from there to the beginning. Frames are
    decoded ahead in a thread. An engine that runs ahead begins a frame before the result of the one before is
    yielded: the device need not wait for the host, and a session is then a frame ahead of its results.

    Args:
      engine: the model. If it takes proposals from files, they are read from `model.proposals.folder`.
      video: a `Video` where proposals come from files; of a known length unless the direction is forward.
      prompts: by frame index.
      session: goes on from the session's next frame; forward only. None: from the beginning.
      soft: return probabilities, too.
      hold: asked in each frame; where true, the next one begins only after the result is taken.

    Raises:
      VosError: as `check` and `Session.step`; a frame or proposals that cannot be read.
    """
    given = prompts_lib.as_prompts(prompts)
    if session is not None and engine.config.direction != "forward":
        raise errors.VosError(f"a session goes forward; inference.direction is {engine.config.direction}")
    if engine.config.direction == "forward":
        return _forward(engine, video, given, session, soft, hold)
    return {"backward": _backward, "both": _both}[engine.config.direction](engine, video, given, soft)


def check(
    engine: engine_lib.Engine,
    video: video_lib.FrameSource,
    prompts: prompts_lib.Prompts,
    *,
    soft: bool = False,
) -> None:
    """Checks a video and its prompts before work starts; arguments as `propagate`.

    Raises:
      VosError: frames that are too small; as `objects.check`, in every direction that is asked for;
        probabilities of two passes that overlap; objects that are removed or absent while the video runs
        backward; missing or broken proposals.
    """
    given, direction = prompts_lib.as_prompts(prompts), engine.config.direction
    engine.views(video.size)
    if direction != "backward":
        objects_lib.check(given, engine)
    if direction != "forward":
        if any(prompt.remove or prompt.absent for prompt in given.values()):
            raise errors.VosError(
                f"an object is removed or said to be absent forward only; inference.direction is {direction}"
            )
        objects_lib.check(_reverse(given), engine)
    if direction == "both" and soft and len(given) > 1:
        raise errors.VosError(
            f"--save-probabilities with --direction both takes videos annotated in one frame; this one is in "
            f"{len(given)}"
        )
    if engine.num_proposals:
        _proposals_of(engine, video)


# ---------------------------------------------------------------- directions
def _forward(
    engine: engine_lib.Engine,
    video: video_lib.FrameSource,
    prompts: Mapping[int, prompts_lib.Prompt],
    session: session_lib.Session | None,
    soft: bool,
    hold: Callable[[], bool] = lambda: False,
) -> Iterator[FrameResult]:
    session = session or session_lib.Session(engine, video.size, prompts)
    return _results(session, _read_ahead(engine, video, session.index), prompts, soft, hold)


def _backward(
    engine: engine_lib.Engine,
    video: video_lib.FrameSource,
    prompts: Mapping[int, prompts_lib.Prompt],
    soft: bool,
) -> Iterator[FrameResult]:
    for index in range(_length(video) - 1, max(prompts), -1):
        yield frame_result.nothing(index, video.size, soft, engine.intermediates)
    yield from _back(engine, video, prompts, soft)


def _both(
    engine: engine_lib.Engine,
    video: video_lib.FrameSource,
    prompts: Mapping[int, prompts_lib.Prompt],
    soft: bool,
) -> Iterator[FrameResult]:
    """Segments from the prompts to the end, then from the last prompt to the beginning.

    The second pass begins with all masks of the last prompted frame. Between the first and the last prompt,
    an object comes from the second pass only before its first prompt, and only where the first pass saw
    background. Until then masks wait as PNGs of some kilobytes.
    """
    first, last = min(prompts), max(prompts)
    starts: dict[int, int] = {}
    for index, prompt in prompts.items():
        for object_id in prompt.objects:
            starts.setdefault(object_id, index)
    waiting: dict[int, tuple[bytes, Mapping[int, float]]] = {}
    known = prompts[last]
    for result in _forward(engine, video, prompts, None, soft):
        index = result.index
        if index == last:
            known = prompts_lib.Prompt(result.ids)
        if index >= last:
            yield result
        elif index >= first:
            waiting[index] = cv2.imencode(".png", result.ids)[1].tobytes(), result.presence
    for result in _back(engine, video, {**prompts, last: known}, soft):
        index = result.index
        if index < first:
            yield result
        elif index < last:
            encoded, presence = waiting.pop(index)
            ids = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
            later = {o: sure for o, sure in result.presence.items() if starts[o] > index}
            assert ids is not None  # it was encoded above
            fills = (ids == 0) & np.isin(result.ids, list(later))
            ids = np.where(fills, result.ids, ids).astype(np.uint8)
            yield FrameResult(index=index, ids=ids, presence={**presence, **later})


def _back(
    engine: engine_lib.Engine,
    video: video_lib.FrameSource,
    prompts: Mapping[int, prompts_lib.Prompt],
    soft: bool,
) -> Iterator[FrameResult]:
    """Yields the results from the last prompted frame to the first frame."""
    last, back = max(prompts), _reverse(prompts)
    session = session_lib.Session(engine, video.size, back)
    for result in _results(session, _read_ahead(engine, video, last, reverse=True), back, soft):
        yield dataclasses.replace(result, index=last - result.index)


def _results(
    session: session_lib.Session,
    inputs: Iterator[Inputs],
    prompts: Mapping[int, prompts_lib.Prompt],
    soft: bool,
    hold: Callable[[], bool] = lambda: False,
) -> Iterator[FrameResult]:
    """Yields the results of a session's next frames; where the engine runs ahead, with one in flight."""
    pending = (
        session.dispatch(frame, prompts.get(session.index), proposals=proposals, soft=soft)
        for frame, proposals in inputs
    )
    before: frame_result.Pending | None = None
    while True:
        try:
            now = next(pending, None)
        except Exception:
            if before is not None:
                yield before.result()
            raise
        if before is not None:
            yield before.result()
        if now is None:
            return
        before = now
        if not session.engine.runs_ahead or hold():
            yield now.result()
            before = None


def _reverse(prompts: Mapping[int, prompts_lib.Prompt]) -> dict[int, prompts_lib.Prompt]:
    """Returns the prompts of a session that begins at the last one and runs backward."""
    last = max(prompts, default=0)
    return {last - index: prompts[index] for index in sorted(prompts, reverse=True)}


def _length(video: video_lib.FrameSource) -> int:
    if video.num_frames is None:
        raise errors.VosError(f"{video.name}: a video of unknown length is segmented forward only")
    return video.num_frames


# ---------------------------------------------------------------- frames and proposals
def _read_ahead(
    engine: engine_lib.Engine, video: video_lib.FrameSource, start: int, *, reverse: bool = False
) -> Iterator[Inputs]:
    """Yields the frames from `start` on, decoded ahead, with their proposals if those come from files."""
    frames = video.frames(start, reverse=reverse)
    inputs: Iterator[Inputs] = ((frame, None) for frame in frames)
    if engine.num_proposals:
        proposals_of = _proposals_of(engine, video)
        indices = itertools.count(start, -1 if reverse else 1)
        inputs = ((frame, proposals_of(index)) for frame, index in zip(frames, indices, strict=False))
    with contextlib.closing(prefetch.prefetch(inputs, FRAMES_AHEAD)) as ahead:
        yield from ahead


def _proposals_of(
    engine: engine_lib.Engine, video: video_lib.FrameSource
) -> Callable[[int], proposal_arrays.ProposalArrays]:
    """Returns a function from a frame's index to its `engine.num_proposals` proposals.

    Raises:
      VosError: the proposals are missing or broken.
    """
    if not isinstance(video, video_lib.Video):
        raise errors.VosError(f"{video.name}: proposals from files need a video of a data set")
    found = proposal_files.read_video(engine.model.config.proposals.folder, video)
    size = geometry.working_size(video.size, engine.config.min_size, engine.config.max_size)

    def read(index: int) -> proposal_arrays.ProposalArrays:
        return proposal_files.arrays(
            found,
            video.frame_names[index],
            frame_size=size,
            padded_size=geometry.padded_size(size),
            capacity=engine.num_proposals,
        )

    return read
