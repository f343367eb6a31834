"""Frame files: a check of the header at the start, strict decoding later; upright, as viewers show them."""

import dataclasses
import io
import os
import pathlib
import struct
from collections.abc import Iterable
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image

from vos_jax import errors, files
from vos_jax.data import mask_files
from vos_jax.typing import UInt8

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"),
)

DEEP = (".png", ".tif", ".tiff")
"""Extensions of the formats that may hold 12 of 16 bits."""

NOT_READ = frozenset(
    ".heic .heif .exr .hdr .pic .dpx .cin .psd .xcf .svg .dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .raw .jxl "
    ".jxr .j2k .gif .pcx .sgi .rgb .dds .ico .mp4 .mov .avi .mkv .webm .m4v .mpg .ts .mts .wmv .flv".split()
)
"""Extensions of pictures and films that are not read as frames, but named where they are left out."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
_BY_OPENCV = frozenset({"JPEG", "PNG", "BMP", "WEBP", "TIFF"})
_MANY_PICTURES = frozenset({"PNG", "WEBP", "TIFF", "GIF", "AVIF"})
_DAMAGE = (*mask_files.DAMAGE, RuntimeError)  # Pillow's AVIF decoder raises RuntimeError
_ORIENTATION = 0x0112
_REDUCED_PAGE = 254  # TIFF: NewSubfileType; its lowest bit marks a smaller copy

_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


@dataclasses.dataclass(frozen=True)
class _Header:
    """The content of an image's header.

    Attributes:
      kind: Pillow's name of the format.
      size: (height, width) as shown.
      orientation: of EXIF, 1 to 8; 1: stored as it is shown.
      is_deep: whether channels have 16 bits.
    """

    kind: str
    size: tuple[int, int]
    orientation: int
    is_deep: bool


def frame_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the height and width of a frame file as it is shown, and checks that it is complete.

    Raises:
      VosError: the file is missing, not an image, too large, truncated, or an animation.
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
            size = _read_header(path, file).size
            file.seek(0)
            if (count := count_pictures(path, file)) > 1:
                raise errors.VosError(
                    f"{path}: an animation of {count} pictures, and a frame is one picture; name the file "
                    f"itself as the video (segment.py {path}), or save its pictures as single files"
                )
            return size
    except OSError as error:
        raise _undecodable(path, error) from error


def is_frame(path: pathlib.Path) -> bool:
    """Returns whether a file has the extension of a frame."""
    return path.suffix.lower() in EXTENSIONS


def left_out(paths: Iterable[pathlib.Path]) -> str:
    """Returns a line about pictures and films among files that are no frames; "" if there are none."""
    found = [path for path in paths if path.suffix.lower() in NOT_READ]
    if not found:
        return ""
    named = ", ".join(path.name for path in found[:3]) + (", ..." if len(found) > 3 else "")
    kinds = ", ".join(sorted({path.suffix.lower() for path in found}))
    return f"{len(found)} file(s) left out, {kinds} is not read as a frame: {named}"


def bits(path: str | os.PathLike) -> int:
    """Returns the bits per channel that a frame uses: 8, 16, or 12 where 16 are stored."""
    data = read_file(path)
    _check_complete(path, data)
    header = _read_header(path, io.BytesIO(data))
    if not header.is_deep:
        return 8
    brightest = int(_decoded(data, path, header, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH).max())
    return 12 if 255 < brightest < 4096 else 16


def read_frame(path: str | os.PathLike, *, short_side: int = 0, bits: int = 16) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes one frame as RGB, upright by its EXIF orientation; repeats grey and drops alpha.

    Args:
      path: the file.
      short_side: a larger frame is shrunk to this short side, partly while decoding; 0: it keeps its size.
      bits: those that are used where 16 per channel are stored; the highest 8 of them are read.

    Raises:
      VosError: the file is missing, cannot be decoded, or is truncated (decoders would return a frame whose
        lower part is grey).
    """
    data = read_file(path)
    _check_complete(path, data)
    short = min(_read_header(path, io.BytesIO(data)).size) if short_side else 0
    reduce = max((r for r in _REDUCED if short_side and short // r >= short_side), default=1)
    if bits < 16:
        deep = decode(data, path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        frame = np.minimum(deep >> (bits - 8), 255).astype(np.uint8) if deep.dtype == np.uint16 else deep
    else:
        frame = decode(data, path, _REDUCED[reduce])
    return shrink(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), short_side)


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


def decode(data: bytes, where: str | os.PathLike, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """Decodes an image's bytes to BGR, upright, after a check of the size in its header.

    Raises:
      VosError: not a supported image, or a too large one; the message names `where`.
    """
    header = _read_header(where, io.BytesIO(data))
    return _decoded(data, where, header, flags)


def _decoded(data: bytes, where: str | os.PathLike, header: _Header, flags: int) -> np.ndarray:
    _check_chunks(data, where)
    image, orientation = None, header.orientation
    # OpenCV turns some TIFFs, but only by halves.
    by_opencv = header.kind in _BY_OPENCV and (header.kind != "TIFF" or orientation == 1)
    if by_opencv:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:
            raise _undecodable(where, error) from error
    # OpenCV reads few kinds of TIFF.
    if not by_opencv or (image is None and header.kind == "TIFF"):
        try:
            with Image.open(io.BytesIO(data), formats=[header.kind]) as opened:
                image = cv2.cvtColor(to_rgb(opened), cv2.COLOR_RGB2BGR)
                orientation = 1 if header.kind == "TIFF" else orientation  # Pillow turns TIFFs
        except _DAMAGE as error:
            raise _undecodable(where, error) from error
    if image is None:
        raise _undecodable(where, None)
    return np.ascontiguousarray(_upright(image, orientation))


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the pixels of an opened image; takes the highest 8 of 16 bits."""
    if image.mode.startswith("I"):
        grey = np.minimum(np.asarray(image).astype(np.int64) >> 8, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors an image by its EXIF orientation."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    flip_y, flip_x = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def _check_chunks(data: bytes, where: str | os.PathLike) -> None:
    """Raises VosError for a PNG chunk longer than the file: OpenCV would allocate its claimed length."""
    at = 8
    # Some writers append bytes to the image.
    while data[:4] == b"\x89PNG" and at + 12 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if at > len(data):
            raise errors.VosError(f"{where}: the PNG is damaged (a chunk is longer than the file)")


def _read_header(path: str | os.PathLike, file: BinaryIO) -> _Header:
    """Reads the header.

    Raises:
      VosError: there is none, the size is too large, pixels have 32 bits, or a TIFF is truncated.
    """
    formats = [*_FORMATS, *(["TGA"] if os.fspath(path).lower().endswith(".tga") else [])]
    try:
        with Image.open(file, formats=formats) as image:
            width, height = image.size
            mask_files.check_size(path, height, width)
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if image.mode == "F" or (image.mode == "I" and kind == "TIFF"):
                raise errors.VosError(f"{path}: pixels of 32 bits; export the frames with 8 or 16 bits")
            tags: Any = getattr(image, "tag_v2", {})
            if kind == "TIFF":
                _check_strips(path, tags, file)
            depth = tags.get(258, (8,)) if kind == "TIFF" else (8,)
            if kind == "PNG" and "exif" not in image.info:
                image.info["exif"] = _png_exif(file)
            # The one of PngImageFile decodes the pixels.
            orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
            is_deep = image.mode.startswith("I;16") or max(depth) == 16 or _is_deep_png(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise errors.VosError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise _undecodable(path, error) from error
    orientation = orientation if orientation in range(1, 9) else 1
    # Pillow gives the size of a TIFF as it is shown.
    is_turned = orientation >= 5 and kind != "TIFF"
    return _Header(kind, (width, height) if is_turned else (height, width), orientation, is_deep)


def _png_exif(file: BinaryIO) -> bytes | None:
    """Returns the chunk eXIf of a PNG, which may stand behind the pixels."""
    at, length = 8, file.seek(0, os.SEEK_END)
    while at + 12 <= length:
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(8))
        if name == b"eXIf":
            return file.read(size) if at + 12 + size <= length else None
        at += 12 + size
    return None


def _is_deep_png(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(25)
    return head[:4] == b"\x89PNG" and head[24:25] == b"\x10"


def _check_strips(path: str | os.PathLike, tags: Any, file: BinaryIO) -> None:
    """Raises VosError for a TIFF whose pixels lie beyond its end."""
    length = file.seek(0, os.SEEK_END)
    for offsets, counts in ((273, 279), (324, 325)):
        for start, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
            if start + count > length:
                raise _truncated(path, "TIFF")


def count_pictures(path: str | os.PathLike, file: BinaryIO) -> int:
    """Returns the number of pictures in an image file; smaller copies of one are not counted.

    Raises:
      VosError: the file is damaged.
    """
    try:
        with Image.open(file, formats=list(_FORMATS)) as image:
            if image.format not in _MANY_PICTURES or (count := getattr(image, "n_frames", 1)) < 2:
                return 1
            if image.format != "TIFF":
                return count
            found = 0
            for page in range(count):
                image.seek(page)
                tags: Any = getattr(image, "tag_v2", {})
                found += not tags.get(_REDUCED_PAGE, 0) & 1
            return max(1, found)
    except Image.UnidentifiedImageError:
        return 1
    except _DAMAGE as error:
        raise _undecodable(path, error) from error


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
    if kind is not None:
        raise errors.VosError(
            f"{path}: the {kind} is truncated (its end is missing); copy or export it again"
        )


def _ends_well(head: bytes, tail: bytes, length: int) -> bool:
    """Returns whether the file is complete by its last bytes or by the length in its header.

    Formats without such a mark count as complete; their decoders are strict.
    """
    if head[:2] == b"\xff\xd8":
        return tail[-2:] == b"\xff\xd9"
    if head[:4] == b"\x89PNG":
        return tail[-8:-4] == b"IEND"
    if head[:2] == b"BM" and len(head) >= 6:
        return length >= struct.unpack("<I", head[2:6])[0]
    if head[:4] == b"RIFF" and len(head) >= 8:
        return length >= struct.unpack("<I", head[4:8])[0] + 8
    return length > 0 and head[:2] not in (b"\x89P", b"BM", b"RI")


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


def _truncated(path: str | os.PathLike, kind: str) -> errors.VosError:
    return errors.VosError(f"{path}: the {kind} is truncated (its end is missing); copy or export it again")


def _undecodable(path: str | os.PathLike, error: Exception | None) -> errors.VosError:
    if isinstance(error, OSError) and error.strerror:
        return errors.VosError(f"{path}: cannot read the frame: {error.strerror}")
    return errors.VosError(f"{path}: not an image that can be decoded ({', '.join(EXTENSIONS)} are read)")
