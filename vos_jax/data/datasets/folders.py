"""A folder of folders of frames, with masks in separate folders."""

import logging
import pathlib

from vos_jax import errors, files
from vos_jax.data import image_files
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import base

log = logging.getLogger(__name__)


def open_folders(config: base.DatasetConfig) -> base.VideoDataset:
    """Opens the videos of a folder in one of two layouts; each object's first mask is its prompt.

    1. ROOT/JPEGImages/SEQUENCE/*.jpg with ROOT/Annotations/SEQUENCE/*.png;
    2. ROOT/SEQUENCE/*.jpg with ROOT/SEQUENCE/masks/*.png.

    Frames are images of the kinds in `image_files.EXTENSIONS`; a mask has its frame's name.

    Raises:
      VosError: no such folder, or no video in it.
    """
    root = pathlib.Path(config.root)
    if not root.is_dir():
        raise errors.VosError(
            f"{root}: no such folder; --data DIR names the folder with the videos (`--config demo` needs no "
            "data)"
        )
    paired = (root / "JPEGImages").is_dir()
    folder = root / "JPEGImages" if paired else root
    folders = [path for path in files.list_files(folder) if path.is_dir()]
    names = tuple(
        path.name for path in folders if paired or any(map(image_files.is_frame, files.list_files(path)))
    )
    for path in folders:
        if path.name not in names and (other := image_files.left_out(files.list_files(path))):
            log.warning("%s: no sequence: %s", path, other)
    if not names:
        raise errors.VosError(
            f"{folder}: no sequences; expected JPEGImages/SEQUENCE/*.jpg with Annotations/SEQUENCE/*.png, or "
            "SEQUENCE/*.jpg with SEQUENCE/masks/*.png"
        )
    inside = files.list_files(folder / names[0])
    if not any(map(image_files.is_frame, inside)) and any(path.is_dir() for path in inside):
        raise errors.VosError(
            f"{folder / names[0]}: holds folders, not frames; for the DAVIS layout give "
            "--config.data.kind=davis"
        )

    def open_video(name: str) -> video_lib.Video:
        beside = root / "Annotations" / name if paired else root / name / "masks"
        return video_lib.open_folder_video(name, folder / name, beside, merge_objects=config.merge_objects)

    return base.VideoDataset(
        name="folders", split="all", names=names, open_video=open_video, listing=str(folder)
    )
