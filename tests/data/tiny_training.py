"""Tiny training data written to disk: every pixel's colour says which object, sequence and time it shows."""

import dataclasses
import pathlib

import cv2
import numpy as np

HEIGHT, WIDTH = 48, 64


def frame_and_ids(
    sequence: int, time: int, *, objects: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a frame [H, W, 3] RGB and its ids [H, W].

    Red is 40 × object id, green 10 × time, blue 10 × sequence.
    """
    ids = np.zeros(size, np.uint8)
    for number in range(objects):
        y, x = 4 + 14 * (number % 2) * size[0] // HEIGHT, 4 + 14 * number + time % 3
        ids[y : y + 16 * size[0] // HEIGHT, x : x + 12 * size[1] // WIDTH] = number + 1
    frame = np.stack([ids * 40, np.full_like(ids, 10 * time), np.full_like(ids, 10 * sequence)], -1)
    return frame, ids


def write(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def write_sequence(
    root: pathlib.Path,
    name: str,
    number: int,
    *,
    frames: int = 6,
    objects: int = 1,
    annotated: set[int] | None = None,
    holding: set[int] | None = None,
    suffix: str = ".png",
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> None:
    """Writes ROOT/{JPEGImages,Annotations}/NAME; masks where `annotated`, objects in them where `holding`."""
    for time in range(frames):
        frame, ids = frame_and_ids(number, time, objects=objects, size=size)
        write(root / "JPEGImages" / name / f"{time:05d}{suffix}", frame)
        if annotated is None or time in annotated:
            shown = holding is None or time in holding
            write(root / "Annotations" / name / f"{time:05d}.png", ids if shown else ids * 0)


def write_davis(root: pathlib.Path, *, sequences: int = 5, **options) -> pathlib.Path:
    for number in range(sequences):
        write_sequence(root, f"video{number}", number, **options)
    return root


def write_static(root: pathlib.Path, *, photos: int = 6, objects: int = 1) -> pathlib.Path:
    for number in range(photos):
        frame, ids = frame_and_ids(number, 0, objects=objects)
        write(root / "images" / f"photo{number}.png", frame)
        write(root / "masks" / f"photo{number}.png", ids)
    return root


def drawn(*sources) -> dict:
    """Sources by number, each with a weight: `ClipDataConfig.sources`."""
    return {
        str(number): source if source.weight else dataclasses.replace(source, weight=1.0)
        for number, source in enumerate(sources)
    }
