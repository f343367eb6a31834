"""One program at a time in an output folder."""

import fcntl
import os
import pathlib

from vos_jax import errors


def hold(folder: str | os.PathLike, option: str = "--out") -> None:
    """Keeps other programs out of a folder until this program's `main` returns or its process dies.

    The kernel keeps the lock, on the folder itself: nothing is left behind, whatever ends the process. File
    systems that cannot lock a folder (some NFS mounts) leave it unguarded.

    Args:
      folder: what is written to; it exists.
      option: how another folder is named.

    Raises:
      VosError: another program holds it.
    """
    folder = pathlib.Path(folder)
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise errors.VosError(f"cannot open {folder}: {error.strerror}") from error
    errors.ending.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise errors.VosError(
            f"{folder}: another run is writing there; wait for its end, or choose another {option}"
        ) from None
    except OSError:
        pass  # no locks on this file system
