"""The error type for users, and the wrapper of programs that prints it."""

import contextlib
import functools
import io
import os
import signal
import sys
import threading
import types
from collections.abc import Callable


class VosError(Exception):
    """A user's mistake or a damaged input: one line with the place, what was found, and what to do."""


ending = contextlib.ExitStack()
"""Cleanup callbacks; `entry_point` runs them when the program ends."""


def _shown(text: str) -> str:
    """Escapes control characters, which a file's name may contain and which a terminal would execute."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    """Raises KeyboardInterrupt; delays it in JAX's garbage collection callback, where Python drops it."""
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def entry_point(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wraps a program's `main`: prints a `VosError` as one line on stderr and returns exit code 2.

    Ctrl-C gives exit code 130, a closed output pipe 141. Any other exception is a bug and keeps its
    traceback.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
        for stream in (sys.stdout, sys.stderr):
            # A name may hold bytes that are no text, or letters that a terminal's encoding lacks.
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")
        own = threading.current_thread() is threading.main_thread()
        if own and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
            ending.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
        try:
            return main(*args, **kwargs) or 0
        except VosError as error:
            print(f"error: {_shown(str(error))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The reader of our output has ended: discard the rest, so that exit does not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        finally:
            ending.close()

    return wrapped
