"""Safe files: atomic writes, locked folders, guarded reads, checked names.

A file below a folder with a guard (`guard`) is replaced only if the guard admits it.

Input files are not trusted: an unpacked archive may contain a link to a device, a pipe without a writer, or a
file of any size. `open_regular` follows links, because data sets are often linked into place, and rejects
everything but regular files of limited size.
"""

import contextlib
import difflib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import secrets
import stat
import sys
import threading
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO, Protocol

from vos_jax import errors, natural_order

MAX_BYTES = 1 << 30
"""Size limit of a file that is read whole (a mask, a frame, weights), in bytes."""

MAX_JSON_BYTES = 1 << 29

MAX_NAME_BYTES = 200
"""Longest name. File systems allow 255 bytes, and `temporary_name` adds some."""

TOKEN = secrets.token_hex(6)
"""Part of the names of this process's temporary files, which tells them from those of other programs."""

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{12})-\d+\.part(\.\w+)?")

# Lists of numbers, which `indent` writes with one number per line; JSON strings have no line break.
_LISTS = re.compile(r"\[\n[\s\d.,eE+\-nul]*\]")


# --- atomic writes ------------------------------------------------------------------------------------------


class Guard(Protocol):
    """Decides which files below a folder may be replaced (`output_folder.OutputFolder`)."""

    def check_place(self, path: pathlib.Path) -> None: ...  # VosError: `path` is behind a link

    def admit(self, temporary: pathlib.Path, path: pathlib.Path, *, durable: bool) -> bool: ...


_guards: dict[pathlib.Path, Guard] = {}


def guard(folder: pathlib.Path, by: Guard | None) -> None:
    """Sets the guard of all files that this process writes below `folder`; None removes it."""
    for root in {absolute(folder), folder.resolve()}:
        if by is not None:
            _guards[root] = by
        else:
            _guards.pop(root, None)


def absolute(path: str | os.PathLike) -> pathlib.Path:
    """Returns an absolute path without '..'; does not follow links."""
    return pathlib.Path(os.path.abspath(path))


def _guard_of(path: str | os.PathLike) -> Guard | None:
    place = absolute(path)
    found = [root for root in list(_guards) if place.is_relative_to(root)]
    return _guards.get(max(found, key=lambda root: len(root.parts))) if found else None


def temporary_name(path: str | os.PathLike) -> pathlib.Path:
    """Returns a hidden name in the folder of `path`, with its suffix, unique to this thread.

    Raises:
      VosError: `path` is in a guarded folder, but behind a link out of it.
    """
    path = pathlib.Path(path)
    if (by := _guard_of(path)) is not None:
        by.check_place(path)
    return path.with_name(f".{path.stem}.{TOKEN}-{threading.get_native_id()}.part{path.suffix}")


@contextlib.contextmanager
def atomic(path: str | os.PathLike, *, durable: bool = True) -> Iterator[pathlib.Path]:
    """Yields a temporary name to write to, then renames it to `path`; on an exception, removes it.

    Args:
      path: the file to write; a reader sees the old file or the complete new one.
      durable: sync the file before the rename, so that a power cut leaves the old or the complete new file.
        False saves a wait for the disk per frame; a program that resumes must then check for truncated files.

    Raises:
      VosError: as `commit`.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        commit(temporary, path, durable=durable)
    finally:
        remove(temporary)


def commit(temporary: pathlib.Path, path: str | os.PathLike, *, durable: bool = True) -> None:
    """Renames a finished file to `path`, after syncing it to the disk if `durable`.

    Raises:
      VosError: the guard of the folder does not allow to replace the existing file.
    """
    if durable:
        handle = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    by = _guard_of(path)
    if by is None or by.admit(temporary, pathlib.Path(path), durable=durable):
        os.replace(temporary, path)
    else:
        remove(temporary)


def remove(path: pathlib.Path) -> None:
    """Removes a file if it exists; ignores OSError, which would hide an earlier error."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: pathlib.Path, tokens: Collection[str] | None = None) -> None:
    """Removes temporary files that killed processes left below `folder`.

    Args:
      folder: this program's output folder; links below it are not followed.
      tokens: `TOKEN`s of the processes; None: of all processes of this program, none of which may be writing.
    """
    for path in folder.rglob(".*.part*"):
        found = _TEMPORARY.fullmatch(path.name)
        is_own = found and (tokens is None or found[1] in tokens)
        if is_own and path.is_file() and not path.is_symlink():
            remove(path)


