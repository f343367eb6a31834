"""Segments the videos of a data set on all devices; their results lie in one folder."""

import hashlib
import pathlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

from vos_jax.data import datasets, proposal_files
from vos_jax.data import video as video_lib
from vos_jax.evaluation import workers
from vos_jax.inference import config as inference_config
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import lanes, result_store, segment_video, video_results
from vos_jax.models import proposals as proposals_lib
from vos_jax.typing import Device


def segment_dataset(
    engines: Sequence[engine_lib.Engine],
    devices: Sequence[Device],
    videos: Sequence[video_lib.Video],
    results: Mapping[str, video_results.VideoResults],
    advance: Callable[[int, float], None],
    *,
    batch: int = 1,
) -> Generator[tuple[video_lib.Video, video_results.VideoSummary], None, None]:
    """Segments videos, each on one device, and yields each with its summary when it is finished.

    Args:
      engines: one per device.
      devices: of this process.
      videos: `propagate.check` has accepted them.
      results: of each video, by name.
      advance: called with the number of frames that are done since the last call, and with the video's frames
        per second.
      batch: videos that each device segments together, in one step (`lanes`).

    Raises:
      VosError: as `lanes.make_lanes` and `segment_video`; the other devices have stopped then.
    """

    def work(
        video: video_lib.Video, engine: engine_lib.Engine, stop: Callable[[], None]
    ) -> video_results.VideoSummary:
        found, done = results[video.name], 0
        with engine.at_work():
            for _ in segment_video.segment_video(engine, video, video.prompts(), found):
                stop()
                advance(found.frames - done, found.fps)
                done = found.frames
        assert found.summary is not None  # it is finished
        return found.summary

    if batch == 1:
        return workers.spread(work, videos, engines, devices, cost)
    spread = [lane for engine in engines for lane in lanes.make_lanes(engine, batch)]
    places = [device for device in devices for _ in range(batch)]
    # Videos of one size after the other: only they share a step.
    return workers.spread(work, videos, spread, places, lambda video: (*video.size, len(video)))


def cost(video: video_lib.Video) -> float:
    """Returns how long a video takes, relative to others: its number of pixels."""
    return float(len(video) * video.size[0] * video.size[1])


# ---------------------------------------------------------------- the results folder
def settings(flat: Mapping[str, Any], checkpoint: str, version: str) -> dict[str, Any]:
    """Returns the settings that decide what the masks of all videos look like.

    Args:
      flat: all settings by dotted key.
      checkpoint: the file of the weights, whose content counts, or a label.
      version: of this program.
    """
    if (weights := pathlib.Path(checkpoint)).is_file():
        checkpoint = hashlib.sha256(weights.read_bytes()).hexdigest()
    all_frames = bool(flat["data.all_frames"])
    sections = ("data.", "model.", "inference.", "seed")
    return result_store.run_settings(
        flat, sections, checkpoint=checkpoint, all_frames=all_frames, version=version
    )


def inputs(
    data: datasets.DatasetConfig, proposals: proposals_lib.ProposalConfig, chosen: Iterable[video_lib.Video]
) -> list[pathlib.Path]:
    """Returns the folders that are read: the data set, where its links lead to, and the proposals."""
    folders = [data.root, data.all_frames, proposals.folder if proposals.source == "file" else ""]
    found = {pathlib.Path(folder) for folder in folders if folder}
    for video in chosen:
        if isinstance(video, video_lib.FolderVideo):
            files = [*video.frame_paths[:1], *list(video.mask_paths.values())[:1]]
            found |= {path.parent for path in files}
    return sorted(found)


def open_results(
    store: result_store.ResultStore,
    video: video_lib.Video,
    config: inference_config.EvalConfig,
    proposals: proposals_lib.ProposalConfig,
) -> video_results.VideoResults:
    """Returns the results of a data set's video.

    Args:
      store: the results folder.
      video: its frames and prompts decide, with the store's settings, what its results look like.
      config: says what is written besides masks.
      proposals: says whether proposals come from files; those of the video decide, too.

    Raises:
      VosError: masks of other settings or of another program are there.
    """
    own: dict[str, Any] = {
        "frames": video.fingerprint(),
        "prompts": result_store.prompt_settings(video.prompts()),
    }
    if proposals.source == "file":
        path = proposal_files.path_of(proposals.folder, video.name)
        own["proposals_read"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return store.video(
        video, settings=own, soft=config.save_probabilities, intermediates=config.intermediates
    )
