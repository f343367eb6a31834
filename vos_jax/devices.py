"""The devices of a program, and the cache of compiled programs."""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import stat
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
from jax.experimental.compilation_cache import compilation_cache

from vos_jax.errors import VosError
from vos_jax.typing import Device

P = ParamSpec("P")
T = TypeVar("T")

NAMES = ("cpu", "gpu", "tpu")

CACHE_VARIABLE = "VOS_JAX_CACHE"
"""Environment variable with another cache folder, or `off`; JAX_COMPILATION_CACHE_DIR overrides it."""

MAX_CACHE_BYTES = 2 << 30
"""Size limit of the cache of compiled programs, in bytes; the oldest programs are deleted first."""


def prefer(name: str | None) -> None:
    """Requests a kind of device from JAX without initialising any.

    Call it before `processes.join`, which initialises the devices.

    Args:
      name: "cpu", "gpu" or "tpu"; None: the best one.
    """
    if name is not None:
        # JAX prefers an accelerator by default; naming a missing one would fail with JAX's own traceback.
        jax.config.update("jax_platforms", "cpu" if name == "cpu" else "")


def choose(name: str | None) -> str:
    """Makes JAX use a kind of device and returns its description.

    Call it before any computation, because JAX chooses its devices at first use. Programs compiled afterwards
    are cached for the next run.

    Args:
      name: "cpu", "gpu" or "tpu"; None: the best one.

    Raises:
        VosError: JAX has no such device, or uses another one already.
    """
    prefer(name)
    # Programs compute in float32, whatever JAX_ENABLE_X64 says.
    jax.config.update("jax_enable_x64", False)
    cache_programs()
    try:
        found = jax.default_backend()
        device = jax.devices()[0]
    except RuntimeError as error:
        raise VosError(f"JAX cannot start its devices: {str(error).splitlines()[0]}") from error
    if found == "cpu":
        _keep_freed_memory()
    if name is not None and found != name:
        raise VosError(f"--device {name}: JAX sees only {found} here; install JAX for {name} (see README.md)")
    return found if device.device_kind == found else f"{found} ({device.device_kind})"


def in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function compute in float32 where the caller's session has jax_enable_x64."""

    @functools.wraps(function)
    def narrow(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return narrow


def local() -> list[Device]:
    """Returns the devices of this process."""
    return jax.local_devices()


def peak_memory_mb() -> float:
    """Returns the peak memory of one device so far, in MB; on CPU, that of this process."""
    peaks: list[Any] = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in local()]
    if None in peaks:
        import resource  # here, because some platforms lack it

        # Kilobytes, but bytes on macOS.
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return max(peaks) / 1e6


def _keep_freed_memory() -> None:
    """Tells glibc not to return freed memory to the system; does nothing with other C libraries.

    glibc maps every block above 32 MB anew and unmaps it when it is freed, so every frame would cause the
    page faults of all its large temporaries again.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    m_mmap_max, m_trim_threshold = -4, -1  # malloc.h
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


# --- compiled programs --------------------------------------------------------------------------------------


def cache_programs() -> None:
    """Turns on JAX's compilation cache in a private folder; does nothing if that is impossible.

    A program is machine code, so a folder that other users may write to is not used, and each kind of
    processor has its own folder.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "")
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
    # JAX decides at its first compilation whether there is a cache, which may lie behind us.
    compilation_cache.reset_cache()


def _processor() -> str:
    """Returns a name that differs between processors that cannot run each other's machine code."""
    described = platform.machine() + platform.processor()
    try:
        with open("/proc/cpuinfo") as lines:
            described += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        pass
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def _is_private(folder: pathlib.Path) -> bool:
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _make_room(folder: pathlib.Path) -> None:
    """Deletes the oldest programs until at most `MAX_CACHE_BYTES` are left."""
    programs = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.iterdir())
    excess = sum(size for _, size, _ in programs) - MAX_CACHE_BYTES
    for _, size, path in programs:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size
