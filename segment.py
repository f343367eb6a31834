"""Segments your own video: give it the masks of one frame, get those of every frame.

    python segment.py holiday.mp4 --masks first.png --out results/holiday
    python segment.py frames/ --masks first.png --masks 120:second.png --cutout webm --rle

writes OUT/masks/*.png (indexed, DAVIS palette) and OUT/overlay.mp4; with --cutout OUT/cutout.webm or
OUT/cutout/*.png, with --rle OUT/masks.json (COCO). The same command goes on where an interrupted one stopped;
with another mask of a later frame it keeps the frames before that one.

A mask is a PNG of the video's size: background black, each object one flat colour; white on black is a single
object. A colour of the DAVIS palette or the index of an indexed PNG says which object it is, other colours
are 1, 2, ... `120:second.png` is of frame 120, counted from 0: objects that are known are corrected there,
others appear. `120:dog.png@2` says that what is not black is object 2; if all is black, object 2 is not in
that frame. A folder's masks are of the frames that they are named like.
"""

import argparse
import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from rich import console
from rich import progress as rich_progress

import vos_jax
from vos_jax import api, cli, devices, errors, option_parser, output_folder
from vos_jax import config as configs
from vos_jax.data import mask_options
from vos_jax.data import media as media_lib
from vos_jax.data import prompts as prompts_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import result_store, segment_video, video_results
from vos_jax.visualize import exports

MASKS = "masks"
"""The folder of the masks in OUT."""

Prompts = Mapping[int, prompts_lib.Prompt]
"""The prompts of a video, by frame."""

UNUSED = configs.Unused(
    "segment.py",
    sections=("data.", "eval.", "train."),
    keys=("inference.direction", "model.proposals.source=file"),
)


