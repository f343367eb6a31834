"""Photos with masks: ROOT/{images,masks} or ROOT/SET/{images,masks}."""

import pathlib

from vos_jax import errors, files
from vos_jax.data import image_files
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import base


def open_photos(config: base.DatasetConfig) -> base.VideoDataset:
    """Opens photos as videos of one frame, named STEM or SET/STEM.

    Raises:
      VosError: no folder of images, or two images with the same name.
    """
    root = pathlib.Path(config.root)
    folders = [root] if (root / "images").is_dir() else sorted(p.parent for p in root.glob("*/images"))
    if not folders:
        raise errors.VosError(
            f"{root}: no photos; expected images/ and masks/, or SET/images/ and SET/masks/"
        )
    found: dict[str, tuple[pathlib.Path, pathlib.Path | None]] = {}
    for folder in folders:
        prefix = "" if folder == root else f"{folder.name}/"
        masks = {p.stem: p for p in files.list_files(folder / "masks") if p.suffix.lower() == ".png"}
        for image in filter(image_files.is_frame, files.list_files(folder / "images")):
            name = prefix + image.stem
            if name in found:
                raise errors.VosError(
                    f"{image}: two photos are named '{name}' ({found[name][0].name} is the other); rename one"
                )
            found[name] = image, masks.get(image.stem)

    def open_video(name: str) -> video_lib.Video:
        image, mask = found[name]
        return video_lib.FolderVideo(
            name=name,
            frame_names=(image.stem,),
            annotated=() if mask is None else (0,),
            merge_objects=config.merge_objects,
            frame_paths=(image,),
            mask_paths={} if mask is None else {0: mask},
        )

    return base.VideoDataset(
        name="photos", split="all", names=tuple(found), open_video=open_video, listing=str(root), photos=True
    )
