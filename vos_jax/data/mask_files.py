"""Mask files: PNGs of object ids in the usual forms, read strictly and written atomically."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from vos_jax import errors, files
from vos_jax.data import mask_colours
from vos_jax.typing import UInt8

MAX_SIDE = 16_384
MAX_PIXELS = 80_000_000
"""Largest image that is decoded (8K video has 33 million pixels), as a small file may claim any size."""

MAX_OBJECTS, VOID, PALETTE = mask_colours.MAX_OBJECTS, mask_colours.VOID, mask_colours.PALETTE

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, zlib.error, struct.error)
"""Exceptions that Pillow raises for damaged files."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _INDEXED, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6


def check_size(path: str | os.PathLike, height: int, width: int) -> None:
    """Checks the size in an image's header before it is decoded.

    Raises:
      VosError: a side of 0, a side over MAX_SIDE, or more than MAX_PIXELS pixels.
    """
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise errors.VosError(
            f"{path}: the header claims {width}x{height} pixels; at most {MAX_SIDE} per side and "
            f"{MAX_PIXELS // 10**6} million in all are read"
        )


def png_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the height and width of a complete PNG, from its first and last bytes only.

    Raises:
      VosError: no such file, not a PNG, a too large size, or truncated.
    """
    try:
        with files.open_regular(path) as file:
            head = file.read(33)
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            tail = file.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    height, width, _, _ = _png_header(path, head)
    _check_end(path, tail)
    return height, width


def read_mask(
    path: str | os.PathLike, expected_size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W"]:
    """Reads one mask PNG as object ids; 0 is background (docs/method.md, "Scores and protocols").

    A mask is what its colours show, however it is saved. In the colours of the DAVIS palette, the colour says
    which object a pixel is. Otherwise an indexed PNG's index and a grey PNG's value are the id. Transparent
    pixels are background. A mask of only 0 and 255 (black and white) is binary: white is object 1. Beside
    ids, the value 255 and the palette's colour 255 are void and become background.

    Args:
      path: the PNG file.
      expected_size: (height, width) that the mask must have, e.g. its frame's.

    Returns:
      ids in [0, 254], at most MAX_OBJECTS different ones.

    Raises:
      VosError: the file is missing, not a PNG, damaged, truncated, 16-bit, too large, of another size than
        expected, has colours outside the palette or grey levels that are not ids (anti-aliased masks), or
        more than MAX_OBJECTS objects.
    """
    return read(path, expected_size).ids


def read(path: str | os.PathLike, expected_size: tuple[int, int] | None = None) -> mask_colours.Mask:
    """Reads a mask as `read_mask` does, and tells whether it is black and white."""
    mask = mask_colours.interpret(decode(_read_bytes(path), path, expected_size), path)
    mask_colours.check_palette(mask, path)
    return mask


def read_prompt(path: str | os.PathLike) -> mask_colours.Mask:
    """Reads a user's mask, which may have colours of its own; errors as `mask_colours.interpret`."""
    return mask_colours.interpret(decode(_read_bytes(path), path), path, is_prompt=True)


def read_picture(path: str | os.PathLike) -> mask_colours.Picture:
    """Reads a mask without taking its colours for objects; errors as `decode`."""
    return decode(_read_bytes(path), path)


