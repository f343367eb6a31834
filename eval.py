"""Segments a data set, scores it with the official DAVIS measures, prints a table.

    python eval.py --config davis17 --data data/DAVIS
    python eval.py --config demo --overlay            # needs no data
    python eval.py --config davis16 --score-only somebody/results

writes OUT/<sequence>/<frame>.png (indexed, DAVIS palette) and OUT/results.json; with --overlay also
OUT/overlays/<sequence>.mp4 and .png. The same command goes on where an interrupted one stopped.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich import console

import vos_jax
from vos_jax import api, cli, devices, errors, files, output_folder, processes
from vos_jax import config as configs
from vos_jax.data import datasets
from vos_jax.data import video as video_lib
from vos_jax.evaluation import report, scoring, segment_dataset, submission, workers
from vos_jax.inference import config as inference_config
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import mask_writer, propagate, result_store, video_results
from vos_jax.typing import Device
from vos_jax.visualize import figures, overlay

UNUSED = configs.Unused("eval.py", sections=("train.",))


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: options, and the config overrides among them."""
    parser = cli.Parser("eval.py", __doc__, example="model.memory.every=3")
    parser.add_argument("--data", metavar="DIR", help="where the data set lies (default: data/DAVIS)")
    parser.add_argument("--out", metavar="DIR", help="where results go (default: the config's eval.out)")
    parser.add_argument("--sequences", metavar="a,b", help="only these sequences")
    parser.add_argument(
        "--checkpoint", metavar="auto|none|PATH", help="trained weights; none = training-free"
    )
    parser.add_argument("--score-only", metavar="RESULTS_DIR", help="score the PNGs there, segment nothing")
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
    cli.add_max_size(parser)
    parser.add_argument("--scales", metavar="0.75,1.0", help="merge views of these sizes")
    parser.add_argument("--flip", action="store_true", help="merge mirrored views")
    parser.add_argument("--adapt", type=int, metavar="N", help="learn N steps from masks that are given")
    parser.add_argument(
        "--save-probabilities", action="store_true", help="soft masks, for vos_jax.tools.merge"
    )
    parser.add_argument(
        "--batch-videos", type=int, metavar="N", help="segment N videos of one size together: accelerators"
    )
    parser.add_argument("--direction", choices=inference_config.DIRECTIONS, help="which way from the masks")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0, where several share the work"
    )
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--join-timeout", type=int, metavar="SECONDS", help="how long to wait for the others")
    return parser.parse(arguments)


def configure(options: argparse.Namespace, overrides: Sequence[str]) -> configs.Config:
    """Returns the settings with the options of the command line."""
    names, scales = options.sequences, options.scales
    sequences = None if names is None else tuple(n.strip() for n in names.split(",") if n.strip())
    if sequences == ():
        raise errors.VosError("--sequences names no sequence; write --sequences dog,camel")
    config = cli.apply(
        configs.load(options.config, overrides),
        {
            "--checkpoint": ("checkpoint", options.checkpoint or None),
            "--data": ("data.root", options.data),
            "--sequences": ("data.sequences", sequences),
            "--dtype": ("model.dtype", options.dtype),
            "--adapt": ("inference.adaptation.steps", options.adapt),
            "--max-size": ("inference.max_size", options.max_size),
            "--scales": ("inference.scales", None if scales is None else cli.parse_scales(scales)),
            "--flip": ("inference.flip", options.flip or None),
            "--direction": ("inference.direction", options.direction),
            "--out": ("eval.out", options.out),
            "--overlay": ("eval.overlay", options.overlay or None),
            "--overwrite": ("eval.overwrite", options.overwrite or None),
            "--batch-videos": ("eval.batch_videos", options.batch_videos),
            "--save-probabilities": ("eval.save_probabilities", options.save_probabilities or None),
        },
    )
    UNUSED.check(config, overrides)
    return config if options.score_only is not None else api.resolve(config, overrides)


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    with contextlib.ExitStack() as cleanup:
        evaluate(options, configure(options, overrides), cleanup)


