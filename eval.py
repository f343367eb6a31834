"""Segments a data set, scores it with the official DAVIS measures, prints a table.

    python eval.py --config davis17 --data data/DAVIS
    python eval.py --config demo --overlay            # needs no data
    python eval.py --config davis16 --score_only somebody/results

writes OUT/<sequence>/<frame>.png (indexed, DAVIS palette) and OUT/results.json; with --overlay also
OUT/overlays/<sequence>.mp4 and .png. The same command goes on where an interrupted one stopped.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Sequence

from vos_jax import command, devices, errors, files, geometry, processes
from vos_jax import config as configs
from vos_jax.data import datasets, proposal_files, submission
from vos_jax.data import video as video_lib
from vos_jax.inference import (
    direction,
    followers,
    probabilities,
    record,
    results,
    segmentation,
    settings,
    spread,
    views,
    writer,
)
from vos_jax.metrics import scoring
from vos_jax.models import weights
from vos_jax.visualize import console, figures, overlay

UNUSED = configs.Unused("eval.py", sections=("train.",))


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: options, and the config overrides among them."""
    parser = command.Parser("eval.py", __doc__, example="model.memory.every=3")
    parser.add_argument("--data", metavar="DIR", help="where the data set lies (default: data/DAVIS)")
    parser.add_argument("--out", metavar="DIR", help="where results go (default: the config's eval.out)")
    parser.add_argument("--sequences", metavar="a,b", help="only these sequences")
    parser.add_argument(
        "--checkpoint", metavar="auto|none|PATH", help="trained weights; none = training-free"
    )
    parser.add_argument("--score_only", metavar="RESULTS_DIR", help="score the PNGs there, segment nothing")
    parser.add_argument("--overlay", action="store_true", help="draw colour overlays: mp4 and contact sheet")
    parser.add_argument(
        "--visualize",
        metavar="a,b",
        type=figures.parse,
        default=(),
        help=f"draw figures: {', '.join(figures.KINDS)}",
    )
    parser.add_argument("--frame", type=int, help="which frame --visualize draws (default: the middle one)")
    parser.add_argument("--overwrite", action="store_true", help="segment anew what is finished")
    parser.add_argument("--zip", action="store_true", help="pack the masks for the data set's server")
    parser.add_argument("--max_size", type=int, metavar="N", help="shrink frames to a short side of N inside")
    parser.add_argument("--scales", metavar="0.75,1.0", help="merge views of these sizes")
    parser.add_argument("--flip", action="store_true", help="merge mirrored views")
    parser.add_argument("--adapt", type=int, metavar="N", help="learn N steps from masks that are given")
    parser.add_argument("--save_probabilities", action="store_true", help="soft masks, for vos_jax.merge")
    parser.add_argument("--direction", choices=direction.DIRECTIONS, help="from the annotated frames on")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0, where several share the work"
    )
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    return parser.parse(arguments)


def configure(options: argparse.Namespace, overrides: Sequence[str]) -> configs.Config:
    """Returns the settings with the options of the command line."""
    names, scales = options.sequences, options.scales
    sequences = None if names is None else tuple(n.strip() for n in names.split(",") if n.strip())
    if sequences == ():
        raise errors.VosError("--sequences names no sequence; write --sequences dog,camel")
    config = command.apply(
        configs.load(options.config, overrides),
        {
            "--checkpoint": ("checkpoint", options.checkpoint or None),
            "--data": ("data.root", options.data),
            "--sequences": ("data.sequences", sequences),
            "--dtype": ("model.dtype", options.dtype),
            "--adapt": ("inference.adaptation.steps", options.adapt),
            "--max_size": ("inference.max_size", options.max_size),
            "--scales": ("inference.scales", None if scales is None else views.parse_scales(scales)),
            "--flip": ("inference.flip", options.flip or None),
            "--direction": ("inference.direction", options.direction),
            "--out": ("eval.out", options.out),
            "--overlay": ("eval.overlay", options.overlay or None),
            "--overwrite": ("eval.overwrite", options.overwrite or None),
            "--save_probabilities": ("eval.save_probabilities", options.save_probabilities or None),
        },
    )
    UNUSED.check(config, overrides)
    return config


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    with contextlib.ExitStack() as last:
        evaluate(options, configure(options, overrides), last)


