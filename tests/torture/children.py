"""Programs as forked children of a process that has imported everything and computed nothing."""

import contextlib
import json
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

SECONDS = 120  # a run that takes longer hangs

WRITES = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")


class FileOperations:
    """Calls `at(number)` before each operation that changes a file or folder below `folder`, from 0 on.

    It does not see writes of compiled libraries (films, the arrays in checkpoints); kills at random
    moments are for those. One per process: audit hooks stay.
    """

    def __init__(self, folder: pathlib.Path, at: Callable[[int], None]):
        self.count = 0
        self._folder, self._at = str(folder), at
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & WRITES):
                return
        elif event in CHANGES:
            path = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
        else:
            return
        if isinstance(path, int) or path is None:
            return
        path = os.fsdecode(path)
        # Names without a folder are relative to an open one: `shutil.rmtree` removes so.
        if path.startswith(self._folder) or event in ("os.remove", "os.rmdir") and "/" not in path:
            number, self.count = self.count, self.count + 1
            self._at(number)


def crash(*_: Any) -> None:
    """Ends this process as a power cut to it alone would: nothing is flushed, nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """A function that runs in a forked child, with what it prints in a file.

    Args:
      function: returns an exit code.
      log: where it prints.
    """

    def __init__(self, function: Callable[[], int | None], log: pathlib.Path):
        self.log, self._start = log, time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            # A shell's background jobs ignore Ctrl-C, and so would this.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                code = function() or 0
            except KeyboardInterrupt:
                code = 130
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)

    def send(self, kind: signal.Signals, after: float) -> int:
        """Sends a signal `after` so many seconds, if it still runs, and returns the exit code."""
        while time.monotonic() - self._start < after:
            if (code := self._ended()) is not None:
                return code
            time.sleep(0.002)
        os.kill(self.pid, kind)
        return self.wait()

    def wait(self) -> int:
        """The exit code, negative for a signal; -9 and a line in the log where it hung."""
        while (code := self._ended()) is None:
            if time.monotonic() - self._start > SECONDS:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                with self.log.open("a") as log:
                    log.write(f"Traceback: hung for {SECONDS} s\n")
                return -signal.SIGKILL
            time.sleep(0.005)
        return code

    def _ended(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def ask(function: Callable[[], Any], place: pathlib.Path) -> Any:
    """Returns a function's result, passed as JSON from a child: the parent must not touch JAX.

    Raises:
      RuntimeError: it failed, with its traceback.
    """
    answer, log = place / "answer.json", place / "answer.log"
    answer.unlink(missing_ok=True)
    code = Child(lambda: answer.write_text(json.dumps(function())) and 0, log).wait()
    if code:
        raise RuntimeError(log.read_text())
    return json.loads(answer.read_text())
