"""Frame files: a check of the header at the start, strict decoding later."""

import io
import os
import pathlib
import struct
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from vos_jax import errors, files
from vos_jax.data import mask_files
from vos_jax.typing import UInt8

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


def frame_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the height and width of a frame file from its header, and checks that it is complete.

    Raises:
      VosError: the file is missing, not an image, too large, or truncated.
    """
    try:
        with files.open_regular(path) as file:
            head = file.read(16)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - 12))
            if not _ends_well(head, file.read(), length):
                file.seek(0)
                _check_complete(path, file.read())
            file.seek(0)
            return _claimed_size(path, file)
    except OSError as error:
        raise _undecodable(path, error) from error


def is_frame(path: pathlib.Path) -> bool:
    """Returns whether a file has the extension of a frame."""
    return path.suffix.lower() in EXTENSIONS


def read_frame(path: str | os.PathLike, *, short_side: int = 0) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes one frame as RGB; repeats grey, drops alpha, ignores EXIF orientation like the toolkits.

    Args:
      path: the file.
      short_side: a larger frame is shrunk to this short side, partly while decoding; 0: it keeps its size.

    Raises:
      VosError: the file is missing, cannot be decoded, or is truncated (decoders would return a frame whose
        lower part is grey).
    """
    data = read_file(path)
    _check_complete(path, data)
    short = min(_claimed_size(path, io.BytesIO(data))) if short_side else 0
    reduce = max((r for r in _REDUCED if short_side and short // r >= short_side), default=1)
    frame = cv2.cvtColor(decode(data, path, _REDUCED[reduce]), cv2.COLOR_BGR2RGB)
    return shrink(frame, short_side)


def shrink(frame: UInt8[np.ndarray, "H W 3"], short_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Shrinks a frame by area averaging so that its short side is `short_side`; never enlarges.

    A `short_side` of 0 keeps the size.
    """
    short = min(frame.shape[:2])
    if short_side == 0 or short <= short_side:
        return frame
    factor = short_side / short
    size = (round(frame.shape[1] * factor), round(frame.shape[0] * factor))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def read_file(path: str | os.PathLike) -> bytes:
    """Returns the bytes of a frame file; VosError if it cannot be read."""
    try:
        return files.read_bytes(path)
    except OSError as error:
        raise _undecodable(path, error) from error


def decode(data: bytes, where: str | os.PathLike, flags: int = cv2.IMREAD_COLOR) -> UInt8[np.ndarray, "..."]:
    """Decodes an image's bytes to BGR, after a check of the size in its header.

    Raises:
      VosError: not a supported image, or a too large one; the message names `where`.
    """
    _claimed_size(where, io.BytesIO(data))
    _check_chunks(data, where)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise _undecodable(where, error) from error
    if image is None:
        raise _undecodable(where, None)
    return image


def _check_chunks(data: bytes, where: str | os.PathLike) -> None:
    """Raises VosError for a PNG chunk longer than the file: OpenCV would allocate its claimed length."""
    at = 8
    # Some writers append bytes to the image.
    while data[:4] == b"\x89PNG" and at + 12 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if at > len(data):
            raise errors.VosError(f"{where}: the PNG is damaged (a chunk is longer than the file)")


def _claimed_size(path: str | os.PathLike, file: BinaryIO) -> tuple[int, int]:
    """Returns the height and width in the header; VosError if there is none or the size is too large."""
    try:
        with Image.open(file, formats=["JPEG", "PNG", "BMP", "WEBP"]) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise errors.VosError(f"{path}: {error}") from error
    except mask_files.DAMAGE as error:
        raise _undecodable(path, error) from error
    mask_files.check_size(path, height, width)
    return height, width


def _check_complete(path: str | os.PathLike, data: bytes) -> None:
    if not data:
        raise errors.VosError(f"{path}: the file is empty")
    if _ends_well(data[:16], data[-12:], len(data)):
        return
    # Some writers append bytes to the image: look for the end mark itself.
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" in data[_first_scan(data) :]:
        return
    if data[:4] == b"\x89PNG" and b"IEND" in data[-4096:]:
        return
    kind = {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"BM": "BMP", b"RI": "WebP"}.get(data[:2])
    if kind is None:
        raise _undecodable(path, None)
    raise errors.VosError(f"{path}: the {kind} is truncated (its end is missing); copy or export it again")


def _ends_well(head: bytes, tail: bytes, length: int) -> bool:
    """Returns whether the file is complete by its last bytes or by the length in its header."""
    if head[:2] == b"\xff\xd8":
        return tail[-2:] == b"\xff\xd9"
    if head[:4] == b"\x89PNG":
        return tail[-8:-4] == b"IEND"
    if head[:2] == b"BM" and len(head) >= 6:
        return length >= struct.unpack("<I", head[2:6])[0]
    if head[:4] == b"RIFF" and len(head) >= 8:
        return length >= struct.unpack("<I", head[4:8])[0] + 8
    return False


def _first_scan(data: bytes) -> int:
    """Returns the offset of a JPEG's compressed pixels; a thumbnail's end mark may come before it."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return at
        if data[at + 1] == 0xFF:
            at += 1
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return len(data)


def _undecodable(path: str | os.PathLike, error: Exception | None) -> errors.VosError:
    if isinstance(error, OSError) and error.strerror:
        return errors.VosError(f"{path}: cannot read the frame: {error.strerror}")
    return errors.VosError(f"{path}: not an image that can be decoded ({', '.join(EXTENSIONS)} are read)")
