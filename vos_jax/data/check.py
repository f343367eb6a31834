"""`python -m vos_jax.data.check DIR`: whether a folder can be trained on, what is in it, what is wrong.

    python -m vos_jax.data.check my_videos

reads every frame's header and every mask, names each broken one, and prints the commands that come next.
Layouts (the kind is found out by itself):

    davis_folder   SEQUENCE/*.jpg with SEQUENCE/masks/*.png, or JPEGImages/SEQUENCE/*.jpg with
                   Annotations/SEQUENCE/*.png, or DAVIS itself (ImageSets, resolution folders)
    ytvos          meta.json beside JPEGImages and Annotations
    static         images/*.jpg with masks/*.png, or SET/images and SET/masks: photos
"""

import argparse
import concurrent.futures
import dataclasses
import logging
import os
import pathlib
import sys

import numpy as np

from vos_jax import errors
from vos_jax.data import masks, sequences, videos

OPENERS = {
    "davis_folder": sequences.open_davis,
    "youtube_vos": sequences.open_ytvos,
    "static": sequences.open_static,
}
SHOWN = 20
"""Most problems that are printed one by one."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What one sequence holds, and what is wrong with it."""

    frames: int
    masks: int
    objects: int
    problems: tuple[str, ...]


def kind_of(root: str | os.PathLike) -> str:
    """Which layout a folder has; VosError if there is no such folder."""
    root = pathlib.Path(root)
    if not root.is_dir():
        raise errors.VosError(f"{root}: no such folder")
    if any((folder / "meta.json").is_file() for folder in (root, root / "train", root / "valid")):
        return "youtube_vos"
    if (root / "images").is_dir() or any(root.glob("*/images")):
        return "static"
    return "davis_folder"


def check_video(video: videos.FolderVideo) -> Found:
    """Reads every header and every mask of a sequence."""
    problems, objects = [], set()
    try:
        video.check_frames()
        size = video.size
    except errors.VosError as error:
        problems.append(str(error))
        size = None
    for path in video.mask_paths.values():
        try:
            objects.update(np.unique(masks.read_mask(path, size)).tolist())
        except errors.VosError as error:
            problems.append(str(error))
    objects.discard(0)
    if not objects and not problems:
        problems.append(
            f"{next(iter(video.mask_paths.values())).parent}: no mask of '{video.name}' holds an object"
        )
    if len(objects) > masks.MAX_OBJECTS:
        problems.append(f"'{video.name}': {len(objects)} objects; at most {masks.MAX_OBJECTS} in one video")
    return Found(len(video), len(video.mask_paths), len(objects), tuple(problems))


@errors.entry_point
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vos_jax.data.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", metavar="DIR")
    parser.add_argument("--kind", choices=tuple(OPENERS), help="default: found out")
    parser.add_argument("--split", default="train", help="ImageSets list or YouTube-VOS folder")
    parser.add_argument("--year", type=int, default=2017, help="DAVIS: 2016 or 2017")
    parser.add_argument("--resolution", default="480p", help="DAVIS: folder below JPEGImages")
    args = parser.parse_args(arguments)
    # Sequences that can never give a clip are left out in training, too; say so in the same words.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    kind = args.kind or kind_of(args.root)
    config = sequences.SourceConfig(
        kind=kind, root=args.root, split=args.split, year=args.year, resolution=args.resolution
    )
    opened = OPENERS[kind](config)
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(check_video, opened.files))

    what = "photos" if opened.static else "sequences"
    frames, count = sum(f.frames for f in found), sum(f.masks for f in found)
    print(f"{args.root}: {kind}: {len(found)} {what}, {frames} frames, {count} masks")
    most = max(found, key=lambda f: f.objects)
    print(f"objects: {sum(f.objects for f in found)} in all, at most {most.objects} in one of the {what}")
    problems = [problem for f in found for problem in f.problems]
    for problem in problems[:SHOWN]:
        print(f"problem: {problem}")
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more")
    if problems:
        raise errors.VosError(f"{args.root}: {len(problems)} problem(s); mend or remove these files")
    print("ready to train on. To pack it into one file per shard (faster, optional):")
    print(f"  python -m vos_jax.data.build --kind {kind} --root {args.root} --out packed")
    print("To train on it: docs/tutorial.md, part 5")


if __name__ == "__main__":
    sys.exit(main())
