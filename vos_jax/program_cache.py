"""What XLA compiled is kept from run to run, in a folder that is this user's alone."""

import hashlib
import os
import pathlib
import platform
import stat
from typing import Any

import jax

VARIABLE = "VOS_JAX_CACHE"
"""Names another folder; `off` keeps nothing. Where JAX's JAX_COMPILATION_CACHE_DIR is set, that counts."""

MAX_BYTES = 2 << 30


def keep() -> None:
    """Lets this process take programs from the folder and put new ones there; does nothing where it cannot.

    A program is machine code: a folder that others may write to is not used, and each kind of processor has
    one of its own.
    """
    chosen = os.environ.get(VARIABLE, "")
    settings: Any = jax.config  # its flags are attributes that a type checker does not see
    if chosen == "off" or settings.jax_compilation_cache_dir:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = pathlib.Path(chosen or os.path.join(home, "vos_jax")) / f"programs-{_processor()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(folder):
            return
        _make_room(folder)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    """Differs where machine code of one does not run on the other."""
    told = platform.machine() + platform.processor()
    try:
        with open("/proc/cpuinfo") as lines:
            told += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        pass
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _is_private(folder: pathlib.Path) -> bool:
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _make_room(folder: pathlib.Path) -> None:
    """Removes the programs that were put there first, until at most `MAX_BYTES` are left."""
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.iterdir())
    too_many = sum(size for _, size, _ in files) - MAX_BYTES
    for _, size, path in files:
        if too_many <= 0:
            return
        path.unlink(missing_ok=True)
        too_many -= size
