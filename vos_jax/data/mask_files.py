"""Mask files: PNGs of object ids in the usual forms, read strictly and written atomically."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from vos_jax import errors, files
from vos_jax.typing import UInt8

MAX_OBJECTS = 64
"""Maximum number of objects in a mask or video: the largest of `inference.object_buckets`."""

MAX_SIDE = 16_384
MAX_PIXELS = 80_000_000
"""Largest image that is decoded (8K video has 33 million pixels), as a small file may claim any size."""

VOID = 255

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, zlib.error, struct.error)
"""Exceptions that Pillow raises for damaged files."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _INDEXED, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6


def _make_palette() -> UInt8[np.ndarray, "256 3"]:
    """Returns the palette: bits 3k to 3k + 2 of an id are bit 7 - k of RGB."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette


PALETTE = _make_palette()
"""The DAVIS palette: colour of object id i, uint8 [256,3] RGB."""


def _make_colour_ids() -> dict[int, int]:
    """Maps packed RGB to object id; the official DAVIS files have 191 where the palette's rule gives 192."""
    known = [*range(MAX_OBJECTS + 1), VOID]
    colours = {int(_pack(PALETTE[i])): i for i in known}
    colours |= {int(_pack(np.where(PALETTE[i] == 192, 191, PALETTE[i]))): i for i in known}
    return colours


def _pack(rgb: np.ndarray) -> int | np.ndarray:
    red, green, blue = (np.asarray(rgb)[..., c].astype(np.uint32) for c in range(3))
    packed = red << 16 | green << 8 | blue
    return int(packed) if packed.ndim == 0 else packed


_COLOUR_IDS = _make_colour_ids()


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

    Supported are indexed PNGs with any palette and grey ones of at most 8 bits, whose pixel value is the id,
    and RGB and RGBA with the colours of the DAVIS palette. A mask of only 0 and 255 (black and white) is
    binary: 255 is object 1. Otherwise 255, and the palette's colour 255, is void and becomes background.

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
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return decode_mask(data, path, expected_size)


def decode_mask(
    data: bytes, path: str | os.PathLike, expected_size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W"]:
    """Decodes a file's bytes as `read_mask` does; `path` is its name in errors."""
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
            if kind in (_RGB, _RGBA):
                pixels = np.asarray(image.convert("RGBA"))
            elif kind == _GREY_ALPHA:
                pixels = np.asarray(image.convert("LA"))
            elif kind == _GREY:
                # Pillow scales 1, 2 and 4 bit grey to 0..255, but the pixel value is the id.
                pixels = np.asarray(image.convert("L"))
                pixels = pixels // (255 // (2**depth - 1)) if depth < 8 else pixels
            else:
                pixels = np.asarray(image)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise errors.VosError(
            f"{path}: the PNG is damaged or truncated ({error}); copy or export it again"
        ) from error

    if kind in (_GREY_ALPHA, _RGBA):
        pixels = _without_alpha(path, pixels)
    if kind in (_RGB, _RGBA):
        return _ids_of_colours(path, pixels[..., :3])
    return _ids_of_values(path, pixels, is_grey=kind != _INDEXED)


def is_binary(path: str | os.PathLike) -> bool:
    """Returns whether a mask PNG, valid for `read_mask`, is black and white: it has no object ids."""
    # From memory: with a file object, Pillow would allocate the length that a chunk claims.
    with Image.open(io.BytesIO(files.read_bytes(path)), formats=["PNG"]) as image:
        pixels = np.asarray(image if image.mode in "PL1" else image.convert("RGB"))
    return bool(np.all((pixels == 0) | (pixels == (1 if pixels.dtype == bool else VOID)))) and (
        pixels.ndim == 2 or bool(np.all(pixels == pixels[..., :1]))
    )


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
    if np.any((alpha != 0) & (alpha != 255)):
        raise errors.VosError(
            f"{path}: half-transparent pixels (alpha {_some(np.unique(alpha))}): the mask is anti-aliased; "
            "export it with hard edges"
        )
    colours = np.where(alpha[..., None] == 0, np.uint8(0), pixels[..., :-1])
    return colours[..., 0] if colours.shape[-1] == 1 else colours


def _ids_of_colours(path: str | os.PathLike, rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    colours, inverse = np.unique(_pack(rgb), return_inverse=True)
    inverse = inverse.reshape(rgb.shape[:2])
    if 0xFFFFFF in colours and set(colours.tolist()) <= {0, 0xFFFFFF}:
        return (colours == 0xFFFFFF).astype(np.uint8)[inverse]
    unknown = [c for c in colours.tolist() if c not in _COLOUR_IDS]
    if unknown:
        names = [f"({c >> 16},{c >> 8 & 255},{c & 255})" for c in unknown]
        raise errors.VosError(
            f"{path}: RGB mask with {len(unknown)} colour(s) outside the DAVIS palette: {_some(names)}; "
            "export it as an indexed PNG, or with hard edges (no anti-aliasing) in the palette's colours: "
            "(128,0,0), (0,128,0), (128,128,0), (0,0,128), ..."
        )
    table = np.array([_COLOUR_IDS[c] for c in colours.tolist()], np.uint8)
    table[table == VOID] = 0
    _check_count(path, set(table.tolist()))
    return table[inverse]


def _ids_of_values(
    path: str | os.PathLike, values: UInt8[np.ndarray, "H W"], *, is_grey: bool
) -> UInt8[np.ndarray, "H W"]:
    present = np.flatnonzero(cv2.calcHist([values], [0], None, [256], [0, 256]))
    if present[-1] == VOID and np.all((present == 0) | (present == VOID)):
        return values & np.uint8(1)
    # In a grey PNG, 255 together with other bright greys is not void, but white with soft edges or objects in
    # grey levels: taking 255 for background would silently lose an object.
    levels = present[(present > MAX_OBJECTS) & (present < VOID)]
    if is_grey and (len(present) > MAX_OBJECTS + 2 or (present[-1] == VOID and levels.size)):
        raise errors.VosError(
            f"{path}: grey mask with {len(present)} values ({_some(present)}): these are not object ids, the "
            "mask looks anti-aliased; export it as an indexed PNG or with only 0 and 255"
        )
    _check_count(path, set(present.tolist()) - {VOID})
    return np.where(values == VOID, np.uint8(0), values) if present[-1] == VOID else np.array(values)


def _check_count(path: str | os.PathLike, ids: set[int]) -> None:
    count = len(ids - {0})
    if count > MAX_OBJECTS:
        raise errors.VosError(f"{path}: {count} objects; at most {MAX_OBJECTS} are tracked in one video")


def _some(values, most: int = 6) -> str:
    values = [str(v) for v in values]
    return ", ".join(values[:most]) + (f", ... {values[-1]}" if len(values) > most else "")


def _unreadable(path: str | os.PathLike, error: OSError) -> errors.VosError:
    return errors.VosError(f"{path}: cannot read the mask: {error.strerror or error}")
