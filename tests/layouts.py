"""Mini data sets in each benchmark's layout, drawn by `coloured.make_video`: ids 3 and 7; 7 is late."""

import json
import pathlib
import types

import numpy as np
from PIL import Image

from tests.inference import coloured
from vos_jax.data import datasets, mask_files

LATE = 2  # the frame in which object 7 appears


def open_as(kind: str, root: pathlib.Path | str, **options) -> datasets.VideoDataset:
    """Opens a data set for evaluation, with the default settings but for `options`."""
    return datasets.open_dataset(datasets.EvalDatasetConfig(kind=kind, root=str(root), **options))


def source(name: str, size: tuple[int, int], num_frames: int) -> types.SimpleNamespace:
    """A `video.FrameSource` that nobody reads frames of."""
    return types.SimpleNamespace(name=name, size=size, num_frames=num_frames, mask_name="{:05d}".format)


def write_frames(folder: pathlib.Path, frames, names) -> None:
    """Frames as lossless files, so that the tiny model sees flat colours."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.png")


def write_masks(folder: pathlib.Path, planes: dict[str, np.ndarray]) -> None:
    """Masks by frame name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in planes.items():
        mask_files.write_mask(folder / f"{name}.png", ids)


def only(ids: np.ndarray, *objects: int) -> np.ndarray:
    """`ids` without other objects."""
    return np.where(np.isin(ids, objects), ids, 0).astype(np.uint8)


def youtube_vos(
    root: pathlib.Path, *, videos=("cow", "duck"), truth: bool = False, size=(50, 70), length: int = 6
) -> pathlib.Path:
    """ROOT/valid at 5-frame spacing, ROOT/valid_all_frames, ROOT/train/meta.json; cow's category is seen.

    Without `truth` the second mask holds object 7 alone, as the official ones do.
    """
    valid, meta = root / "valid", {}
    for video in videos:
        frames, ids = coloured.make_video(size, length)
        names = [f"{5 * index:05d}" for index in range(length)]
        write_frames(valid / "JPEGImages" / video, frames, names)
        between = np.repeat(frames, 5, axis=0)[: 5 * length - 4]
        every = [f"{index:05d}" for index in range(len(between))]
        write_frames(root / "valid_all_frames" / "JPEGImages" / video, between, every)
        given = {names[0]: ids[0], names[LATE]: only(ids[LATE], 7)}
        write_masks(valid / "Annotations" / video, dict(zip(names, ids, strict=True)) if truth else given)
        category = "cow" if video == "cow" else "duck"
        meta[video] = {
            "objects": {
                "3": {"category": category, "frames": names},
                "7": {"category": "duck", "frames": names[LATE:]},
            }
        }
    (valid / "meta.json").write_text(json.dumps({"videos": meta}))
    (root / "train").mkdir()
    trained = {"videos": {"old": {"objects": {"1": {"category": "cow", "frames": ["00000"]}}}}}
    (root / "train" / "meta.json").write_text(json.dumps(trained))
    return root


def davis(root: pathlib.Path, *, split: str = "test-dev", size=(50, 70), length: int = 5) -> pathlib.Path:
    """DAVIS 2017 with first masks only."""
    frames, ids = coloured.make_video(size, length)
    names = [f"{index:05d}" for index in range(length)]
    write_frames(root / "JPEGImages/480p/cow", frames, names)
    write_masks(root / "Annotations/480p/cow", {names[0]: ids[0]})
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / f"ImageSets/2017/{split}.txt").write_text("cow\n")
    return root


def folders(root: pathlib.Path, given: dict[int, tuple[int, ...]], *, size=(50, 70), length: int = 6):
    """JPEGImages/cow and Annotations/cow; `given`: frame -> objects in its mask. Returns (root, true ids)."""
    frames, ids = coloured.make_video(size, length)
    names = [f"{index:08d}" for index in range(1, length + 1)]  # LVOS counts from 1
    write_frames(root / "JPEGImages" / "cow", frames, names)
    planes = {names[index]: only(ids[index], *objects) for index, objects in given.items()}
    write_masks(root / "Annotations" / "cow", planes)
    return root, ids
