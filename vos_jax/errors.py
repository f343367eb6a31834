"""The one error type that a user may see, and the door through which it leaves."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable


class VosError(Exception):
    """A user's mistake or a broken input: one line that names what was found, where, and what to do."""


ending = contextlib.ExitStack()
"""What is let go when the program that runs, an `entry_point`, ends."""


def _shown(text: str) -> str:
    """The text without what commands a terminal: a file's name may hold anything."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def entry_point(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wraps a program's `main`: a `VosError` is printed as one line on stderr and becomes exit code 2.

    Ctrl-C becomes exit code 130, a closed output pipe 141; any other exception is a bug and keeps
    its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
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