def evaluate(options: argparse.Namespace, config: configs.Config, last: contextlib.ExitStack) -> None:
    """The whole program; `last` is what is left to do at its end, come what may."""
    screen = console.make_console()

    # ---------------------------------------------------------------- data
    dataset = datasets.open_dataset(config.data)
    if options.score_only is not None:
        score_only(screen, options, config, dataset)
        return
    videos = list(dataset)
    for video in videos:
        video.check()

    # ---------------------------------------------------------------- model
    # In this order: JAX looks for other processes only before it settles on devices.
    devices.prefer(options.device)
    group = processes.join(options.coordinator, options.num_processes, options.process_id)
    device = devices.choose(options.device)
    model, params, checkpoint = weights.load_model(config.model, config.checkpoint)
    followers.check(config, model, options.adapt)
    num_proposals = weights.num_proposals(config.model, model)
    local = devices.local()
    workers = spread.make_workers(
        lambda: followers.make_follower(config, model, params, num_proposals), local
    )
    for video in videos:
        views.check_size(video.size, config.inference)
        direction.check(
            video.prompts(), workers[0], config.inference.direction, config.eval.save_probabilities
        )
        if num_proposals:
            proposal_files.read_video(config.model.proposals.folder, video)
    figures.check(options.visualize, model, videos, options.frame)
    scores = scoring.ScorePool(config.eval.workers)
    out = pathlib.Path(config.eval.out)
    files.check_writable(out)
    if group.is_leader:
        files.lock_folder(out)
        files.remove_leftovers(out)
    with group.leader_first("record"):
        log = record.Record(
            out,
            settings.of_run(config, checkpoint),
            own=settings.of_sequences(config.model.proposals.folder, videos) if num_proposals else {},
            overwrite=config.eval.overwrite,
            part=group.index,
        )
    finished = {video.name for video in videos if log.is_finished(video)}
    if config.eval.save_probabilities:
        finished = {v.name for v in videos if v.name in finished and probabilities.complete(out, v)}
    on = device if len(local) * group.count == 1 else f"{len(local) * group.count} x {device}"
    screen.print(
        f"{dataset.name} {dataset.split}: {len(videos)} sequence(s) on {on}, checkpoint {checkpoint}"
    )
    if followers.adapts(config, model):
        screen.print(f"learning {config.inference.adaptation.steps} steps from each frame with masks given")
    if finished:
        screen.print(f"{len(finished)} finished before are kept (--overwrite does them again)")

    # ---------------------------------------------------------------- segment, score, draw
    scored: dict[str, concurrent.futures.Future] = {}
    drawn: list[concurrent.futures.Future] = []
    with (
        console.make_progress(screen) as progress,
        scores,
        concurrent.futures.ThreadPoolExecutor(1, "vos-overlay") as painter,
    ):
        # Before anything is noted: all processes partition the same videos.
        group.barrier("finished")
        last.enter_context(group.together("done"))
        todo = group.partition([v for v in videos if v.name not in finished], segmentation.cost)
        if group.count > 1:
            screen.print(f"process {group.index} of {group.count}: {len(todo)} sequence(s)")
        total = sum(map(len, todo))
        task = progress.add_task("segmenting", total=total, fps=0.0, visible=total > 0)

        def work(masks_out, video: video_lib.Video, follower, stop) -> segmentation.Segmented:
            def advance(fps: float) -> None:
                stop()
                progress.update(task, advance=1, fps=fps)

            log.note(video.name, None)
            return segmentation.segment(
                video,
                follower,
                masks_out,
                advance,
                read=segmentation.reader(
                    video,
                    config.model.proposals.folder,
                    num_proposals,
                    geometry.working_size(video.size, config.inference.min_size, config.inference.max_size),
                ),
                direction=config.inference.direction,
                save_probabilities=config.eval.save_probabilities,
            )

        unprinted: list[video_lib.Video] = []

        def hand_on(video: video_lib.Video, *, undrawn: bool = True) -> None:
            scored[video.name] = scores.submit(video, out)
            unprinted.append(video)
            if config.eval.overlay and undrawn:
                drawn.append(painter.submit(draw, video, out))
            print_scored(wait=False)

        def print_scored(*, wait: bool) -> None:
            while unprinted and (wait or scored[unprinted[0].name].done()):
                video = unprinted.pop(0)
                line = console.sequence_line(video.name, scored[video.name].result())
                fps = len(video) / log.working_seconds(video.name)
                screen.print(f"{line}  {len(video)} frames  {fps:.2f} fps")

        if group.is_leader:
            for video in videos:
                if video.name in finished:
                    hand_on(video)
        with group.together("segmented"), writer.MaskWriter(out) as masks_out:
            working = functools.partial(work, masks_out)
            with contextlib.closing(spread.spread(working, todo, workers, local, segmentation.cost)) as ready:
                for video, segmented in ready:
                    log.note(video.name, segmented.seconds, segmented.presence)
                    hand_on(video)
        if group.is_leader:
            log.gather()
            processes.check_finished(log.unfinished(videos))
            for video in videos:
                if video.name not in scored:
                    hand_on(video, undrawn=False)
        print_scored(wait=True)
        pictures = [drawing.result() for drawing in drawn]
        if not group.is_leader:
            return
        object_scores = [score for video in videos for score in scored[video.name].result()]
        summary = scoring.table(dataset, object_scores)

    # ---------------------------------------------------------------- results
    seconds = {
        kind: sum(log.seconds(video.name).get(kind, 0.0) for video in videos)
        for kind in ("compile", "adaptation", "inference", "io")
    }
    frames = sum(len(video) for video in videos)
    in_model = sum(log.seconds(video.name).get("model", 0.0) for video in videos)
    speed = {
        "fps": frames / sum(log.working_seconds(video.name) for video in videos),
        "fps_inference": frames / in_model if in_model else None,
        "peak_memory_mb": devices.peak_memory_mb(),
    }
    seconds["score"] = scores.seconds
    presence = {video.name: log.presence(video.name) for video in videos}
    found = results.make(dataset, config, summary, frames, speed, seconds, on, checkpoint, presence)
    results.write(screen, dataset, out, found)
    if options.zip:
        screen.print(f"for the server: {submission.pack(dataset, out, out / 'submission.zip')}")
    for picture in pictures:
        screen.print(f"look at: {picture} (and {picture.with_suffix('.mp4').name} beside it)")
    if options.visualize:
        plain = followers.make_plain(config, model, params)
        for picture in figures.draw(options.visualize, videos, plain, out, options.frame, object_scores):
            screen.print(f"look at: {picture}")