def remove_leftovers_of(path: pathlib.Path) -> None:
    """Removes temporary files of `path` that killed processes left; no process may be writing it."""
    own = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{12}}-\d+\.part{re.escape(path.suffix)}")
    for beside in path.parent.glob(".*.part*"):
        if own.fullmatch(beside.name) and beside.is_file() and not beside.is_symlink():
            remove(beside)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file atomically, indented, with each list of numbers on one line.

    Raises:
      VosError: the file cannot be written.
    """
    try:
        with atomic(path) as temporary:
            temporary.write_text(_LISTS.sub(_on_one_line, json.dumps(value, indent=2)) + "\n")
    except OSError as error:
        raise errors.VosError(f"{path}: cannot write: {error.strerror or error}") from error


def _on_one_line(found: re.Match) -> str:
    return "[" + " ".join(found.group()[1:-1].split()) + "]"


# --- output folders -----------------------------------------------------------------------------------------


def check_writable(folder: str | os.PathLike, option: str = "--out") -> None:
    """Creates a folder and writes a probe file of 64 KiB into it.

    Args:
      folder: the output folder.
      option: the command line option that names another folder, for the error.

    Raises:
      VosError: the folder cannot be created, is a file, is read-only, or its disk is full.
    """
    folder = pathlib.Path(folder)
    probe = temporary_name(folder / "writable")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(65536))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise errors.VosError(
            f"cannot write to {folder}: {error.strerror or error}; name another folder with {option}"
        ) from error


def check_inside(folder: pathlib.Path, out_dir: pathlib.Path) -> None:
    """Raises VosError if a link leads `folder` out of `out_dir`; `out_dir` itself may be a link."""
    if not folder.resolve().is_relative_to(out_dir.resolve()):
        raise errors.VosError(
            f"{folder}: is a link out of {out_dir}, where nothing may be written; remove it, or name its "
            "target with --out"
        )


def lock_folder(folder: str | os.PathLike, option: str = "--out") -> None:
    """Locks a folder until this program's `main` returns or its process ends; see `lock`."""
    errors.ending.callback(os.close, lock(folder, option))


def lock(folder: str | os.PathLike, option: str = "--out") -> int:
    """Locks a folder until the returned handle is closed or the process ends.

    The lock is a flock on the folder itself, so no lock file is left. It has no effect on file systems that
    cannot lock a folder (some NFS mounts).

    Args:
      folder: an existing output folder.
      option: the command line option that names another folder, for the error.

    Raises:
      VosError: another program holds the lock, or the folder cannot be opened.
    """
    folder = pathlib.Path(folder)
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise errors.VosError(f"cannot open {folder}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise errors.VosError(
            f"{folder}: another run is writing there; wait for its end, or choose another {option}"
        ) from None
    except OSError:
        pass  # no locks on this file system
    return handle


# --- reading ------------------------------------------------------------------------------------------------


def open_regular(path: str | os.PathLike, limit: int = MAX_BYTES) -> BinaryIO:
    """Opens a regular file of at most `limit` bytes for reading.

    Raises:
      OSError: the file cannot be opened, is a device, a pipe or a folder, or is larger.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file (a device or a pipe)", os.fspath(path))
        if status.st_size > limit:
            raise OSError(
                errno.EFBIG,
                f"{status.st_size / 2**20:.0f} MiB; at most {limit / 2**20:.0f} MiB are read",
                os.fspath(path),
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: str | os.PathLike, limit: int = MAX_BYTES) -> bytes:
    """Reads a regular file of at most `limit` bytes; raises OSError as `open_regular` does."""
    with open_regular(path, limit) as file:
        return file.read()


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file of at most `MAX_JSON_BYTES`.

    Raises:
      OSError: as `open_regular`.
      ValueError: the content is not JSON, or is nested too deeply.
    """
    return parse_json(read_bytes(path, MAX_JSON_BYTES))


def parse_json(data: bytes | str) -> Any:
    """Parses JSON text; raises ValueError if it is not JSON or is nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256(path: str | os.PathLike) -> str:
    """Returns the sha256 of a regular file of any size; raises VosError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path, sys.maxsize) as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise errors.VosError(f"{path}: cannot read it: {error.strerror}") from error
    return digest.hexdigest()


def list_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns a folder's entries in natural order, without hidden ones; [] if there is no such folder.

    Raises:
      VosError: the folder cannot be listed.
    """
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise errors.VosError(f"{folder}: cannot list the folder: {error.strerror}") from error
    return natural_order.sort(paths)


# --- names --------------------------------------------------------------------------------------------------


# A colon is part of a name (12:30:00.png) wherever it does not name a drive.
_SEPARATORS = ("/", "\\", "\0", ":") if os.name == "nt" else ("/", "\\", "\0")


def safe_name(name: str, what: str = "sequence") -> str:
    """Returns `name` if it is a single path component, so that it cannot leave its folder.

    Args:
      name: the name of a sequence, a frame or a split.
      what: the kind of thing that is named, for the error.

    Raises:
      VosError: the name contains a separator or control characters, or is longer than `MAX_NAME_BYTES`.
    """
    if not name or name in (".", "..") or any(c in _SEPARATORS for c in name):
        separators = ", ".join(map(repr, _SEPARATORS))
        raise errors.VosError(f"{what} {name!r} is not a plain name (no {separators} or '..')")
    # A terminal would execute control characters; lone surrogates cannot be printed.
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name) or len(name.encode()) > MAX_NAME_BYTES:
        raise errors.VosError(
            f"{what} {name[:100]!r} contains control characters, is not UTF-8 or is longer than "
            f"{MAX_NAME_BYTES} bytes"
        )
    return name


def closest_names(name: str, known: Sequence[str]) -> list[str]:
    """Returns the known names most similar to `name`: up to two, at least one if any is known."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return near or difflib.get_close_matches(name, known, n=1, cutoff=0.0) or list(known[:1])
