"""Files from elsewhere: the one door through which readers take their bytes and their JSON.

A data set that was unpacked from somebody's archive may hold a link to a device, a pipe that nobody writes
to, or a file of any size. Links are followed, as people link data sets into place; what they lead to has to
be a plain file of bounded size.
"""

import errno
import json
import os
import stat
from typing import Any, BinaryIO

MAX_BYTES = 1 << 30
"""Largest file read whole: a mask, a frame, weights."""

MAX_JSON_BYTES = 1 << 29


def opened(path: str | os.PathLike, most: int = MAX_BYTES) -> BinaryIO:
    """Opens a plain file of at most `most` bytes for reading.

    Raises:
      OSError: it cannot be opened, is a device, a pipe or a folder, or is larger.
    """
    # Without O_NONBLOCK opening a pipe waits for somebody to write to it.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file (a device or a pipe)", os.fspath(path))
        if status.st_size > most:
            raise OSError(
                errno.EFBIG,
                f"{status.st_size / 2**20:.0f} MiB; at most {most / 2**20:.0f} MiB are read",
                os.fspath(path),
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: str | os.PathLike, most: int = MAX_BYTES) -> bytes:
    """The bytes of a plain file; OSError as `opened`."""
    with opened(path, most) as file:
        return file.read()


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
      OSError: as `opened`.
      ValueError: it is no JSON, or nested so deeply that no honest file is.
    """
    return parse_json(read_bytes(path, MAX_JSON_BYTES))


def parse_json(data: bytes | str) -> Any:
    """What JSON text holds; ValueError if it is none or nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
