"""Doors for pictures and films: what they read when all is well, and the reading."""

import io
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.data import video_maker
from vos_jax import errors
from vos_jax.data import image_files, mask_files
from vos_jax.data import media as media_lib
from vos_jax.data.datasets import records

SIZE = (24, 40)


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (SIZE[0] // 4, SIZE[1] // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)


def plane() -> np.ndarray:
    ids = np.zeros(SIZE, np.uint8)
    ids[4:12, 5:20], ids[10:20, 22:38] = 1, 2
    return ids


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def mask_seeds(folder: pathlib.Path) -> list[bytes]:
    mask_files.write_mask(folder / "m.png", plane())
    ids = plane()
    images = [
        Image.fromarray(ids),
        Image.fromarray((ids > 0).astype(np.uint8) * 255),
        Image.fromarray(mask_files.PALETTE[ids]),
        Image.fromarray(mask_files.PALETTE[ids]).convert("RGBA"),
        Image.fromarray(ids).convert("LA"),
        Image.fromarray(ids > 0),
        Image.fromarray(ids.astype(np.uint16)),
    ]
    few = Image.fromarray(ids)
    few.putpalette(mask_files.PALETTE[:4].tobytes())
    return [
        (folder / "m.png").read_bytes(),
        *(encoded(i, "PNG") for i in images),
        encoded(few, "PNG", bits=2),
        encoded(few, "PNG", transparency=0),
    ]


def frame_seeds(*kinds: tuple[str, dict]) -> Callable[[pathlib.Path], list[bytes]]:
    def seeds(folder: pathlib.Path) -> list[bytes]:
        images = [Image.fromarray(picture()), Image.fromarray(picture()).convert("L")]
        return [encoded(image, kind, **options) for kind, options in kinds for image in images]

    return seeds


def read_frame(path: pathlib.Path) -> None:
    """As the programs do: the header first, the pixels later; and as training does."""
    size = or_refused(lambda: image_files.frame_size(path))
    frame = or_refused(lambda: image_files.read_frame(path))
    reduced = or_refused(lambda: image_files.read_frame(path, short_side=SIZE[0] // 2))
    ids = or_refused(lambda: records.decode_ids(path.read_bytes(), "packed"))
    if isinstance(frame, np.ndarray):
        assert frame.dtype == np.uint8 and frame.shape[2] == 3
        assert isinstance(size, errors.VosError) or frame.shape[:2] == size, "header and pixels disagree"
    _raise_if_all_refused(size, frame, reduced, ids)


def read_mask(path: pathlib.Path) -> None:
    size = or_refused(lambda: mask_files.png_size(path))
    ids = or_refused(lambda: mask_files.read_mask(path))
    if isinstance(ids, np.ndarray):
        assert ids.dtype == np.uint8 and ids.max() < 255 and ids.shape == size
        mask_files.read(path)
        or_refused(lambda: mask_files.check_indexed(path.read_bytes(), path))
    _raise_if_all_refused(ids)


def or_refused(read: Callable[[], object]) -> object:
    try:
        return read()
    except errors.VosError as error:
        return error


def _raise_if_all_refused(*found: object) -> None:
    if all(isinstance(value, errors.VosError) for value in found):
        raise found[0]


def film_seeds(folder: pathlib.Path) -> list[bytes]:
    clip = [picture(seed) for seed in range(3)]
    kinds = [
        ("v.mp4", {"sound": "aac"}),
        ("v.webm", {"codec": "libvpx-vp9"}),
        ("v.avi", {"codec": "mpeg4", "sound": "mp3", "base": 12, "times": [0, 1, 2]}),
        ("v.gif", {"codec": "gif", "pixels": "rgb8", "base": 12, "times": [0, 1, 2]}),
    ]
    return [video_maker.write(folder / name, clip, **options).read_bytes() for name, options in kinds]


def read_film(path: pathlib.Path) -> None:
    media = media_lib.open_media(path)
    count = 0
    with media.open() as reader:
        for item in reader:
            if isinstance(item, media_lib.Frame):
                assert item.image.shape[:2] == media.size
                count += 1
            if count > 50:
                break
