"""Code of users: which files hold it, its text as it was run, and errors in it as one line."""

import dataclasses
import functools
import inspect
import os
import pathlib
import sysconfig
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any

from vos_jax.errors import VosError

SOURCES: dict[str, bytes] = {}
"""The text of the config files that were run and of the modules beside them, by module name."""

_OWN = pathlib.Path(__file__).resolve().parent


def call(key: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Calls a user's variant; an error in it becomes a VosError of one line that names its setting."""
    try:
        return function(*args, **kwargs)
    except VosError:
        raise
    except Exception as error:
        raise VosError(f"{key}: {explain(error, _source_of(function))}") from error


def check_shapes(key: str, found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises VosError where a variant returned an array of another shape.

    Args:
      key: its setting.
      found: the arrays, by a name that says what they are.
      wanted: the shapes, by the same names.
    """
    for name, shape in wanted.items():
        value = found[name]
        if getattr(value, "shape", None) != shape:
            given = list(value.shape) if hasattr(value, "shape") else type(value).__name__
            raise VosError(f"{key}: the function returned {name} {given}; it must be {list(shape)}")


def _source_of(function: Callable) -> pathlib.Path:
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return pathlib.Path(name if code is None else code.co_filename)


def explain(error: Exception, path: pathlib.Path) -> str:
    """Returns one line about an exception in a config file or in a module that it imports."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}: line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users(pathlib.Path(f.filename))]
    of_file = [frame for frame in frames if os.path.realpath(frame.filename) == os.path.realpath(path)]
    last = (of_file or frames or [None])[-1]
    where = f"{path}: line {last.lineno}" if last and last in of_file else str(path)
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f"{where}: {line}; modules are looked for beside the file and in PYTHONPATH"
    if _is_of_settings(error, line):
        return f"{where}: {line}; settings are frozen: return configs.replace(config, {{KEY: VALUE}})"
    return f"{where}: {type(error).__name__}: {line}"


def _is_of_settings(error: Exception, line: str) -> bool:
    """Tells whether a config file tried to change settings in place, or asked them for another name."""
    if isinstance(error, AttributeError):
        return "cannot assign to field" in line or dataclasses.is_dataclass(error.obj)
    return isinstance(error, TypeError) and ("item assignment" in line or "not subscriptable" in line)


def file_of(module: types.ModuleType | None) -> pathlib.Path | None:
    """Returns the file of a module; None for a module without one."""
    file = getattr(module, "__file__", None)
    return None if file is None else pathlib.Path(os.path.abspath(file))


@functools.cache
def _installed() -> tuple[pathlib.Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {pathlib.Path(os.path.realpath(sysconfig.get_paths()[name])) for name in names}
    return (*sorted(found), _OWN)


def is_users(file: pathlib.Path) -> bool:
    """Tells whether a file is neither of Python, nor of an installed package, nor of this one."""
    file = pathlib.Path(os.path.realpath(file))
    if "site-packages" in file.parts or "dist-packages" in file.parts:
        return False
    return not any(file.is_relative_to(folder) for folder in _installed())