class _Parser(option_parser.OptionParser):
    def error(self, message: str):
        raise errors.VosError(f"{message} (--help shows what there is)")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: options, and the config overrides among them."""
    parser = _Parser(
        prog="segment.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("video", help="mp4, mov, webm, avi, GIF, ..., or a folder of images")
    parser.add_argument(
        "--masks",
        metavar="[FRAME:]PNG[@ID]|DIR",
        action="append",
        default=[],
        help="what to follow (needed); may be said several times",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="where the results go")
    parser.add_argument("--cutout", choices=("png", "webm"), help="the objects alone, on nothing")
    parser.add_argument("--rle", action="store_true", help="the masks as one COCO JSON, too")
    parser.add_argument(
        "--export",
        metavar="NAME",
        action="append",
        default=[],
        choices=list(exports.EXPORTS),
        help=f"one of {', '.join(exports.EXPORTS)}; several times for more",
    )
    parser.add_argument("--no-overlay", dest="overlay", action="store_false", help="draw no overlay.mp4")
    parser.add_argument(
        "--resize-masks", action="store_true", help="fit masks of another size (same shape) to the video"
    )
    parser.add_argument("--fps", type=float, help="frames per second of a folder of images (default: 24)")
    parser.add_argument(
        "--checkpoint", metavar="auto|none|PATH", help="trained weights; none = training-free"
    )
    parser.add_argument("--config", default="default", help="a config by name, or a path to a .py file")
    cli.add_max_size(parser)
    parser.add_argument("--adapt", type=int, metavar="N", help="learn N steps from masks that are given")
    parser.add_argument("--overwrite", action="store_true", help="segment anew what is there already")
    parser.add_argument("--device", choices=devices.NAMES)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.epilog = (
        "--config.KEY=VALUE changes any key of docs/configuration.md, e.g. --config.model.memory.every=3"
    )
    rest, overrides = configs.split_arguments(arguments)
    options = parser.parse_args(rest)
    if not options.masks:
        raise errors.VosError(
            "there is no mask: --masks first.png names that of the first frame; docs/tutorial.md "
            "describes how to paint one"
        )
    if options.fps is not None and not 0.1 <= options.fps <= 1000:
        raise errors.VosError(f"--fps {options.fps}: between 0.1 and 1000")
    return options, overrides


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    config = configs.load(options.config, overrides)
    config = cli.apply(
        config,
        {
            "--checkpoint": ("checkpoint", options.checkpoint or None),
            "--dtype": ("model.dtype", options.dtype),
            "--max-size": ("inference.max_size", options.max_size),
            "--adapt": ("inference.adaptation.steps", options.adapt),
        },
    )
    UNUSED.check(config, overrides)
    config = api.resolve(config, overrides)
    with contextlib.ExitStack() as last:
        run(options, config, last)


def run(options: argparse.Namespace, config: configs.Config, last: contextlib.ExitStack) -> None:
    """Segments the video and exports its masks. Callbacks in `last` run on every exit."""
    screen = cli.make_console()

    # ---------------------------------------------------------------- video and masks
    given = [mask_options.parse(text) for text in options.masks]
    media = media_lib.open_media(options.video, fps=options.fps, exclude=[mask.path for mask in given])
    given = mask_options.expand(given, functools.partial(find_frame, media))
    prompts = mask_options.read(
        given, media.size, resize=options.resize_masks, aspect=media.aspect, note=screen.print
    )
    if max(prompts) >= media.max_frames:
        assert media.num_frames is not None  # else `max_frames` is infinite
        check_frames(prompts, media.num_frames)
    out = pathlib.Path(options.out)
    names = choose_exports(options)

    # ---------------------------------------------------------------- model
    device = devices.choose(options.device)
    engine = api.make_engine(config)
    api.check_adapt(engine, options.adapt)
    count = objects_lib.check(prompts, engine)
    engine.views(media.size)  # raises if frames are too small
    store = last.enter_context(
        result_store.ResultStore(
            out,
            settings(config, media, prompts, engine.fingerprint),
            overwrite=options.overwrite,
            inputs=[options.video, *(mask.path for mask in given)],
        )
    )
    paths = [export.path for export in exports.EXPORTS.values()]
    results = store.video(media, name=MASKS, correctable=True, exports=paths)
    check_exports(store.output, names, media, media.num_frames or 0)
    height, width = media.size
    screen.print(
        f"{options.video}: {width}x{height}, {media.num_frames or '?'} frames, {count} object(s), "
        f"on {device}, checkpoint {engine.source}"
    )
    inside = engine.views(media.size)[0].size
    if inside < media.size:
        screen.print(
            f"segmented at {inside[1]}x{inside[0]}, the masks at {width}x{height} (--max-size N: at a short "
            "side of N pixels, 0: at the video's own size, which is slower)"
        )
    if engine.adapts:
        screen.print(f"learning {config.inference.adaptation.steps} steps from each frame that --masks is of")

    # ---------------------------------------------------------------- segment, export
    with cli.make_progress(screen) as progress:
        done = segment(screen, progress, engine, media, prompts, results)
        check_exports(store.output, names, media, done)
        remove_outdated(store.output, names, results, done)
        missing = [name for name in names if _is_missing(exports.EXPORTS[name], out)]
        if missing:
            start, task = time.perf_counter(), progress.add_task("drawing", total=done, fps=0.0)

            def advance() -> None:
                drawn = progress.tasks[task].completed + 1
                progress.update(task, completed=drawn, fps=drawn / (time.perf_counter() - start))

            exports.export_video(missing, media, results.read, out, advance)
    check_frames(prompts, done)
    for object_id, frame in last_seen(results, done, prompts).items():
        screen.print(
            f"object {object_id} was last seen in frame {frame}; if it is still there, mask it again where "
            f"it begins to fade: --masks FRAME:FILE.png@{object_id}"
        )
    for name in store.output.kept:
        screen.print(f"{out / name} is not as this program wrote it, and was kept")
    screen.print(f"masks: {out / MASKS}")
    for name in names:
        screen.print(f"look at: {out / exports.EXPORTS[name].path}")
    store.compact()


def segment(
    screen: console.Console,
    progress: rich_progress.Progress,
    engine: engine_lib.Engine,
    media: media_lib.Media,
    prompts: Prompts,
    results: video_results.VideoResults,
) -> int:
    """Segments the frames that have no mask yet; returns the number of frames."""
    if results.finished():
        assert results.summary is not None  # it is finished
        screen.print(f"all {results.summary.frames} masks are there already (--overwrite makes them anew)")
        return results.summary.frames
    agreed = results.agreed
    segmented = segment_video.segment_video(engine, media, prompts, results)
    if 0 < agreed < video_results.ALL_FRAMES:
        screen.print(describe_change(agreed, results.frames))
    elif results.frames:
        screen.print(f"going on at frame {results.frames}")
    task = progress.add_task("segmenting", total=media.num_frames, completed=results.frames, fps=0.0)
    for result in segmented:
        progress.update(task, completed=result.index + 1, fps=results.fps)
    progress.update(task, total=results.frames)
    return results.frames


def describe_change(frame: int, start: int) -> str:
    """Returns the line on masks that changed from `frame` on, for a run that begins at frame `start`."""
    found = f"the given masks changed from frame {frame} on: "
    if start == 0:
        return f"{found}no earlier state was saved, so every frame is segmented again"
    return f"{found}going on at frame {start}; the frames before it are kept"


def find_frame(media: media_lib.Media, stem: str) -> int | None:
    """Returns the frame that a mask's file is named like: its own name, or its number in a film."""
    if not isinstance(media, media_lib.ImageFolder):
        return int(stem) if stem.isascii() and stem.isdigit() else None
    names = {media.mask_name(index): index for index in range(media.num_frames or 0)}
    return names.get(stem)


