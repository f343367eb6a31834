"""The YouTube-VOS layout: meta.json lists each video's objects, their categories and their frames."""

import dataclasses
import pathlib

from vos_jax import errors, files
from vos_jax.data import image_files
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import base


@dataclasses.dataclass(frozen=True)
class MetaObject:
    """One object in meta.json.

    Attributes:
      category: its name, or None if it is not listed.
      frames: names of the frames that show it (training) or in which its mask is required (validation).
    """

    category: str | None
    frames: tuple[str, ...]


def read_meta(path: pathlib.Path) -> dict[str, dict[int, MetaObject]]:
    """Returns video name -> object id -> object of a meta.json.

    Raises:
      VosError: the file is missing or malformed, or a name is not a plain folder name.
    """
    try:
        entries = files.read_json(path)["videos"]
        meta = {
            name: {
                int(object_id): MetaObject(entry.get("category"), tuple(map(str, entry.get("frames", ()))))
                for object_id, entry in video["objects"].items()
            }
            for name, video in entries.items()
        }
    except OSError as error:
        raise errors.VosError(f"{path}: cannot read it: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise errors.VosError(
            f"{path}: not a YouTube-VOS meta.json ({type(error).__name__}: {error}); expected "
            '{"videos": {NAME: {"objects": {ID: {"frames": [...]}}}}}'
        ) from error
    for name in meta:
        files.safe_name(name, f"{path}: sequence")
    return meta


def open_youtube_vos(config: base.DatasetConfig) -> base.VideoDataset:
    """Opens ROOT/[SPLIT/]meta.json, JPEGImages/VIDEO/*.jpg and Annotations/VIDEO/*.png.

    The first mask with an object is its prompt; later masks, if any, are ground truth. Only the frames in
    meta.json are results; with `all_frames` (or its JPEGImages) the frames between them are segmented, too.
    The year, 2018 or 2019, only names the results.

    Raises:
      VosError: a missing or malformed meta.json, no such folder of all frames, and, when a video is opened, a
        missing frame of meta.json or of a mask.
    """
    files.safe_name(config.split, "split")
    root = pathlib.Path(config.root)
    folder = root / config.split if (root / config.split).is_dir() else root
    if not (folder / "meta.json").is_file():
        raise errors.VosError(
            f"no YouTube-VOS at {root} (missing: meta.json in it or in {config.split}/); get it at "
            f"https://youtube-vos.org, unzip {config.split}.zip and name the folder with --data"
        )
    meta = read_meta(folder / "meta.json")
    if not meta:
        raise errors.VosError(f"{folder / 'meta.json'}: lists no video")
    frame_folder = folder / "JPEGImages"
    if config.all_frames:
        frame_folder = pathlib.Path(config.all_frames)
        if (frame_folder / "JPEGImages").is_dir():
            frame_folder = frame_folder / "JPEGImages"
        if not frame_folder.is_dir():
            raise errors.VosError(f"{config.all_frames}: no such folder; all_frames is valid_all_frames")

    def open_video(name: str) -> video_lib.Video:
        video = video_lib.open_folder_video(
            name, frame_folder / name, folder / "Annotations" / name, merge_objects=config.merge_objects
        )
        return _with_listed(video, meta[name], folder)

    categories = {(name, o): entry.category for name, objects in meta.items() for o, entry in objects.items()}
    known = {key: category for key, category in categories.items() if category is not None}
    trained = folder.parent / "train" / "meta.json"
    return base.VideoDataset(
        name=f"ytvos{config.year}",
        split=config.split,
        names=tuple(sorted(meta)),
        open_video=open_video,
        listing=str(folder / "meta.json"),
        archive_folder="Annotations",
        categories=known if len(known) == len(categories) else None,
        seen_categories=_categories(trained) if trained.is_file() else frozenset(),
    )


def _with_listed(
    video: video_lib.FolderVideo, objects: dict[int, MetaObject], folder: pathlib.Path
) -> video_lib.Video:
    """Returns a video with the required frames of its objects from meta.json."""
    index_of = {name: index for index, name in enumerate(video.frame_names)}
    listed = {o: entry.frames for o, entry in objects.items() if entry.frames}
    required = {name for names in listed.values() for name in names}
    shown = tuple(index for index in video.annotated if video.frame_names[index] in required)
    if not required:
        beside = files.list_files(folder / "JPEGImages" / video.name)
        required = {path.stem for path in beside if image_files.is_frame(path)}
    for name in sorted(required - index_of.keys()):
        raise errors.VosError(
            f"{video.frame_paths[0].parent / name}.jpg: missing; {folder / 'meta.json'} requires it of "
            f"'{video.name}'"
        )
    return dataclasses.replace(
        video,
        with_objects=shown or None,
        listed=tuple(sorted(index_of[name] for name in required)),
        listed_of={o: frozenset(index_of[name] for name in names) for o, names in listed.items()} or None,
    )


def _categories(path: pathlib.Path) -> frozenset[str]:
    entries = (entry for objects in read_meta(path).values() for entry in objects.values())
    return frozenset(entry.category for entry in entries if entry.category)