def evaluate(options: argparse.Namespace, config: configs.Config, cleanup: contextlib.ExitStack) -> None:
    """Segments and scores the data set. Callbacks in `cleanup` run on every exit."""
    screen = cli.make_console()

    # ---------------------------------------------------------------- data
    dataset = datasets.open_dataset(config.data)
    if options.score_only is not None:
        score_only(screen, options, config, dataset, cleanup)
        return
    videos = list(dataset)
    for video in videos:
        video.check()

    # ---------------------------------------------------------------- model
    # In this order: JAX looks for other processes only before it settles on devices.
    devices.prefer(options.device)
    group = processes.join(
        options.coordinator,
        options.num_processes,
        options.process_id,
        timeout_seconds=options.join_timeout,
    )
    device, local = devices.choose(options.device), devices.local()
    engines = workers.make_workers(
        lambda: api.make_engine(config, intermediates=config.eval.intermediates), local
    )
    api.check_adapt(engines[0], options.adapt)
    for video in videos:
        propagate.check(engines[0], video, video.prompts(), soft=config.eval.save_probabilities)
    figures.check(options.visualize, engines[0].model, videos, options.frame)

    # ---------------------------------------------------------------- results folder
    with group.leader_first("record"):
        store, results = open_store(options, config, engines[0].source, videos, group.index, cleanup)
    finished = {name for name, found in results.items() if found.finished()}
    # Before anything is noted: all processes partition the same videos.
    group.barrier("finished")
    cleanup.enter_context(group.together("done"))
    todo = group.partition([v for v in videos if v.name not in finished], segment_dataset.cost)
    on = device if len(local) * group.count == 1 else f"{len(local) * group.count} x {device}"
    about = f"{dataset.name} {dataset.split}: {len(videos)} sequence(s)"
    screen.print(f"{about} on {on}, checkpoint {engines[0].source}")
    if engines[0].adapts:
        screen.print(f"learning {config.inference.adaptation.steps} steps from each frame with masks given")
    if finished:
        screen.print(f"{len(finished)} finished before are kept (--overwrite does them again)")
    if group.count > 1:
        screen.print(f"process {group.index} of {group.count}: {len(todo)} sequence(s)")

    scores, pictures = segment(screen, config, group, engines, local, videos, todo, finished, store, results)
    for name in store.output.kept:
        screen.print(f"{store.folder / name} is not as this program wrote it, and was kept")
    if not group.is_leader:
        return

    # ---------------------------------------------------------------- results
    found = make_report(config, dataset, videos, store, scores, on, engines[0].source)
    report.write(dataset, store.folder, found)
    print_report(screen, store.folder, found)
    if options.zip:
        packed = submission.pack(dataset, store.folder, store.folder / submission.NAME)
        screen.print(f"for the server: {packed}")
    for picture in pictures:
        screen.print(f"look at: {picture} (and {picture.with_suffix('.mp4').name} beside it)")
    if options.visualize:
        one_view = configs.replace(config, {"inference.scales": (1.0,), "inference.flip": False})
        plain = engines[0] if one_view.inference == config.inference else api.make_engine(one_view)
        arguments = options.visualize, videos, plain, store.folder, options.frame, scores.scores()
        for picture in figures.draw(*arguments):
            screen.print(f"look at: {picture}")
    store.compact()


def segment(
    screen: console.Console,
    config: configs.Config,
    group: processes.ProcessGroup,
    engines: Sequence[engine_lib.Engine],
    local: Sequence[Device],
    videos: Sequence[video_lib.Video],
    todo: Sequence[video_lib.Video],
    finished: Collection[str],
    store: result_store.ResultStore,
    results: Mapping[str, video_results.VideoResults],
) -> tuple[scoring.ScorePool, list[pathlib.Path]]:
    """Segments `todo` on the `local` devices; scores and draws each video as soon as it is ready.

    Returns:
      The scores, in the first process those of all videos, and the overlays that this process drew.
    """
    drawn: list[concurrent.futures.Future] = []
    with (
        cli.make_progress(screen) as progress,
        scoring.ScorePool(config.eval.workers) as scores,
        concurrent.futures.ThreadPoolExecutor(1, "vos-overlay") as painter,
    ):
        total = sum(map(len, todo))
        task = progress.add_task("segmenting", total=total, fps=0.0, visible=total > 0)

        def advance(frames: int, fps: float) -> None:
            progress.update(task, advance=frames, fps=fps)

        def take(ready: Iterable[video_lib.Video], *, draw: bool = True) -> None:
            for video in ready:
                scores.submit(video, store.folder)
                if config.eval.overlay and draw:
                    drawn.append(painter.submit(draw_overlay, video, store.folder))
                print_scores(screen, store, scores)

        if group.is_leader:
            take(video for video in videos if video.name in finished)
        with group.together("segmented"):
            batch = config.eval.batch_videos
            ready = segment_dataset.segment_dataset(engines, local, todo, results, advance, batch=batch)
            with contextlib.closing(ready):
                take(video for video, _ in ready)
            # Before the leader merges the records of all processes: drawing adds to them.
            pictures = [each.result() for each in drawn]
        if group.is_leader:
            store.merge_processes()
            processes.check_finished(store.unfinished([video.name for video in videos]))
            here = {*finished, *(video.name for video in todo)}
            take((video for video in videos if video.name not in here), draw=False)
        print_scores(screen, store, scores, wait=True)
    return scores, pictures


def open_store(
    options: argparse.Namespace,
    config: configs.Config,
    checkpoint: str,
    videos: Sequence[video_lib.Video],
    process: int,
    cleanup: contextlib.ExitStack,
) -> tuple[result_store.ResultStore, dict[str, video_results.VideoResults]]:
    """Returns OUT and each video's place in it; VosError if files of others are there."""
    store = cleanup.enter_context(
        result_store.ResultStore(
            config.eval.out,
            segment_dataset.settings(configs.flatten(config), checkpoint, vos_jax.__version__),
            overwrite=config.eval.overwrite,
            inputs=segment_dataset.inputs(config.data, config.model.proposals, videos),
            process=process,
        )
    )
    drawn = [video.name for video in videos] if config.eval.overlay else []
    pictures = [f"{overlay.FOLDER}/{name}{suffix}" for name in drawn for suffix in (".mp4", ".png")]
    packed = [submission.NAME] if options.zip else []
    for name in (*report.names(config.data.split), *packed, *pictures):
        store.output.check(store.folder / name)
    proposals = config.model.proposals
    return store, {
        video.name: segment_dataset.open_results(store, video, config.eval, proposals) for video in videos
    }


