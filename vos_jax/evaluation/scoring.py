"""Scores result masks and makes the DAVIS table; videos are scored in a pool while inference goes on."""

import concurrent.futures
import dataclasses
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vos_jax import errors, files
from vos_jax.data import datasets, mask_files
from vos_jax.data import video as video_lib
from vos_jax.evaluation import davis, youtube_vos
from vos_jax.typing import Float, UInt8

Results = str | os.PathLike | Mapping[str, np.ndarray]
"""A folder holding SEQUENCE/FRAME.png, or one sequence's masks in memory: frame name -> ids [H,W]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectScore:
    """J and F of one object in every scored frame; empty if the video has none to score.

    Attributes:
      sequence: the video's name.
      object_id: the id in its annotations.
      J: region similarity per scored frame, in [0, 1].
      F: boundary similarity per scored frame, in [0, 1].
    """

    sequence: str
    object_id: int
    J: Float[np.ndarray, "T"]
    F: Float[np.ndarray, "T"]


def score_sequence(video: video_lib.Video, results: Results) -> list[ObjectScore]:
    """Scores every object of one video.

    Objects are those of `video.first_frames`. An object is scored in `video.scored_frames(object_id)`; where
    there is none, as in a video of one or two frames, its J and F are empty.

    Raises:
      VosError: a result is missing, broken, of another size, or holds an id that is not annotated.
    """
    scored = {o: frozenset(video.scored_frames(o)) for o in sorted(video.first_frames)}
    scores: dict[int, list[tuple[float, float]]] = {o: [] for o in scored}
    for index in sorted(frozenset().union(*scored.values())):
        truth = video.mask(index)
        if truth is None:
            continue
        ids = _result(video, index, results)
        for object_id, values in scores.items():
            if index in scored[object_id]:
                pair = truth == object_id, ids == object_id
                values.append((davis.region_similarity(*pair), davis.boundary_similarity(*pair)))
    return [
        ObjectScore(
            sequence=video.name,
            object_id=object_id,
            J=np.array([j for j, _ in values], np.float64),
            F=np.array([f for _, f in values], np.float64),
        )
        for object_id, values in scores.items()
    ]


def summarise(scores: Iterable[ObjectScore]) -> dict:
    """Returns the DAVIS table: means over OBJECTS, not over sequences.

    Returns:
      {"G", "J": {"mean", "recall", "decay"}, "F": {...}, "objects": [{"sequence", "object", "J", "F"}]}.
      Objects without a scored frame (a video of one or two frames, a split whose truth is withheld) are left
      out. If nothing is left, G and the statistics are None: there is no NaN, and no invented 0.
    """
    scored = [score for score in scores if score.J.size]
    table = {"G": None, "J": {}, "F": {}, "objects": []}
    of_objects = {measure: [davis.statistics(getattr(s, measure)) for s in scored] for measure in "JF"}
    for measure, of in of_objects.items():
        for statistic in ("mean", "recall", "decay"):
            table[measure][statistic] = float(np.mean([s[statistic] for s in of])) if of else None
    if scored:
        table["G"] = (table["J"]["mean"] + table["F"]["mean"]) / 2
    for score, j, f in zip(scored, of_objects["J"], of_objects["F"], strict=True):
        table["objects"].append(
            {"sequence": score.sequence, "object": score.object_id, "J": j["mean"], "F": f["mean"]}
        )
    return table


def table(dataset: datasets.VideoDataset, scores: Iterable[ObjectScore]) -> dict:
    """Returns the table of a data set: `summarise`'s, and seen and unseen where categories are known."""
    seen, summary = dataset.seen, summarise(scores)
    return summary if seen is None else {**summary, **youtube_vos.summarise(summary["objects"], seen)}


class ScorePool:
    """Scores finished sequences in background threads; a context manager.

    Threads, not processes: nearly all of the time is spent in OpenCV, numpy and zlib, which release the
    interpreter, and nothing has to be sent or imported twice. On Linux they run at low priority, so that
    inference keeps the cores it wants.

    Args:
      workers: number of threads, >= 1.

    Attributes:
      seconds: time spent scoring, summed over the threads.
    """

    def __init__(self, workers: int = 2):
        if workers < 1:
            raise errors.VosError(f"eval.workers is at least 1, not {workers}")
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._futures: list[tuple[video_lib.Video, concurrent.futures.Future[list[ObjectScore]]]] = []
        self._told = 0
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, "vos-score", initializer=_low_priority)

    def submit(
        self, video: video_lib.Video, results: Results
    ) -> concurrent.futures.Future[list[ObjectScore]]:
        """Starts scoring one video whose results are complete; the future holds `score_sequence`'s answer."""
        future = self._pool.submit(self._score, video, results)
        self._futures.append((video, future))
        return future

    def ready(self, *, wait: bool = False) -> Iterator[tuple[video_lib.Video, list[ObjectScore]]]:
        """Yields videos with their scores, each once, in order of submission.

        Args:
          wait: wait for all that was submitted; else the first one that is not ready ends the iterator.

        Raises:
          VosError: as `score_sequence`.
        """
        for video, future in self._futures[self._told :]:
            if not wait and not future.done():
                return
            self._told += 1
            yield video, future.result()

    def scores(self) -> list[ObjectScore]:
        """Waits for all that was submitted; scores in order of submission, or the first error among them."""
        return [score for _, future in self._futures for score in future.result()]

    def __enter__(self) -> "ScorePool":
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _score(self, video: video_lib.Video, results: Results) -> list[ObjectScore]:
        start = time.perf_counter()
        try:
            return score_sequence(video, results)
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - start