def decode_mask(
    data: bytes, path: str | os.PathLike, expected_size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W"]:
    """Decodes a file's bytes as `read_mask` does; `path` is its name in errors."""
    mask = mask_colours.interpret(decode(data, path, expected_size), path)
    mask_colours.check_palette(mask, path)
    return mask.ids


def decode(
    data: bytes, path: str | os.PathLike, expected_size: tuple[int, int] | None = None
) -> mask_colours.Picture:
    """Decodes a mask's bytes to its colours.

    Raises:
      VosError: not a PNG, damaged, truncated, 16-bit, too large, half transparent, or of another size.
    """
    height, width, depth, kind = _png_header(path, data)
    if expected_size is not None and (height, width) != tuple(expected_size):
        raise errors.VosError(
            f"{path}: the mask is {width}x{height}, its frame {expected_size[1]}x{expected_size[0]} "
            "(width x height); masks must have the size of their frames"
        )
    if depth == 16:
        raise errors.VosError(
            f"{path}: 16-bit PNG; object ids go up to {VOID - 1}, so export the mask with 8 bits"
        )
    _check_end(path, data[-4096:])
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            # A second header may claim another size.
            if image.size != (width, height):
                raise ValueError(f"a second header claims {image.width}x{image.height} pixels")
            if kind == _INDEXED:
                image.load()
                return _indexed(path, image)
            if kind == _GREY and "transparency" not in image.info:
                # Pillow scales 1, 2 and 4 bit grey to 0..255, but the pixel value is the id.
                pixels = np.asarray(image.convert("L"))
                return _grey(pixels // (255 // (2**depth - 1)) if depth < 8 else pixels, depth)
            if kind in (_GREY, _GREY_ALPHA):
                return _grey(_without_alpha(path, np.asarray(image.convert("LA"))), 8)
            rgb = _without_alpha(path, np.asarray(image.convert("RGBA")))
    except (*DAMAGE, Image.DecompressionBombError) as error:
        if isinstance(error, errors.VosError):
            raise
        raise errors.VosError(
            f"{path}: the PNG is damaged or truncated ({error}); copy or export it again"
        ) from error
    colours, labels = np.unique(mask_colours.pack(rgb), return_inverse=True)
    return mask_colours.Picture(labels.reshape(rgb.shape[:2]), np.arange(len(colours)), colours)


def _grey(values: UInt8[np.ndarray, "H W"], depth: int) -> mask_colours.Picture:
    present = _present(values)
    # Few bits are shown stretched to 0..255, but the pixel value is the id.
    colours = present * (255 // (2**depth - 1)) * 0x010101
    return mask_colours.Picture(values, present, colours, present, is_grey=True)


def _indexed(path: str | os.PathLike, image: Image.Image) -> mask_colours.Picture:
    """Returns the colours of an indexed PNG; transparent ones are black, of index 0."""
    values = np.array(image)
    present = _present(values)
    palette = np.zeros((256, 3), np.uint8)
    listed = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
    palette[: len(listed)] = listed[:256]
    colours = mask_colours.pack(palette[present])
    shown, transparency = present, image.info.get("transparency")
    if transparency is not None:
        alpha = np.full(256, 255)
        if isinstance(transparency, bytes):
            alpha[: len(transparency)] = np.frombuffer(transparency, np.uint8)[:256]
        else:
            alpha[int(transparency)] = 0
        _check_alpha(path, alpha[present])
        colours, shown = (np.where(alpha[present] == 0, 0, array) for array in (colours, shown))
    return mask_colours.Picture(values, present, colours, shown)


def _present(values: UInt8[np.ndarray, "H W"]) -> np.ndarray:
    return np.flatnonzero(cv2.calcHist([values], [0], None, [256], [0, 256]))


def _read_bytes(path: str | os.PathLike) -> bytes:
    try:
        return files.read_bytes(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def write_mask(path: str | os.PathLike, ids: UInt8[np.ndarray, "H W"]) -> None:
    """Writes object ids atomically as an indexed PNG with the DAVIS palette.

    Args:
      path: the PNG file; its folder exists.
      ids: uint8 object ids, 0 is background.

    Raises:
      ValueError: `ids` is not a non-empty uint8 [H, W] array.
      OSError: the file cannot be written; no partial file is left.
    """
    if ids.dtype != np.uint8 or ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"a mask is a non-empty uint8 [H, W] array, not {ids.dtype} {ids.shape}")
    image = Image.fromarray(ids)
    image.putpalette(PALETTE.tobytes())
    encoded = io.BytesIO()
    # Level 1 is 3x faster than the default 6, and files are larger (7 kB instead of 4 for a 480p mask).
    image.save(encoded, "PNG", compress_level=1)

    with files.atomic(path, durable=False) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def check_indexed(data: bytes, path: str | os.PathLike) -> None:
    """Checks that a valid mask PNG is indexed with 8 bits and the DAVIS palette.

    Raises:
      VosError: it is grey or RGB, or an id has another colour than in `PALETTE`.
    """
    _, _, depth, kind = _png_header(path, data)
    if kind != _INDEXED or depth != 8:
        raise errors.VosError(f"{path}: not an indexed PNG with 8 bits; servers take masks with a palette")
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        palette = np.array(image.getpalette(), np.int32).reshape(-1, 3)
        present = np.unique(np.asarray(image))
    # The official files write 191 where the palette's rule gives 192.
    colours = palette[present[present < len(palette)]]
    if len(colours) < len(present) or np.any(np.abs(colours - PALETTE[present].astype(np.int32)) > 1):
        raise errors.VosError(f"{path}: its colours are not the DAVIS palette's; write ids with that palette")


def _png_header(path: str | os.PathLike, data: bytes) -> tuple[int, int, int, int]:
    """Returns height, width, bits per channel and colour type from a PNG's first 33 bytes."""
    if not data:
        raise errors.VosError(f"{path}: the file is empty")
    if data[:8] != _SIGNATURE[: len(data[:8])]:
        raise errors.VosError(
            f"{path}: not a PNG; masks are indexed, grey or palette-coloured PNGs (JPEG blurs object ids)"
        )
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise errors.VosError(f"{path}: the PNG is truncated inside its header; copy or export it again")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    check_size(path, height, width)
    return height, width, depth, kind


def _check_end(path: str | os.PathLike, tail: bytes) -> None:
    # Anywhere in the tail, because some writers append bytes to the image.
    if b"IEND" not in tail:
        raise errors.VosError(f"{path}: the PNG is truncated (its end is missing); copy or export it again")


def _without_alpha(path: str | os.PathLike, pixels: np.ndarray) -> np.ndarray:
    """Drops an alpha channel of only 0 and 255; transparent pixels become background."""
    alpha = pixels[..., -1]
    _check_alpha(path, alpha)
    colours = np.where(alpha[..., None] == 0, np.uint8(0), pixels[..., :-1])
    return colours[..., 0] if colours.shape[-1] == 1 else colours


def _check_alpha(path: str | os.PathLike, alpha: np.ndarray) -> None:
    if np.any((alpha != 0) & (alpha != 255)):
        raise errors.VosError(
            f"{path}: half-transparent pixels (alpha {mask_colours.some(np.unique(alpha))}): the mask is "
            "anti-aliased; export it with hard edges"
        )


def _unreadable(path: str | os.PathLike, error: OSError) -> errors.VosError:
    return errors.VosError(f"{path}: cannot read the mask: {error.strerror or error}")
