"""The platform that a program is traced for.

Some operations have a form for CPUs, whose caches are small and whose branches are cheap, and one for
accelerators, where a launch costs more than the work of most kernels. They choose while the program is
traced, so the other form costs no compilation.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

ANY = "any"
"""Platform of a program that is to run on all of them."""

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def is_cpu() -> bool:
    """Returns whether programs are traced for a CPU, JAX's default backend or that of `compile_for`.

    CPU forms run everywhere, so they are those for `ANY` platform, too.
    """
    return (_PLATFORM.get() or jax.default_backend()) in ("cpu", ANY)


def choose(*arguments: Any, cpu: Callable[..., Any], accelerator: Callable[..., Any]) -> Any:
    """Returns the result of one of two forms; a program for `ANY` platform holds both."""
    if _PLATFORM.get() == ANY:
        return jax.lax.platform_dependent(*arguments, cpu=cpu, default=accelerator)
    return (cpu if is_cpu() else accelerator)(*arguments)


@contextlib.contextmanager
def compile_for(platform: str) -> Iterator[None]:
    """Traces programs for another platform, "cpu", "cuda", "tpu" or `ANY`, in this context.

    JAX does not know of it: a function that it has traced before is not traced again.
    """
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)
