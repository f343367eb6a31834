"""Segments a data set, scores it with the official DAVIS measures, prints a table.

    python eval.py --config davis17 --data data/DAVIS
    python eval.py --config demo --overlay            # needs no data
    python eval.py --config davis16 --score_only somebody/results

writes OUT/<sequence>/<frame>.png (indexed, DAVIS palette) and OUT/results.json; with --overlay also
OUT/overlays/<sequence>.mp4 and .png. The same command goes on where an interrupted one stopped.
"""

import argparse
import concurrent.futures
import hashlib
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

import vos_jax
from vos_jax import command, devices, errors
from vos_jax import config as configs
from vos_jax.data import datasets, prefetch, proposal_files, sources
from vos_jax.inference import loading, record, tracker, writer
from vos_jax.metrics import scoring
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import state as state_lib
from vos_jax.visualize import console, overlay

FRAMES_AHEAD = 4


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: options, and the config overrides among them."""
    parser = command.Parser("eval.py", __doc__, example="memory.every=3")
    parser.add_argument("--data", metavar="DIR", help="where the data set lies (default: data/DAVIS)")
    parser.add_argument("--out", metavar="DIR", help="where results go (default: the config's eval.out)")
    parser.add_argument("--sequences", metavar="a,b", help="only these sequences")
    parser.add_argument(
        "--checkpoint", metavar="auto|none|PATH", help="trained weights; none = training-free"
    )
    parser.add_argument("--score_only", metavar="RESULTS_DIR", help="score the PNGs there, segment nothing")
    parser.add_argument("--overlay", action="store_true", help="draw colour overlays: mp4 and contact sheet")
    parser.add_argument("--overwrite", action="store_true", help="segment anew what is finished")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    return parser.parse(arguments)


def configure(options: argparse.Namespace, overrides: Sequence[str]):
    """The config with what the options say about it."""
    config = configs.load(options.config, overrides)
    if options.data is not None:
        config.data.root = options.data
    if options.sequences is not None:
        config.data.sequences = tuple(name.strip() for name in options.sequences.split(",") if name.strip())
        if not config.data.sequences:
            raise errors.VosError("--sequences names no sequence; write --sequences dog,camel")
    if options.out is not None:
        config.eval.out = options.out
    config.checkpoint = options.checkpoint or config.checkpoint
    config.dtype = options.dtype or config.dtype
    config.eval.overlay = config.eval.overlay or options.overlay
    config.eval.overwrite = config.eval.overwrite or options.overwrite
    return config


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    config = configure(options, overrides)
    screen = console.make_console()

    # ---------------------------------------------------------------- data
    source = datasets.open_source(config.data)
    if options.score_only is not None:
        score_only(screen, options, config, source)
        return
    videos = [source.video(name) for name in source.sequences()]
    for video in videos:
        video.check()

    # ---------------------------------------------------------------- model
    device = devices.choose(options.device)
    model, params, checkpoint = loading.make_model(config, config.checkpoint)
    num_proposals = loading.num_proposals(config, model)
    follower = tracker.Tracker(
        model,
        params,
        buckets=config.objects.buckets,
        dataset=loading.dataset_index(config),
        num_proposals=num_proposals,
    )
    for video in videos:
        tracker.check_annotations(video.inputs(), follower)
        if num_proposals:
            proposal_files.read_video(config.model.proposals_dir, video)
    scores = scoring.ScorePool(config.eval.workers)
    out = pathlib.Path(config.eval.out)
    writer.check_writable(out)
    log = record.Record(
        out,
        settings(config, checkpoint),
        own=proposals_read(config, videos) if num_proposals else {},
        overwrite=config.eval.overwrite,
    )
    finished = {video.name for video in videos if log.is_finished(video)}
    screen.print(
        f"{source.name} {source.split}: {len(videos)} sequence(s) on {device}, checkpoint {checkpoint}"
    )
    if finished:
        screen.print(f"{len(finished)} finished before are kept (--overwrite does them again)")

    # ---------------------------------------------------------------- segment, score, draw
    scored: list[tuple[sources.Video, concurrent.futures.Future]] = []
    drawn: list[concurrent.futures.Future] = []
    with (
        console.make_progress(screen) as progress,
        scores,
        concurrent.futures.ThreadPoolExecutor(1, "vos-overlay") as painter,
        writer.MaskWriter(out) as masks_out,
    ):
        total = sum(len(video) for video in videos if video.name not in finished)
        task = progress.add_task("segmenting", total=total, fps=0.0, visible=total > 0)

        def advance(fps: float) -> None:
            progress.update(task, advance=1, fps=fps)

        def print_scored(*, wait: bool) -> None:
            while scored and (wait or scored[0][1].done()):
                video, job = scored.pop(0)
                seconds = log.seconds(video.name)
                fps = len(video) / (seconds["inference"] + seconds["io"])
                line = console.sequence_line(video.name, job.result())
                screen.print(f"{line}  {len(video)} frames  {fps:.2f} fps")

        for video in videos:
            if video.name not in finished:
                log.note(video.name, None)
                masks_out.begin(video.name, video.frame_names)
                frames = read_frames(video, config.model.proposals_dir, num_proposals)
                log.note(video.name, segment(video, frames, follower, masks_out, advance))
            scored.append((video, scores.submit(video, out)))
            if config.eval.overlay:
                drawn.append(painter.submit(draw, video, out))
            print_scored(wait=False)
        print_scored(wait=True)
        pictures = [drawing.result() for drawing in drawn]
        summary = scoring.summarise(scores.scores())

    # ---------------------------------------------------------------- results
    seconds = {
        kind: sum(log.seconds(video.name)[kind] for video in videos)
        for kind in ("compile", "inference", "io")
    }
    frames = sum(len(video) for video in videos)
    fps = frames / (seconds["inference"] + seconds["io"])
    seconds["score"] = scores.seconds
    results = make_results(source, config, summary, frames, fps, seconds, device, checkpoint)
    record.write_json(out / "results.json", results)
    console.print_results(screen, results)
    screen.print(f"masks and results.json: {out}")
    for picture in pictures:
        screen.print(f"look at: {picture} (and {picture.with_suffix('.mp4').name} beside it)")


def score_only(screen, options: argparse.Namespace, config, source: sources.VideoSource) -> None:
    """Scores PNGs that are there; results.json goes beside them, or to --out."""
    folder = pathlib.Path(options.score_only)
    out = folder if options.out is None else pathlib.Path(options.out)
    if options.out is not None:
        writer.check_writable(out)
    start = time.perf_counter()
    summary = scoring.score_folder(
        source,
        folder,
        workers=config.eval.workers,
        on_sequence=lambda name, scores: screen.print(console.sequence_line(name, scores)),
    )
    frames = sum(len(source.video(name)) for name in source.sequences())
    seconds = {"compile": 0.0, "inference": 0.0, "io": 0.0, "score": time.perf_counter() - start}
    results = make_results(source, config, summary, frames, None, seconds, None, None)
    console.print_results(screen, results)
    if options.out is None and (folder / "results.json").exists():
        screen.print(f"{folder / 'results.json'} is kept as it is; --out DIR writes a new one")
    else:
        writer.check_writable(out)
        record.write_json(out / "results.json", results)
        screen.print(f"results.json: {out}")


def make_results(source, config, summary: dict, frames: int, fps, seconds: dict, device, checkpoint) -> dict:
    """What results.json holds; fps, device and checkpoint are None where nothing was segmented."""
    return {
        "dataset": source.name,
        "split": source.split,
        **summary,
        "frames": frames,
        "fps": fps,
        "seconds": seconds,
        "device": device,
        "checkpoint": checkpoint,
        "config": configs.as_dict(config),
    }


def settings(config, checkpoint: str) -> dict:
    """What decides how masks look: the config but for places, the weights themselves, our version."""
    plain = configs.as_dict(config)
    del plain["eval"], plain["data"]["root"], plain["data"]["sequences"], plain["model"]["proposals_dir"]
    if (path := pathlib.Path(checkpoint)).is_file():
        checkpoint = hashlib.sha256(path.read_bytes()).hexdigest()
    return {**plain, "checkpoint": checkpoint, "version": vos_jax.__version__}


def proposals_read(config, videos: Sequence[sources.Video]) -> dict[str, dict[str, str]]:
    """What decides how a sequence's masks look besides: by sequence, its proposals themselves."""
    paths = {video.name: proposal_files.path_of(config.model.proposals_dir, video.name) for video in videos}
    return {
        name: {"proposals_read": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in paths.items()
    }


def read_frames(
    video: sources.Video, proposals_dir: str, num_proposals: int
) -> Iterator[np.ndarray | tuple[np.ndarray, proposals_lib.Proposals]]:
    """Yields what the tracker takes: frames, with their proposals where those come from files."""
    if not num_proposals:
        yield from (video.frame(index) for index in range(len(video)))
        return
    # Read again, though it was checked before: the proposals of a large data set need not fit into memory.
    found = proposal_files.read_video(proposals_dir, video)
    padded = state_lib.padded_size(video.size)
    for index, name in enumerate(video.frame_names):
        yield (
            video.frame(index),
            proposal_files.arrays(
                found, name, frame_size=video.size, padded_size=padded, capacity=num_proposals
            ),
        )


def segment(
    video: sources.Video,
    frames: Iterator,
    follower: tracker.Tracker,
    masks_out: writer.MaskWriter,
    advance,
) -> dict[str, float]:
    """Follows the objects of one video, writes every frame's mask, returns the seconds by kind.

    "io" is what the loop waited for frames and for the writer: both work in threads of their own.
    """
    seconds = {"compile": 0.0, "inference": 0.0, "io": 0.0}
    compiled = follower.seconds["compile"]
    start = time.perf_counter()
    frames = prefetch.prefetch(frames, FRAMES_AHEAD)
    tracked = follower.track(waiting(frames, seconds), video.inputs())
    for done, (name, result) in enumerate(zip(video.frame_names, tracked, strict=True), start=1):
        before = time.perf_counter()
        masks_out.write(video.name, name, result.ids)
        now = time.perf_counter()
        seconds["io"] += now - before
        advance(done / max(now - start - (follower.seconds["compile"] - compiled), 1e-9))
    before = time.perf_counter()
    masks_out.flush()
    seconds["io"] += time.perf_counter() - before
    seconds["compile"] = follower.seconds["compile"] - compiled
    seconds["inference"] = time.perf_counter() - start - seconds["compile"] - seconds["io"]
    return seconds


def waiting(frames: Iterable, seconds: dict[str, float]) -> Iterator:
    """Passes frames on and adds to `seconds["io"]` what was waited for them."""
    frames = iter(frames)
    while True:
        before = time.perf_counter()
        frame = next(frames, None)
        seconds["io"] += time.perf_counter() - before
        if frame is None:
            return
        yield frame


def draw(video: sources.Video, out: pathlib.Path) -> pathlib.Path:
    """Lays the masks in OUT over the frames: an mp4 and a contact sheet; returns the sheet's path."""
    return overlay.draw_video(video, lambda name: writer.mask_path(out, video.name, name), out / "overlays")


if __name__ == "__main__":
    sys.exit(main())
