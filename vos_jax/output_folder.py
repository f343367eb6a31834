"""Output folders: a record of the files that this program wrote; no others are replaced."""

import contextlib
import hashlib
import json
import os
import pathlib
import stat
import threading
from collections.abc import Callable, Iterable, Iterator

from vos_jax import errors, files

NAME = "files.jsonl"
"""The record: a line per file that was written, with its size and the beginning of its sha256."""

STATES = ".states"
"""The folder below an output folder that holds what only an unfinished run needs."""

HEADER = json.dumps({"format": "vos_jax.files/1"}) + "\n"

Signature = tuple[int, str]
"""A file's size in bytes and the first half of its sha256."""


class OutputFolder:
    """A folder that results are written to, and the record of the files that this program wrote there.

    While it is open, `files.atomic` and `files.commit` below the folder record each file before they rename
    it, and refuse to replace a file that the record does not name with its size and checksum. A run that is
    killed leaves a record that names the old file and the new one.

    Args:
      folder: it is created; it may be a link.
      inputs: files and folders that are read.
      option: the command line option that names another folder, for errors.
      process: the number of this process; all but process 0 keep a record of their own in STATES, which
        process 0 merges. Open the folder in process 0 first.

    Attributes:
      path: the folder.
      kept: paths, relative to the folder, of files that the user changed and that were not replaced (`keep`).

    Raises:
      VosError: the folder is, holds or lies in an input; it cannot be written; another program is writing
        there; its record is a link or of another program.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        inputs: Iterable[str | os.PathLike] = (),
        option: str = "--out",
        process: int = 0,
    ):
        check_apart(folder, inputs, option)
        self.path, self._option, self._process = pathlib.Path(folder), option, process
        self.kept: list[str] = []
        self._known: dict[str, list[Signature]] = {}
        self._keeps: dict[str, Callable[[pathlib.Path], bool]] = {}
        self._mutex = threading.RLock()
        self._is_open = False
        name = pathlib.Path(STATES, f"files-{process}.jsonl") if process else NAME
        self._record = self.path / name
        with _writable(self.path, option):
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock = files.lock(self.path, option) if process == 0 else None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        files.check_inside(self._record.parent, self.path)
        tokens: list[str] = []
        for path in (self.path / NAME, *self._parts()):
            self._add(self._read(path, tokens))
        with _writable(self.path, self._option):
            self._record.parent.mkdir(exist_ok=True)
            self._append([{"token": files.TOKEN}])
        if self._process == 0:
            files.remove_leftovers(self.path, {*tokens, files.TOKEN})
        files.check_writable(self.path, self._option)
        files.guard(self.path, self)
        self._is_open = True

    def close(self) -> None:
        """Ends guard and lock; the folder may be opened again."""
        if self._is_open:
            files.guard(self.path, None)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self.path / STATES).rmdir()
            if self._is_open and not self._known:  # nothing was written: no trace stays
                files.remove(self._record)
            os.close(self._lock)
            self._lock = None

    # ---------------------------------------------------------------- what is there

    def owns(self, path: pathlib.Path) -> bool:
        """Returns whether `path` is a file as this program wrote it."""
        known = self._known.get(self._relative(path))
        return known is not None and signature(path, {size for size, _ in known}) in known

    def recorded(self, below: str) -> list[pathlib.Path]:
        """Returns the recorded files below a folder, or that file, whether they exist or not."""
        with self._mutex:
            names = [name for name in self._known if name == below or name.startswith(f"{below}/")]
        return [self.path / name for name in names]

    def check(self, path: pathlib.Path) -> None:
        """Raises VosError if `path` cannot be written without replacing a file of the user's.

        Raises:
          VosError: something is there that this program did not write, or that was changed since; or `path`
            lies behind a link out of the folder.
        """
        self.check_place(path)
        if os.path.lexists(path) and not self.owns(path):
            raise errors.VosError(
                f"{path}: is there, and is not as this program wrote it; it is never replaced: move it away, "
                f"or choose another {self._option}"
            )

    def check_place(self, path: pathlib.Path) -> None:
        """Raises VosError if a link leads from the folder to where `path` lies."""
        files.check_inside(path.parent, self.path)

    # ---------------------------------------------------------------- what changes it

    def remove(self, path: pathlib.Path) -> None:
        """Removes a file if this program wrote it and nobody changed it since; else it stays.

        Raises:
          OSError: it cannot be removed.
        """
        if path.parent.resolve().is_relative_to(self.path.resolve()) and self.owns(path):
            path.unlink()
            with self._mutex:
                self._known.pop(self._relative(path), None)

    def keep(self, below: str, wanted: Callable[[pathlib.Path], bool] | None) -> None:
        """Sets which files below a folder stay, instead of an error, if a new one would replace them.

        Args:
          below: the folder, relative to this one.
          wanted: called with a path that this program does not own; None: no file stays.
        """
        self._keeps.pop(below, None)
        if wanted is not None:
            self._keeps[below] = wanted

    def admit(self, temporary: pathlib.Path, path: pathlib.Path, *, durable: bool) -> bool:
        """Records a file that is about to be renamed to `path`; returns False if the old one stays.

        Raises:
          VosError: as `check`.
          OSError: the record cannot be written.
        """
        name, new = self._relative(path), signature(temporary)
        assert new is not None  # it was just written
        self.check_place(path)
        if os.path.lexists(path) and not self.owns(path) and signature(path) != new:
            if any(name.startswith(f"{below}/") and keep(path) for below, keep in self._keeps.items()):
                self.kept.append(name)
                return False
            self.check(path)
        with self._mutex:
            if new not in self._known.get(name, ()):
                self._append([_line(name, new)], durable=durable)
                self._known.setdefault(name, []).append(new)
        return True

    def merge_processes(self) -> None:
        """Takes over the records that other processes left; they must have ended or have closed the folder.

        Raises:
          OSError: a record cannot be written or removed.
        """
        for path in self._parts():
            found = self._read(path, [])
            with self._mutex:
                self._add(found)
                self._append([_line(name, each) for name, each in found], durable=True)
            path.unlink()

    def compact(self) -> None:
        """Rewrites the record, sorted, with the files that are still there; the last thing a run does.

        Raises:
          VosError: it cannot be written.
        """
        with self._mutex:
            lines = []
            for name, known in sorted(self._known.items()):
                # More than one: a run was killed between recording a file and renaming it.
                is_there = os.path.lexists(self.path / name)
                found = signature(self.path / name) if is_there and len(known) > 1 else None
                lines += [
                    _line(name, each)
                    for each in known
                    if is_there and (found in (None, each) or found not in known)
                ]
            temporary = files.temporary_name(self._record)
            try:
                with _writable(self.path, self._option):
                    temporary.write_text(HEADER + "".join(json.dumps(line) + "\n" for line in lines))
                    self._check_record(self._record)
                    os.replace(temporary, self._record)
            finally:
                files.remove(temporary)

    # ---------------------------------------------------------------- the record

    def _relative(self, path: pathlib.Path) -> str:
        place = files.absolute(path)
        for root in (files.absolute(self.path), self.path.resolve()):
            if place.is_relative_to(root):
                return place.relative_to(root).as_posix()
        raise ValueError(f"{path} does not lie in {self.path}")

    def _parts(self) -> list[pathlib.Path]:
        found = (self.path / STATES).glob("files-*.jsonl") if not (self.path / STATES).is_symlink() else ()
        return sorted(path for path in found if path.stem.removeprefix("files-").isdigit())

    def _check_record(self, path: pathlib.Path) -> None:
        if path.is_symlink():
            raise errors.VosError(f"{path}: is a link; remove it, or choose another {self._option}")

    def _add(self, found: Iterable[tuple[str, Signature]]) -> None:
        for name, each in found:
            if each not in self._known.setdefault(name, []):
                self._known[name].append(each)

    def _read(self, path: pathlib.Path, tokens: list[str]) -> list[tuple[str, Signature]]:
        """Returns the files on a record, and adds its tokens to `tokens`."""
        self._check_record(path)
        try:
            text = files.read_bytes(path).decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise errors.VosError(f"{path}: cannot read the record of files: {error.strerror}") from error
        if not text.startswith(HEADER) and not HEADER.startswith(text):
            raise errors.VosError(
                f"{path} is not a record of this program; choose another {self._option}, or move it away"
            )
        found = []
        for line in text.splitlines():
            try:
                entry = files.parse_json(line)
                if isinstance(entry.get("token"), str):
                    tokens.append(entry["token"])
                if isinstance(name := entry.get("file"), str):
                    found.append((name, (int(entry["size"]), str(entry["sha256"]))))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                continue  # cut off by a full disk: that file is not recognised
        return found

    def _append(self, lines: list[dict], *, durable: bool = False) -> None:
        """Adds lines to the record in one write; a write that fails leaves the record as it was."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(self._record, flags, 0o666)
        try:
            size = os.fstat(handle).st_size
            text = "".join(json.dumps(line) + "\n" for line in lines)
            if size < len(HEADER):
                os.ftruncate(handle, 0)
                text, size = HEADER + text, 0
            elif os.pread(handle, 1, size - 1) != b"\n":
                text = "\n" + text
            try:
                data = text.encode()
                if os.write(handle, data) != len(data):
                    raise OSError(28, "No space left on device")
                if durable:
                    os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