def make_report(
    config: configs.Config,
    dataset: datasets.VideoDataset,
    videos: Sequence[video_lib.Video],
    store: result_store.ResultStore,
    scores: scoring.ScorePool,
    on: str,
    checkpoint: str,
) -> dict:
    """Returns the content of results.json; scores are in the order of the data set."""
    summaries = {video.name: store.summary(video.name) for video in videos}
    seconds = {
        kind: sum(summary.seconds.get(kind, 0.0) for summary in summaries.values())
        for kind in video_results.KINDS
    }
    frames = sum(map(len, videos))
    speed = {
        "fps": frames / max(sum(summary.working_seconds for summary in summaries.values()), 1e-9),
        "fps_inference": frames / seconds["inference"] if seconds["inference"] else None,
        "peak_memory_mb": devices.peak_memory_mb(),
    }
    seconds["score"] = scores.seconds
    order = {video.name: place for place, video in enumerate(videos)}
    table = scoring.table(dataset, sorted(scores.scores(), key=lambda score: order[score.sequence]))
    presence = {name: summary.to_json()["presence"] for name, summary in summaries.items()}
    settings = configs.flatten(config)
    return report.make(dataset, settings, table, frames, speed, seconds, on, checkpoint, presence)


def print_scores(
    screen: console.Console, store: result_store.ResultStore, scores: scoring.ScorePool, *, wait: bool = False
) -> None:
    """Prints a line for each video that has been scored since the last call."""
    for video, found in scores.ready(wait=wait):
        fps = len(video) / max(store.summary(video.name).working_seconds, 1e-9)
        line = cli.sequence_line(video.name, found)
        screen.print(f"{line}  {len(video)} frames  {fps:.2f} fps")


def score_only(
    screen,
    options: argparse.Namespace,
    config: configs.Config,
    dataset: datasets.VideoDataset,
    cleanup: contextlib.ExitStack,
) -> None:
    """Scores PNGs that are there. Results go to --out, or beside the PNGs where no file has their names."""
    folder = pathlib.Path(options.score_only)
    out = folder if options.out is None else pathlib.Path(options.out)
    own = None
    read = segment_dataset.inputs(config.data, config.model.proposals, dataset)
    output_folder.check_apart(out, read)
    if options.out is not None:
        own = output_folder.OutputFolder(out, inputs=[folder])
        cleanup.callback(own.close)
        for name in (*report.names(dataset.split), *([submission.NAME] if options.zip else [])):
            own.check(out / name)
    elif os.path.lexists(folder / output_folder.NAME):
        own = output_folder.OutputFolder(out)
        cleanup.callback(own.close)
    start = time.perf_counter()
    summary = scoring.score_folder(
        dataset,
        folder,
        workers=config.eval.workers,
        on_sequence=lambda name, scores: screen.print(cli.sequence_line(name, scores)),
    )
    frames = sum(map(len, dataset))
    seconds: dict[str, float] = dict.fromkeys(video_results.KINDS, 0.0)
    seconds["score"] = time.perf_counter() - start
    speed = dict.fromkeys(("fps", "fps_inference", "peak_memory_mb"))
    found = report.make(dataset, configs.flatten(config), summary, frames, speed, seconds, None, None, None)
    names = report.names(dataset.split)
    kept = [out / name for name in names if options.out is None and os.path.lexists(out / name)]
    if kept:
        cli.print_scores(screen, found)
    else:
        files.check_writable(out)
        report.write(dataset, out, found)
        print_report(screen, out, found)
    if options.zip:
        packed = out / submission.NAME
        if os.path.lexists(packed) and (own is None or not own.owns(packed)):
            kept.append(packed)
        else:
            screen.print(f"for the server: {submission.pack(dataset, folder, packed)}")
    for path in kept:
        screen.print(f"{path} is kept as it is; --out DIR writes a new one")
    if own is not None:
        own.compact()


def print_report(screen, out: pathlib.Path, found: dict) -> None:
    """Prints the table of scores and where the results lie."""
    cli.print_scores(screen, found)
    screen.print(f"masks and results.json: {out}")


def draw_overlay(video: video_lib.Video, out: pathlib.Path) -> pathlib.Path:
    """Lays the masks in OUT over the frames: an mp4 and a contact sheet; returns the sheet's path."""
    return overlay.draw_video(
        video, lambda name: mask_writer.mask_path(out, video.name, name), out / overlay.FOLDER
    )


if __name__ == "__main__":
    sys.exit(main())
