"""One video from its frames to written masks: decoding ahead, following, writing behind."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from vos_jax import geometry
from vos_jax.data import prefetch, proposal_files
from vos_jax.data import video as video_lib
from vos_jax.inference import direction as direction_lib
from vos_jax.inference import probabilities, writer

FRAMES_AHEAD = 4

Item = direction_lib.Item


@dataclasses.dataclass(frozen=True)
class Segmented:
    """What is known of a video besides its masks.

    Attributes:
      seconds: wall time by kind: "compile", "adaptation" to the video, "inference", and "io", what the loop
        waited for frames and for the writer, which work in threads of their own; "model" is the part of
        "inference" from calling the compiled step until its results are ready.
      presence: object id -> how sure the model is that it is there, in [0, 1], one value per written frame in
        order; None in a frame where the object is not known.
    """

    seconds: dict[str, float]
    presence: dict[int, list[float | None]]


def segment(
    video: video_lib.Video,
    follower: direction_lib.Follower,
    masks_out: writer.MaskWriter,
    advance: Callable[[float], None] = lambda fps: None,
    *,
    read: Callable[[int], Item] | None = None,
    direction: str = "forward",
    save_probabilities: bool = False,
) -> Segmented:
    """Follows the objects of one video and writes the masks that are results.

    Args:
      video: checked (`video.check()`).
      follower: a tracker; with `save_probabilities` one that returns them.
      masks_out: where masks go.
      advance: called after every frame with frames per second so far, compilation apart.
      read: gives what the follower takes for a frame, by its number; default: the video's frame alone.
      direction: one of `direction.DIRECTIONS`.
      save_probabilities: whether OUT/probabilities/SEQUENCE/FRAME.npz are written, too.
    """
    seconds = {"compile": 0.0, "adaptation": 0.0, "inference": 0.0, "io": 0.0, "model": 0.0}
    before_all = dict(follower.seconds)
    required = video.required
    annotations = video.prompts()
    present: dict[int, dict[int, float]] = {}
    start = time.perf_counter()

    def frames(indices: Iterable[int]) -> Iterator[Item]:
        ahead = prefetch.prefetch(map(read or video.frame, indices), FRAMES_AHEAD)
        return _waiting(ahead, seconds)

    masks_out.begin(video.name, video.required_names)
    wanted = frozenset(required)
    tracked = direction_lib.DIRECTIONS[direction](follower, frames, len(video), video.size, annotations)
    for done, (index, result) in enumerate(tracked, start=1):
        before = time.perf_counter()
        if index in wanted:
            present[index] = result.presence
            name = video.frame_names[index]
            masks_out.write(video.name, name, result.ids)
            for stage, ids in result.stages.items():
                # As in the final masks, what was given is true.
                given = annotations.get(index)
                masks_out.write_stage(stage, video.name, name, ids if given is None else result.ids)
            if save_probabilities:
                soft = probabilities.of_result(result, annotations.get(index))
                masks_out.write_probabilities(video.name, name, soft)
        now = time.perf_counter()
        seconds["io"] += now - before
        advance(done / max(now - start - (follower.seconds["compile"] - before_all["compile"]), 1e-9))
    before = time.perf_counter()
    masks_out.flush()
    seconds["io"] += time.perf_counter() - before
    passed = time.perf_counter() - start
    spent = {kind: value - before_all[kind] for kind, value in follower.seconds.items()}
    seconds["compile"], seconds["adaptation"] = spent["compile"], spent["adaptation"]
    seconds["model"] = spent["inference"]
    seconds["inference"] = passed - seconds["compile"] - seconds["adaptation"] - seconds["io"]
    return Segmented(seconds, _by_object(present, required))


def reader(
    video: video_lib.Video, proposals_dir: str, num_proposals: int, size: tuple[int, int]
) -> Callable[[int], Item]:
    """Returns a function from a frame's index to the frame, with its proposals if those come from files.

    Args:
      video: the video.
      proposals_dir: folder of the proposal files.
      num_proposals: places of a frame for proposals; 0: they do not come from files.
      size: working (height, width) of the frames (`geometry.working_size`).

    Raises:
      VosError: the video's proposals are missing or broken.
    """
    if not num_proposals:
        return video.frame
    # Read again, though it was checked before: the proposals of a large data set need not fit into memory.
    found = proposal_files.read_video(proposals_dir, video)
    padded = geometry.padded_size(size)

    def read(index: int) -> Item:
        name = video.frame_names[index]
        arrays = proposal_files.arrays(
            found, name, frame_size=size, padded_size=padded, capacity=num_proposals
        )
        return video.frame(index), arrays

    return read


def cost(video: video_lib.Video) -> float:
    """How long a video takes, relative to others: its pixels."""
    return float(len(video) * video.size[0] * video.size[1])


def _by_object(present: Mapping[int, Mapping[int, float]], required: Iterable[int]) -> dict[int, list]:
    objects = sorted({object_id for frame in present.values() for object_id in frame})
    rounded = {index: {o: round(value, 4) for o, value in frame.items()} for index, frame in present.items()}
    return {o: [rounded[index].get(o) for index in required] for o in objects}


def _waiting(frames: Iterable[Item], seconds: dict[str, float]) -> Iterator[Item]:
    """Passes frames on and adds to `seconds["io"]` what was waited for them."""
    frames = iter(frames)
    while True:
        before = time.perf_counter()
        frame = next(frames, None)
        seconds["io"] += time.perf_counter() - before
        if frame is None:
            return
        yield frame