def signature(path: pathlib.Path, sizes: set[int] | None = None) -> Signature | None:
    """Returns a plain file's size and checksum.

    Args:
      path: a link, a folder or nothing at all gives None.
      sizes: a file of another size gives None, unread.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or sizes is not None and status.st_size not in sizes:
            return None
        with open(path, "rb") as file:
            return status.st_size, hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return None


def check_apart(
    folder: str | os.PathLike, inputs: Iterable[str | os.PathLike], option: str = "--out"
) -> None:
    """Refuses an output folder that could mix results with what they are made from; nothing is written.

    Args:
      folder: the output folder; it need not exist.
      inputs: files and folders that are read. Links are compared as they are and as what they lead to.
      option: the command line option that names the folder, for the error.

    Raises:
      VosError: the folder is an input, holds one or lies in one.
    """
    own = _with_folders_above(pathlib.Path(folder).resolve())
    for path in inputs:
        for place in {files.absolute(path), pathlib.Path(path).resolve()}:
            above = _with_folders_above(place)
            if own[0] in above:
                how = "is" if above[0] == own[0] else "holds"
            elif above[0] in own:
                how = "lies in"
            else:
                continue
            raise errors.VosError(
                f"{option} {folder}: {how} the input {path}; results are never written among inputs: choose "
                f"another {option}"
            )


def _with_folders_above(path: pathlib.Path) -> list[tuple[int, int] | pathlib.Path]:
    """Returns what identifies a path and each folder above it: device and inode, where it exists."""
    found: list[tuple[int, int] | pathlib.Path] = []
    for place in (path, *path.parents):
        try:
            status = place.stat()
            found.append((status.st_dev, status.st_ino))
        except OSError:
            found.append(place)
    return found


def _line(name: str, found: Signature) -> dict:
    return {"file": name, "size": found[0], "sha256": found[1]}


@contextlib.contextmanager
def _writable(folder: pathlib.Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.VosError(
            f"cannot write to {folder}: {error.strerror or error}; name another folder with {option}"
        ) from error