def score_only(
    screen, options: argparse.Namespace, config: configs.Config, dataset: datasets.VideoDataset
) -> None:
    """Scores PNGs that are there; results.json goes beside them, or to --out."""
    folder = pathlib.Path(options.score_only)
    out = folder if options.out is None else pathlib.Path(options.out)
    if options.out is not None:
        files.check_writable(out)
    start = time.perf_counter()
    summary = scoring.score_folder(
        dataset,
        folder,
        workers=config.eval.workers,
        on_sequence=lambda name, scores: screen.print(console.sequence_line(name, scores)),
    )
    frames = sum(map(len, dataset))
    seconds = {
        "compile": 0.0,
        "adaptation": 0.0,
        "inference": 0.0,
        "io": 0.0,
        "score": time.perf_counter() - start,
    }
    speed = dict.fromkeys(("fps", "fps_inference", "peak_memory_mb"))
    found = results.make(dataset, config, summary, frames, speed, seconds, None, None, None)
    if options.out is None and (folder / "results.json").exists():
        console.print_results(screen, found)
        screen.print(f"{folder / 'results.json'} is kept as it is; --out DIR writes a new one")
    else:
        files.check_writable(out)
        results.write(screen, dataset, out, found)
    if options.zip:
        screen.print(f"for the server: {submission.pack(dataset, folder, out / 'submission.zip')}")


def draw(video: video_lib.Video, out: pathlib.Path) -> pathlib.Path:
    """Lays the masks in OUT over the frames: an mp4 and a contact sheet; returns the sheet's path."""
    return overlay.draw_video(video, lambda name: writer.mask_path(out, video.name, name), out / "overlays")


if __name__ == "__main__":
    sys.exit(main())
