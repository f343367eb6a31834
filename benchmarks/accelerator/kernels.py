"""The kernels that take longest in what a device runs, by JAX's profiler."""

import collections
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax

from vos_jax import errors

_STREAMS = ("Stream", "XLA Ops")
"""How the profiler's lines of what a GPU's streams and a TPU's core run begin."""

_CONTROL = ("while", "call", "conditional")
"""Operations of the CPU's programs whose time is that of others inside them."""


def costliest(call: Callable[[], Any], count: int = 20) -> list[dict[str, Any]]:
    """Returns the kernels that `call` spends most time in, the costliest first.

    Each is a dict: "kernel", "calls", "ms" in all, and "share" of the time of all kernels. On a CPU these are
    the compiled program's operations, added up over threads.

    Args:
      call: runs the program and returns its results.
      count: of kernels.

    Raises:
      VosError: the profiler saw none.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    return rank(profile, count)


def rank(profile: Any, count: int) -> list[dict[str, Any]]:
    """The costliest kernels of a `jax.profiler.ProfileData`; see `costliest`."""
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    times, calls = collections.Counter(), collections.Counter()
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            if not line.name.startswith(_STREAMS if devices else "tf_XLA"):
                continue
            for event in line.events:
                # On a CPU the runtime's own functions lie between the program's operations.
                if devices or not ("::" in event.name or event.name.startswith(_CONTROL)):
                    times[event.name] += event.duration_ns
                    calls[event.name] += 1
    total = sum(times.values())
    if not total:
        seen = ", ".join(plane.name for plane in planes)
        raise errors.VosError(f"the profiler saw no kernel; it saw {seen or 'nothing'}")
    return [
        {"kernel": name[:120], "calls": calls[name], "ms": time / 1e6, "share": time / total}
        for name, time in times.most_common(count)
    ]