def check_results(video: video_lib.Video, results_dir: str | os.PathLike) -> None:
    """Checks, from headers only, that a video has a whole result of the right size for every scored frame.

    Raises:
      VosError: naming the missing folder or the first missing or broken file.
    """
    folder = pathlib.Path(results_dir) / files.safe_name(video.name)
    if not folder.is_dir():
        found = [path.name for path in files.list_files(pathlib.Path(results_dir)) if path.is_dir()]
        raise errors.VosError(
            f"{folder}: no results for sequence '{video.name}'; {results_dir} has "
            f"{', '.join(found[:10]) or 'no folders'}{', ...' if len(found) > 10 else ''}"
        )
    scored = sorted({index for object_id in video.first_frames for index in video.scored_frames(object_id)})
    required = [video.frame_names[index] for index in scored] or list(video.required_names)
    missing = [name for name in required if not (folder / f"{name}.png").is_file()]
    if missing:
        raise errors.VosError(
            f"{folder / missing[0]}.png: missing; {len(missing)} of the {len(required)} scored frames "
            f"of '{video.name}' have no result"
        )
    for name in required:
        size = mask_files.png_size(folder / f"{name}.png")
        if size != tuple(video.size):
            raise errors.VosError(
                f"{folder / name}.png: the result is {size[1]}x{size[0]}, its frame "
                f"{video.size[1]}x{video.size[0]} (width x height)"
            )


def score_folder(
    dataset: datasets.VideoDataset,
    results_dir: str | os.PathLike,
    *,
    workers: int = 2,
    on_sequence: Callable[[str, list[ObjectScore]], None] | None = None,
) -> dict:
    """Scores a folder of somebody's PNGs, RESULTS/SEQUENCE/FRAME.png, on every video of the data set.

    All sequences are checked for missing and wrongly sized files before the first is scored.

    Args:
      workers: scoring threads.
      on_sequence: called with (sequence, scores) as each becomes known, in the data set's order.

    Returns:
      The table of the data set (`table`).

    Raises:
      VosError: no such folder, or as `check_results` and `score_sequence`; also where the data set's
        own files are broken.
    """
    if not pathlib.Path(results_dir).is_dir():
        raise errors.VosError(f"{results_dir}: no such folder; --score-only names the folder of results")
    videos = list(dataset)
    for video in videos:
        video.check()
        check_results(video, results_dir)
    with ScorePool(workers) as pool:
        for video in videos:
            pool.submit(video, results_dir)
        for video, scores in pool.ready(wait=True):
            if on_sequence is not None:
                on_sequence(video.name, scores)
        return table(dataset, pool.scores())


def _result(video: video_lib.Video, index: int, results: Results) -> UInt8[np.ndarray, "H W"]:
    """One frame's result; objects merged where the annotations are, surplus ids refused."""
    name = video.frame_names[index]
    if isinstance(results, Mapping):
        where = f"{video.name}/{name}"
        if name not in results:
            raise errors.VosError(f"{where}: no result for this frame")
        ids = np.asarray(results[name])
        if ids.shape != tuple(video.size):
            raise errors.VosError(f"{where}: the result is {ids.shape}, its frame {tuple(video.size)}")
    else:
        where = pathlib.Path(results) / files.safe_name(video.name) / f"{name}.png"
        mask = mask_files.read(where, video.size)
        ids = mask.ids
        if mask.is_binary and not video.merge_objects:
            ids = ids * np.uint8(_only_object(video, where))
    if video.merge_objects:
        return (ids > 0).astype(np.uint8)
    surplus = sorted(set(np.unique(ids).tolist()) - {0, *video.first_frames})
    if surplus:
        raise errors.VosError(
            f"{where}: object id(s) {', '.join(map(str, surplus))} in the result, but '{video.name}' has "
            f"{', '.join(map(str, sorted(video.first_frames)))} (object ids of its first annotation)"
        )
    return ids


def _only_object(video: video_lib.Video, where: pathlib.Path) -> int:
    """Returns the object that a black and white result is of; VosError if there are several."""
    known = sorted(video.first_frames)
    if len(known) > 1:
        raise errors.VosError(
            f"{where}: is black and white, but '{video.name}' has the objects {', '.join(map(str, known))}; "
            "save results with object ids, or score all objects as one: --config.data.merge_objects=true"
        )
    return known[0]


def _low_priority() -> None:
    """Lowers the calling thread's priority where threads have one of their own (Linux)."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    except (AttributeError, OSError):
        pass
