"""A folder of folders of frames, with masks in separate folders."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping

from vos_jax import errors, files
from vos_jax.data import image_files
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import base

log = logging.getLogger(__name__)

ALL = "all"
"""The split of all videos, in a folder with lists and in one without."""

STRIDE = 5
"""Every fifth frame is scored where meta.json has frame ranges, as in lvos-evaluation."""

Ranges = Mapping[str, Mapping[int, tuple[int, int]]]
"""Video -> object id -> (start, end) of the numbers in the names of its frames."""


def open_folders(config: base.DatasetConfig) -> base.VideoDataset:
    """Opens the videos of a folder in one of two layouts; each object's first mask is its prompt.

    1. ROOT/JPEGImages/[RESOLUTION/]SEQUENCE/*.jpg with ROOT/Annotations/[RESOLUTION/]SEQUENCE/*.png;
    2. ROOT/SEQUENCE/*.jpg with ROOT/SEQUENCE/masks/*.png.

    ROOT/ImageSets/[YEAR/]SPLIT.txt, if it has lists, names the videos of a split. ROOT/meta.json with frame
    ranges (LVOS) says in which frames an object is scored. Frames are images of
    the kinds in `image_files.EXTENSIONS`; a mask has its frame's name.

    Raises:
      VosError: no such folder, no video in it, an unknown split, masks without frames, a damaged meta.json.
    """
    root = pathlib.Path(config.root)
    if not root.is_dir():
        raise errors.VosError(
            f"{root}: no such folder; --data DIR names the folder with the videos (`--config demo` needs no "
            "data)"
        )
    frame_folder, mask_folder = _folders(root, config)
    listing = _listing(root, config)
    names = _names(frame_folder, mask_folder) if listing is None else base.read_listing(listing)
    if not names:
        raise errors.VosError(
            f"{frame_folder}: no sequences; expected JPEGImages/SEQUENCE/*.jpg with "
            "Annotations/SEQUENCE/*.png, or SEQUENCE/*.jpg with SEQUENCE/masks/*.png"
        )
    ranges = _frame_ranges(root / "meta.json")

    def open_video(name: str) -> video_lib.Video:
        beside = root / name / "masks" if mask_folder is None else mask_folder / name
        video = video_lib.open_folder_video(
            name, frame_folder / name, beside, merge_objects=config.merge_objects
        )
        return _with_ranges(video, ranges[name]) if name in ranges else video

    return base.VideoDataset(
        name="folders",
        split=ALL if listing is None else config.split,
        names=names,
        open_video=open_video,
        listing=str(listing or frame_folder),
    )


def holds_sequences(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds folders of frames."""
    inside = (path for path in files.list_files(folder) if path.is_dir())
    return any(any(map(image_files.is_frame, files.list_files(path))) for path in inside)


def _folders(root: pathlib.Path, config: base.DatasetConfig) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns the folder of the frames, and that of the masks if they are apart."""
    frames = root / "JPEGImages"
    if not frames.is_dir():
        return root, None
    if holds_sequences(frames):
        return frames, root / "Annotations"
    resolutions = [path.name for path in files.list_files(frames) if holds_sequences(path)]
    if not resolutions:
        return frames, root / "Annotations"
    if config.resolution not in resolutions:
        raise errors.VosError(
            f"{frames}: has the resolutions {', '.join(resolutions)}, not {config.resolution}; choose one by "
            f"{config.option('resolution')}={resolutions[0]}"
        )
    return frames / config.resolution, root / "Annotations" / config.resolution


def _names(frame_folder: pathlib.Path, mask_folder: pathlib.Path | None) -> tuple[str, ...]:
    """Returns the folders with frames or masks; opening one without frames is an error."""
    names = {}
    for path in files.list_files(frame_folder):
        if path.is_dir():
            inside = files.list_files(path)
            has_masks = any(found.suffix.lower() == ".png" for found in files.list_files(path / "masks"))
            if mask_folder is not None or has_masks or any(map(image_files.is_frame, inside)):
                names[path.name] = None
            elif other := image_files.left_out(inside):
                log.warning("%s: no sequence: %s", path, other)
    if mask_folder is not None:
        for path in files.list_files(mask_folder):
            if path.is_dir() and any(found.suffix.lower() == ".png" for found in files.list_files(path)):
                names[path.name] = None
    return tuple(names)


def _listing(root: pathlib.Path, config: base.DatasetConfig) -> pathlib.Path | None:
    """Returns the list of the split; None: all videos."""
    split = config.split
    folders = [root / "ImageSets" / str(config.year), root / "ImageSets"]
    for folder in folders:
        if split and (folder / f"{files.safe_name(split, 'split')}.txt").is_file():
            return folder / f"{split}.txt"
    if split in ("", ALL):
        return None
    known = sorted({path.stem for folder in folders for path in folder.glob("*.txt")})
    if not known:
        # Nobody chose the default.
        defaults = {field.default for field in dataclasses.fields(config) if field.name == "split"}
        if split in defaults:
            return None
        raise errors.VosError(
            f"{root}: has no split '{split}', because it has no list ImageSets/{split}.txt; leave "
            f"{config.option('split')} away, or choose videos by {config.option('sequences')}"
        )
    raise errors.VosError(
        f"{root / 'ImageSets' / split}.txt: no such split; there are {', '.join(known)} and {ALL} "
        f"({config.option('split')}={files.closest_names(split, [*known, ALL])[0]})"
    )


# ---------------------------------------------------------------- frame ranges of LVOS


def _frame_ranges(path: pathlib.Path) -> Ranges:
    """Returns the frame ranges in a meta.json; {} where it has none."""
    if not path.is_file():
        return {}
    try:
        videos = files.read_json(path)["videos"]
        entries = {
            name: {int(i): entry.get("frame_range") for i, entry in video["objects"].items()}
            for name, video in videos.items()
        }
        return {
            name: {i: (int(found["start"]), int(found["end"])) for i, found in objects.items() if found}
            for name, objects in entries.items()
            if any(objects.values())
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise errors.VosError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); expected "
            '{"videos": {NAME: {"objects": {ID: {"frame_range": {"start": 1, "end": 9}}}}}}, or move it away'
        ) from error


def _with_ranges(video: video_lib.FolderVideo, ranges: Mapping[int, tuple[int, int]]) -> video_lib.Video:
    """Returns a video whose objects are scored in their ranges, the prompted frames included."""
    numbers = {int(name): index for index, name in enumerate(video.frame_names) if name.isdigit()}
    listed_of = {
        object_id: frozenset(
            numbers[t] for t in range(start, min(end, max(numbers) + 1), STRIDE) if t in numbers
        )
        for object_id, (start, end) in ranges.items()
        if numbers
    }
    return dataclasses.replace(video, listed_of=listed_of, scores_prompts=True)
