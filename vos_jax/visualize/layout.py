"""Layout of figures: captioned panels in a grid on white, readable at the width of a page."""

import functools
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vos_jax import errors, files
from vos_jax.typing import UInt8

WIDTH = 1600  # pixels: 16 cm at 250 per inch
TEXT = 28  # pixels: 8 points at 250 per inch
GAP = 12


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def fit(image: UInt8[np.ndarray, "H W 3"], width: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Resizes the image to `width` pixels."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def caption(image: UInt8[np.ndarray, "H W 3"], text: str, *, size: int = TEXT) -> np.ndarray:
    """Adds one line of text above the image; a smaller font is used if it is too long."""
    while size > 12 and _font(size).getlength(text) > image.shape[1]:
        size -= 1
    strip = Image.new("RGB", (image.shape[1], round(1.4 * size)), "white")
    ImageDraw.Draw(strip).text((0, 0), text, fill="black", font=_font(size))
    return np.vstack([np.asarray(strip), image])


def write(canvas: UInt8[np.ndarray, "H W 3"], position: tuple[int, int], text: str, colour) -> np.ndarray:
    """Returns the canvas with text, whose upper left corner is at `position` (y, x)."""
    picture, (y, x) = Image.fromarray(canvas), position
    ImageDraw.Draw(picture).text((x, y), text, fill=tuple(colour), font=_font(TEXT))
    return np.array(picture)


def grid(panels: Sequence[np.ndarray], *, columns: int, title: str | None = None) -> np.ndarray:
    """Arranges panels of equal width row by row, under a title."""
    columns = min(columns, len(panels))
    width = panels[0].shape[1]
    rows = []
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        height = max(panel.shape[0] for panel in row)
        sheet = np.full((height, columns * (width + GAP) - GAP, 3), 255, np.uint8)
        for index, panel in enumerate(row):
            left = index * (width + GAP)
            sheet[: panel.shape[0], left : left + panel.shape[1]] = panel
        rows.append(np.pad(sheet, ((0, GAP), (0, 0), (0, 0)), constant_values=255))
    sheet = np.pad(np.vstack(rows), ((GAP, 0), (GAP, GAP), (0, 0)), constant_values=255)
    return sheet if title is None else np.vstack([_title(sheet.shape[1], title), sheet])


def _title(width: int, text: str) -> np.ndarray:
    strip = np.full((GAP, width - GAP, 3), 255, np.uint8)
    strip = caption(strip, text, size=TEXT + 2)
    return np.pad(strip, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255)[: -GAP or None]


def panel_width(columns: int) -> int:
    """Returns the width of a panel if `columns` panels fill a figure's width."""
    return (WIDTH - GAP * (columns + 1)) // columns


def save(path: pathlib.Path, image: UInt8[np.ndarray, "H W 3"]) -> pathlib.Path:
    """Writes a PNG atomically and returns its path; VosError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(path) as temporary:
            Image.fromarray(image).save(temporary, "PNG")
    except OSError as error:
        raise errors.VosError(f"{path}: cannot write the picture: {error.strerror or error}") from error
    return path
