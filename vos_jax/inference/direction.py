"""Directions in which a video is segmented from the frames with prompts."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import cv2
import numpy as np

from vos_jax import errors
from vos_jax.data import prompts as prompts_lib
from vos_jax.data import proposal_files
from vos_jax.inference import config as config_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import session as session_lib
from vos_jax.inference.frame_result import FrameResult

Item = np.ndarray | tuple[np.ndarray, proposal_files.ProposalArrays]
"""A frame, or one with its proposals."""

Frames = Callable[[Iterable[int]], Iterator[Item]]
Masks = Mapping[int, np.ndarray]
"""Prompts by frame index, as ids [H, W]."""


def forward(
    engine: engine_lib.Engine,
    frames: Frames,
    length: int,
    size: tuple[int, int],
    prompts: Masks,
    *,
    soft: bool = False,
    session: session_lib.Session | None = None,
    done: Callable[[session_lib.Session], None] = lambda session: None,
) -> Iterator[FrameResult]:
    """Segments from the first prompt to the end; before it all masks are empty.

    Frames before the first prompt are not even looked at: an object that is there but not yet known would be
    remembered as background.

    Args:
      engine: the model.
      frames: from frame indices to the frames.
      length: of the video.
      size: (height, width) of its frames.
      prompts: by frame index.
      soft: return probabilities, too.
      session: goes on from an earlier run, whose frames are not yielded again; None: from the beginning.
      done: called with the session after each frame.
    """
    first = min(prompts)
    ahead = {index - first: ids for index, ids in prompts.items()}
    if session is None:
        for index in range(first):
            yield nothing(index, size)
        session = session_lib.Session(engine, size, ahead)
    for item in frames(range(first + session.index, length)):
        index = first + session.index
        yield dataclasses.replace(_step(session, item, ahead, soft), index=index)
        done(session)


def backward(
    engine: engine_lib.Engine,
    frames: Frames,
    length: int,
    size: tuple[int, int],
    prompts: Masks,
    *,
    soft: bool = False,
) -> Iterator[FrameResult]:
    """Segments from the last prompt to the beginning; after it all masks are empty.

    Arguments as `forward`.
    """
    last = max(prompts)
    for index in range(length - 1, last, -1):
        yield nothing(index, size)
    back = reverse(prompts)
    session = session_lib.Session(engine, size, back)
    for item in frames(range(last, -1, -1)):
        index = last - session.index
        yield dataclasses.replace(_step(session, item, back, soft), index=index)


def _step(session: session_lib.Session, item: Item, prompts: Masks, soft: bool) -> FrameResult:
    frame, proposals = item if isinstance(item, tuple) else (item, None)
    return session.step(frame, prompts.get(session.index), proposals=proposals, soft=soft)


def both(
    engine: engine_lib.Engine,
    frames: Frames,
    length: int,
    size: tuple[int, int],
    prompts: Masks,
    *,
    soft: bool = False,
) -> Iterator[FrameResult]:
    """Segments from the prompts to the end, then from there to the beginning. Arguments as `forward`.

    The way back begins at the last prompted frame, with all that is known in it. Between the first and the
    last prompt, an object comes from the way back only before its first prompt, and only where the way forth
    saw background; until then masks wait as PNGs of some kilobytes.
    """
    first, last = min(prompts), max(prompts)
    starts: dict[int, int] = {}
    for index in sorted(prompts):
        for object_id in np.unique(prompts[index]).tolist():
            starts.setdefault(object_id, index)
    waiting: dict[int, tuple[bytes, Mapping[int, float]]] = {}
    known = prompts[last]
    for result in forward(engine, frames, length, size, prompts, soft=soft):
        index = result.index
        if index >= last:
            known = result.ids if index == last else known
            yield result
        elif index >= first:
            waiting[index] = cv2.imencode(".png", result.ids)[1].tobytes(), result.presence
    for result in backward(engine, frames, last + 1, size, {**prompts, last: known}, soft=soft):
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


def nothing(index: int, size: tuple[int, int]) -> FrameResult:
    """Returns the result of a frame that shows no known object."""
    return FrameResult(index=index, ids=np.zeros(size, np.uint8))


DIRECTIONS: dict[str, Callable[..., Iterator[FrameResult]]] = dict(
    zip(config_lib.DIRECTIONS, (forward, backward, both), strict=True)
)


def reverse(prompts: Masks) -> dict[int, np.ndarray]:
    """Returns the prompts of a session that begins at the last one and runs backward."""
    last = max(prompts, default=0)
    return {last - index: prompts[index] for index in sorted(prompts, reverse=True)}


def check(prompts: Masks, engine: engine_lib.Engine, direction: str, save_probabilities: bool) -> None:
    """Refuses before work starts what would fail in mid-video.

    Raises:
      VosError: as `objects.check`, in every direction that is asked for; probabilities of two passes that
        overlap.
    """
    if direction != "backward":
        objects_lib.check(prompts_lib.as_prompts(prompts), engine)
    if direction != "forward":
        objects_lib.check(prompts_lib.as_prompts(reverse(prompts)), engine)
    if direction == "both" and save_probabilities and len(prompts) > 1:
        raise errors.VosError(
            f"--save_probabilities with --direction both takes videos annotated in one frame; this one is in "
            f"{len(prompts)}"
        )
