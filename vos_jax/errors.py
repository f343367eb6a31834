"""The one error type that a user may see, and the door through which it leaves."""

import contextlib
import functools
import os
import signal
import sys
import threading
import types
from collections.abc import Callable


class VosError(Exception):
    """A user's mistake or a broken input: one line that names what was found, where, and what to do."""


ending = contextlib.ExitStack()
"""What is let go when the program that runs, an `entry_point`, ends."""


def _shown(text: str) -> str:
    """The text without what commands a terminal: a file's name may hold anything."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    """Raises KeyboardInterrupt; later, where JAX is called by the garbage collector: Python would drop it."""
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def entry_point(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wraps a program's `main`: a `VosError` is printed as one line on stderr and becomes exit code 2.

    Ctrl-C becomes exit code 130, a closed output pipe 141; any other exception is a bug and keeps
    its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
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
            # What reads our output has gone: send the rest nowhere instead of failing again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        finally:
            ending.close()

    return wrapped
