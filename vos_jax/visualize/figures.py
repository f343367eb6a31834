"""The figures of `eval.py --visualize`."""

import pathlib
from collections.abc import Iterator, Sequence

from vos_jax import errors
from vos_jax.data import video as video_lib
from vos_jax.evaluation import scoring
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import inspection, mask_writer
from vos_jax.inference import session as session_lib
from vos_jax.models import state as state_lib
from vos_jax.models import vos
from vos_jax.visualize import figure_alignment, figure_failures, figure_masks, figure_memory, layout

KINDS = ("masks", "memory", "alignment", "failures")
FOLDER = "figures"


def parse(text: str) -> tuple[str, ...]:
    """Reads "masks,memory"; VosError names what is no figure."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise errors.VosError(f"--visualize {text}: there are {', '.join(KINDS)}")
    return kinds


def check(
    kinds: Sequence[str], model: state_lib.Model, videos: Sequence[video_lib.Video], frame: int | None
) -> None:
    """Refuses what could not be drawn after the run: VosError."""
    if "alignment" in kinds and not isinstance(model, vos.VOS):
        raise errors.VosError(
            "--visualize alignment: the training-free model aligns nothing; name a --checkpoint"
        )
    if set(kinds) - {"failures"}:
        for video in videos:
            check_frame(video, choose_frame(video, frame))


def choose_frame(video: video_lib.Video, frame: int | None) -> int:
    """The frame asked for, or the middle one of those behind the first annotation."""
    return (min(video.prompts()) + len(video)) // 2 if frame is None else frame


def check_frame(video: video_lib.Video, index: int) -> None:
    """Raises VosError unless an object is known before frame `index`."""
    first = min(video.prompts())
    if not first < index < len(video):
        raise errors.VosError(
            f"'{video.name}': a picture can be made of frames {first + 1} to {len(video) - 1}, not {index} "
            "(--frame); before, nothing is remembered"
        )


def inspect(engine: engine_lib.Engine, video: video_lib.Video, index: int) -> inspection.Inspection:
    """Segments a video up to frame `index` and returns all that the model computes there.

    Args:
      engine: the model, in one view; its compiled programs are used.
      video: with its prompts.
      index: a frame behind the first prompt.

    Raises:
      VosError: the video has no such frame, or no object is known before it.
    """
    check_frame(video, index)
    prompts = video.prompts()
    session = session_lib.Session(engine, video.size, prompts)
    for _ in session.run(map(video.frame, range(index)), prompts):
        pass
    return session.inspect(video.frame(index), prompts.get(index))


def draw(
    kinds: Sequence[str],
    videos: Sequence[video_lib.Video],
    engine: engine_lib.Engine,
    out: pathlib.Path,
    frame: int | None,
    scores: Sequence[scoring.ObjectScore],
) -> Iterator[pathlib.Path]:
    """Draws OUT/figures/*.png and yields their paths.

    Args:
      kinds: of `KINDS`.
      videos: each gets its pictures, but for "failures", which are of the whole run.
      engine: the model, in one view; videos are segmented anew up to the frame.
      out: the run's results.
      frame: the frame's number in every video; None: its middle.
      scores: of the run.
    """
    folder = out / FOLDER
    for video in videos if set(kinds) - {"failures"} else ():
        index = choose_frame(video, frame)
        found = inspect(engine, video, index)
        stem = f"{video.name}_{video.frame_names[index]}"
        if "masks" in kinds:
            yield layout.save(folder / f"{stem}_masks.png", figure_masks.draw(video, found))
        for kind, make in (("memory", figure_memory.draw), ("alignment", figure_alignment.draw)):
            for object_id, picture in make(video, found) if kind in kinds else ():
                yield layout.save(folder / f"{stem}_{kind}_object{object_id}.png", picture)
    if "failures" in kinds:
        named = {video.name: video for video in videos}
        picture = figure_failures.draw(scores, named, lambda *names: mask_writer.mask_path(out, *names))
        if picture is not None:
            yield layout.save(folder / "failures.png", picture)
