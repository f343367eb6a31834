"""Checks a folder of training data: lists its contents and its problems.

    python -m vos_jax.tools.check_data my_videos

reads every frame's header and every mask, names each damaged one, and prints the next commands. Layouts (the
kind is detected):

    folders       SEQUENCE/*.jpg with SEQUENCE/masks/*.png, or JPEGImages/SEQUENCE/*.jpg with
                  Annotations/SEQUENCE/*.png
    davis         DAVIS itself (ImageSets, resolution folders)
    youtube_vos   meta.json with JPEGImages and Annotations
    photos        images/*.jpg with masks/*.png, or SET/images and SET/masks
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import logging
import os
import sys

import numpy as np

from vos_jax import errors, option_parser
from vos_jax.data import datasets, mask_files, transforms
from vos_jax.data import video as video_lib

KINDS = ("auto", "davis", "folders", "youtube_vos", "photos")
"""Layouts of files, which can be checked and packed."""

SHOWN = 20
"""Maximum number of problems that are printed."""


@dataclasses.dataclass(frozen=True)
class Found:
    """The counts and problems of one video."""

    frames: int
    masks: int
    objects: int
    small: int
    problems: tuple[str, ...]


MIN_PIXELS = transforms.SelectObjects().min_pixels
"""Pixels that an object needs in the first frame of a clip."""


def check_video(video: video_lib.FolderVideo, *, photo: bool = False) -> Found:
    """Reads every header and every mask of a video; returns counts and problems.

    Args:
      video: to check.
      photo: clips are made from single frames.
    """
    problems = []
    areas: dict[int, np.ndarray] = {}
    try:
        video.check_frames()
        size = video.size
    except errors.VosError as error:
        problems.append(str(error))
        size = None
    for index, path in video.mask_paths.items():
        try:
            counts = np.bincount(mask_files.read_mask(path, size).ravel(), minlength=256)
            areas[index] = np.where(np.arange(256) == 0, 0, counts)
        except errors.VosError as error:
            problems.append(str(error))
    largest = np.max([np.zeros(256, int), *areas.values()], axis=0)
    objects = np.flatnonzero(largest)
    if not len(objects) and not problems:
        problems.append(
            f"{video.mask_paths[video.annotated[0]].parent}: no mask of '{video.name}' shows an object"
        )
    if len(objects) > mask_files.MAX_OBJECTS:
        problems.append(
            f"'{video.name}': {len(objects)} objects; at most {mask_files.MAX_OBJECTS} in one video"
        )
    elif len(objects) and not problems:
        problems += _no_start(video, areas, photo)
    small = int(np.sum((largest > 0) & (largest < MIN_PIXELS)))
    return Found(len(video), len(video.mask_paths), len(objects), small, tuple(problems))


def _no_start(video: video_lib.FolderVideo, areas: dict[int, np.ndarray], photo: bool) -> list[str]:
    """Returns the reason why no clip can begin in a video, or nothing."""
    starts = sorted(areas) if photo or len(video) == 1 else sorted(areas)[:-1]
    best = max((int(areas[index].max()) for index in starts), default=0)
    if not best:
        return [
            f"'{video.name}': no annotated frame before the last one shows an object, so no clip can begin"
        ]
    if best < MIN_PIXELS:
        return [
            f"'{video.name}': no object has {MIN_PIXELS} pixels where a clip can begin, the largest "
            f"has {best}; leave it out, or set --config.train.data.augmentation.objects.min_pixels={best}"
        ]
    return []


def folder_videos(config: datasets.SourceConfig) -> tuple[video_lib.FolderVideo, ...]:
    """Opens the training videos of a source whose frames and masks are files.

    Raises:
      VosError: as `datasets.open_training_videos`, or the source consists of records.
    """
    opened = datasets.open_training_videos(config)
    videos = tuple(video for video in opened if isinstance(video, video_lib.FolderVideo))
    if len(videos) < len(opened):
        raise errors.VosError(f"{config.root}: holds records; name a folder of images and masks")
    return videos


@errors.entry_point
def main(arguments: list[str] | None = None) -> None:
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.check_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", metavar="DIR")
    parser.add_argument("--kind", choices=KINDS, default="auto", help="the layout; default: detected")
    parser.add_argument("--split", default="train", help="ImageSets list or YouTube-VOS folder")
    parser.add_argument("--year", type=int, default=2017, help="DAVIS: 2016 or 2017")
    parser.add_argument("--resolution", default="480p", help="DAVIS: folder below JPEGImages")
    args = parser.parse_args(arguments)
    # Prints the warning about sequences without a possible clip, which training leaves out, too.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    kind = datasets.detect(args.root) if args.kind == "auto" else args.kind
    config = datasets.SourceConfig(
        kind=kind, root=args.root, split=args.split, year=args.year, resolution=args.resolution
    )
    videos = folder_videos(config)
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(functools.partial(check_video, photo=kind == "photos"), videos))

    what = "photos" if kind == "photos" else "sequences"
    frames, count = sum(f.frames for f in found), sum(f.masks for f in found)
    print(f"{args.root}: {kind}: {len(found)} {what}, {frames} frames, {count} masks")
    most = max(found, key=lambda f: f.objects)
    print(f"objects: {sum(f.objects for f in found)} in all, at most {most.objects} in one of the {what}")
    if small := sum(f.small for f in found):
        print(
            f"{small} of these objects never have {MIN_PIXELS} pixels and are background in training "
            "(train.data.augmentation.objects.min_pixels)"
        )
    problems = [problem for f in found for problem in f.problems]
    for problem in problems[:SHOWN]:
        print(f"problem: {problem}")
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more")
    if problems:
        raise errors.VosError(f"{args.root}: {len(problems)} problem(s); repair or remove these files")
    print("ready to train on. To pack it into one file per shard (faster, optional):")
    print(f"  python -m vos_jax.tools.pack_data --root {args.root} --out packed")
    print("To train on it: docs/tutorial.md, part 5")


if __name__ == "__main__":
    sys.exit(main())
