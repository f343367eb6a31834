"""The one error type that a user may see, and the door through which it leaves."""

import functools
import os
import sys
from collections.abc import Callable


class VosError(Exception):
    """A user's mistake or a broken input: one line that names what was found, where, and what to do."""


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
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # What reads our output has gone: send the rest nowhere instead of failing again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141

    return wrapped
