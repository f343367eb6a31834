"""The official DAVIS layout: ImageSets/YEAR/SPLIT.txt, JPEGImages/RESOLUTION, Annotations/RESOLUTION."""

import pathlib

from vos_jax import errors, files
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import base

HELD_BACK = (
    "bmx-bumps",
    "car-turn",
    "dance-jump",
    "dog-agility",
    "flamingo",
    "horsejump-low",
    "scooter-gray",
)
"""Sequences of DAVIS 2016 train (7 of 30) that are never trained on; development is evaluated on them.

The official validation set is used only for published figures."""


def open_davis(config: base.DatasetConfig) -> base.VideoDataset:
    """Opens DAVIS in `root`, the folder with JPEGImages/; the first frame's masks are the prompts.

    Year 2016 merges all objects into one, 2017 keeps them.

    Raises:
      VosError: files are missing in `root`; the message names them and the download page.
    """
    root, year, split = pathlib.Path(config.root), config.year, config.split
    files.safe_name(config.resolution, "resolution")
    frame_folder = root / "JPEGImages" / config.resolution
    mask_folder = root / "Annotations" / config.resolution
    listing = _find_listing(config)
    missing = [str(path.relative_to(root)) for path in (frame_folder, mask_folder) if not path.is_dir()]
    if listing is None or missing:
        raise _no_davis(config, [*missing, *([] if listing else [f"ImageSets/{year}/{split}.txt"])])
    names = base.read_listing(listing)

    def open_video(name: str) -> video_lib.Video:
        return video_lib.open_folder_video(
            name,
            frame_folder / name,
            mask_folder / name,
            merge_objects=config.merge_objects or year == 2016,
            prompt_rule="first_frame",
        )

    return base.VideoDataset(
        name=f"davis{year}", split=split, names=names, open_video=open_video, listing=str(listing)
    )


def _find_listing(config: base.DatasetConfig) -> pathlib.Path | None:
    root, year, split = pathlib.Path(config.root), config.year, config.split
    files.safe_name(split, "split")
    listings = root / "ImageSets" / str(year)
    if (listings / f"{split}.txt").is_file():
        return listings / f"{split}.txt"
    splits = sorted(path.stem for path in listings.glob("*.txt"))
    if splits:
        raise errors.VosError(
            f"{listings / split}.txt: no such split; {listings} has {', '.join(splits)} "
            f"({config.option('split')}={files.closest_names(split, splits)[0]})"
        )
    # The 2016 archive lists pairs of files per resolution.
    old = root / "ImageSets" / config.resolution / f"{split}.txt"
    return old if year == 2016 and old.is_file() else None


def _no_davis(config: base.DatasetConfig, missing: list[str]) -> errors.VosError:
    root, year = pathlib.Path(config.root), config.year
    found = "" if root.is_dir() else "; there is no such folder"
    others = [path.name for path in files.list_files(root / "JPEGImages")]
    if others:
        found = (
            f"; JPEGImages/ has {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}: another "
            f"{config.option('resolution')}, or a folder of folders ({config.option('kind')}=folders)?"
        )
    told = f"no DAVIS dataset at {root} (missing: {', '.join(missing)}{found})"
    if not isinstance(config, base.EvalDatasetConfig):
        return errors.VosError(told)
    return errors.VosError(
        f"{told}\nget 'TrainVal - Images and Annotations - 480p' at "
        "https://davischallenge.org/davis2017/code.html and unzip it\n"
        f"then type: python eval.py --config davis{year % 100} --data DIR (the folder holding JPEGImages/); "
        "python eval.py --config demo needs no data"
    )