def choose_exports(options: argparse.Namespace) -> list[str]:
    """Returns the names of the exports; VosError if this installation cannot write one."""
    names = ["overlay"] if options.overlay else []
    names += [f"cutout_{options.cutout}"] if options.cutout else []
    names += ["coco"] if options.rle else []
    names += options.export
    for name in names:
        exports.EXPORTS[name].check_codec()
    return list(dict.fromkeys(names))


def check_exports(
    output: output_folder.OutputFolder, names: Sequence[str], media: media_lib.Media, num_frames: int
) -> None:
    """Raises VosError if an export would replace a file of the user's."""
    for export in map(exports.EXPORTS.__getitem__, names):
        path = output.path / export.path
        if export.is_folder:
            output.check_place(path / "any.png")
            for index in range(num_frames):
                output.check(path / f"{media.mask_name(index)}.png")
        else:
            output.check(path)


def remove_outdated(
    output: output_folder.OutputFolder,
    names: Sequence[str],
    results: video_results.VideoResults,
    done: int,
) -> None:
    """Removes exports that are older than a mask, which the user may have corrected since."""
    newest = max(results.path(index).stat().st_mtime_ns for index in range(done))
    for export in map(exports.EXPORTS.__getitem__, names):
        there = [path for path in output.recorded(export.path) if path.exists()]
        if any(path.stat().st_mtime_ns < newest for path in there):
            for path in there:
                output.remove(path)


def _is_missing(export: exports.Export, out: pathlib.Path) -> bool:
    """Returns whether an export is to be made; those of a folder keep the images that are there."""
    return export.is_folder or not (out / export.path).exists()


def check_frames(prompts: Prompts, num_frames: int) -> None:
    """Raises VosError if a mask is of a frame that the video does not have."""
    if (last := max(prompts)) >= num_frames:
        raise errors.VosError(
            f"--masks {last}:...: there is no frame {last}, the video has {num_frames}: 0 to {num_frames - 1}"
        )


def settings(config: configs.Config, media: media_lib.Media, prompts: Prompts, model: str) -> dict:
    """Returns what decides how the masks look."""
    return result_store.run_settings(
        configs.flatten(config),
        video=media.identity(),
        masks=result_store.prompt_settings(prompts),
        weights=model,
        version=vos_jax.__version__,
    )


def last_seen(results: video_results.VideoResults, done: int, prompts: Prompts) -> dict[int, int]:
    """Returns the last frame with each object that the video's last frame is without.

    Objects that the user last said to be absent are left out.
    """
    missing: set[int] = set()
    for index in sorted(prompts):
        missing = (missing | set(prompts[index].objects)) - prompts[index].absent
    found = {}
    for index in reversed(range(done)):
        if not missing:
            break
        shown = missing.intersection(np.unique(results.read(index)).tolist())
        found |= dict.fromkeys(sorted(shown), index)
        missing -= shown
    return {object_id: index for object_id, index in found.items() if index < done - 1}


if __name__ == "__main__":
    sys.exit(main())
