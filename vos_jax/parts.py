"""Files that appear whole: written beside their place under a name of their own, then renamed."""

import contextlib
import os
import pathlib
import re
import threading
from collections.abc import Iterator

_PART = re.compile(r"\..+\.\d+-\d+\.part(\.\w+)?")


def beside(path: str | os.PathLike) -> pathlib.Path:
    """Where this thread writes what shall appear at `path`: hidden, in the same folder, of the same kind."""
    path = pathlib.Path(path)
    return path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.part{path.suffix}")


@contextlib.contextmanager
def whole(path: str | os.PathLike, *, one_of_many: bool = False) -> Iterator[pathlib.Path]:
    """Yields a name to write to; it becomes `path` at the end, or goes where something went wrong.

    After a power cut `path` is what it was before or all of the new file. Not so with `one_of_many`, which
    spares waiting for the disk at every frame: who goes on with such files looks whether each has its end.
    """
    part = beside(path)
    try:
        yield part
        if one_of_many:
            os.replace(part, path)
        else:
            put(part, path)
    finally:
        remove(part)


def put(part: pathlib.Path, path: str | os.PathLike) -> None:
    """Gives a file its name once the disk holds all of it."""
    handle = os.open(part, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(part, path)


def remove(part: pathlib.Path) -> None:
    """Removes a file if it is there and can be removed; on a broken disk what broke it says more."""
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


def sweep(folder: pathlib.Path) -> None:
    """Removes what killed runs left below `folder`; no other program may be writing there."""
    for part in folder.rglob(".*.part*"):
        if _PART.fullmatch(part.name) and part.is_file() and not part.is_symlink():
            remove(part)
