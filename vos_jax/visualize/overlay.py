"""Overlays of masks on frames, videos of them, contact sheets."""

import fractions
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
from PIL import Image

from vos_jax import files
from vos_jax.data import mask_files
from vos_jax.data import video as video_lib
from vos_jax.errors import VosError
from vos_jax.typing import UInt8
from vos_jax.visualize import video_writer

FOLDER = "overlays"
"""The folder of eval.py's overlays below OUT."""


def overlay(
    frame: UInt8[np.ndarray, "H W 3"], ids: UInt8[np.ndarray, "H W"], alpha: float = 0.5
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the frame with every object tinted in its DAVIS palette colour and outlined.

    Args:
        frame: RGB.
        ids: object ids, 0 for background.
        alpha: share of the tint in [0, 1]; 0 leaves the outlines only.
    """
    if frame.shape[:2] != ids.shape:
        raise VosError(f"cannot lay a mask of {ids.shape} over a frame of {frame.shape[:2]}")
    colours = mask_files.PALETTE[ids]
    tinted = np.round((1 - alpha) * frame + alpha * colours).astype(np.uint8)
    out = np.where(ids[..., None] > 0, tinted, frame)
    # The outline is inside the object: its pixels have another id in their neighbourhood.
    width = max(1, round(min(ids.shape) / 240))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    outline = (cv2.dilate(ids, kernel) != ids) | (cv2.erode(ids, kernel) != ids)
    return np.where((outline & (ids > 0))[..., None], colours, out)


def write_video(
    path: pathlib.Path | str, frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float = 24.0
) -> pathlib.Path:
    """Writes RGB frames as H.264 (yuv420p, which every player supports) and returns the path.

    Odd sizes get one more row or column, copied from the border. Frames are read one by one, and the file
    appears when it is complete. Raises `VosError` for no frames or frames of several sizes.
    """
    rate = fractions.Fraction(fps).limit_denominator(1001)
    with video_writer.VideoWriter(path, rate=rate) as writer:
        for index, frame in enumerate(frames):
            writer.write(frame, index / rate)
    return writer.path


def contact_sheet(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], *, columns: int = 3, width: int = 1000, gap: int = 6
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Arranges pictures row by row in one picture, `width` pixels wide, on white.

    Pictures may differ in size; each is fitted into a cell with the shape of the first.
    """
    if not frames:
        raise VosError("a contact sheet needs at least one frame")
    columns = min(columns, len(frames))
    cell_width = (width - gap * (columns + 1)) // columns
    cell_height = max(1, round(cell_width * frames[0].shape[0] / frames[0].shape[1]))
    rows = -(-len(frames) // columns)
    sheet = np.full((gap + rows * (cell_height + gap), width, 3), 255, np.uint8)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        scale = min(cell_height / frame.shape[0], cell_width / frame.shape[1])
        height, length = (
            max(1, min(limit, round(scale * side)))
            for side, limit in zip(frame.shape[:2], (cell_height, cell_width), strict=True)
        )
        small = cv2.resize(
            frame, (length, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )
        top = gap + row * (cell_height + gap) + (cell_height - height) // 2
        left = gap + column * (cell_width + gap) + (cell_width - length) // 2
        sheet[top : top + height, left : left + length] = small
    return sheet


def evenly_spaced(count: int, *, shown: int = 6) -> list[int]:
    """Returns up to `shown` indices, evenly spaced over `count`, with both ends."""
    return sorted(set(np.linspace(0, count - 1, min(shown, count)).round().astype(int).tolist()))


def draw_video(
    video: video_lib.Video, mask_path: Callable[[str], pathlib.Path], folder: pathlib.Path | str
) -> pathlib.Path:
    """Draws FOLDER/<video>.mp4 and the contact sheet FOLDER/<video>.png from masks on disk.

    Args:
        video: the video.
        mask_path: returns the path of a frame's mask, given the frame's name.
        folder: created if missing.

    Returns:
        The contact sheet's path.

    Raises:
        VosError: a mask is missing, damaged or of another size; the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    indices = video.required
    sheet, shown = [], {indices[place] for place in evenly_spaced(len(indices))}

    def drawn() -> Iterator[np.ndarray]:
        for index in indices:
            ids = mask_files.read_mask(mask_path(video.frame_names[index]), video.size)
            picture = overlay(video.frame(index), ids)
            if index in shown:
                sheet.append(picture)
            yield picture

    try:
        write_video(folder / f"{video.name}.mp4", drawn())
        with files.atomic(folder / f"{video.name}.png") as temporary:
            Image.fromarray(contact_sheet(sheet)).save(temporary, "PNG")
    except OSError as error:
        raise VosError(f"{folder}: cannot draw '{video.name}': {error.strerror or error}") from error
    return folder / f"{video.name}.png"
