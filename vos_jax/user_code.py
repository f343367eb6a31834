"""Config files of users, and names of functions that tell versions of their code apart."""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import os
import pathlib
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vos_jax.errors import VosError

MODULE = "vos_jax_config_"
"""Prefix of the module names of config files."""

_OWN = pathlib.Path(__file__).resolve().parent
_sources: dict[str, bytes] = {}
"""The text of the config files that were run and of the modules beside them, by module name."""
_neighbours: dict[str, pathlib.Path] = {}
"""Modules beside a config file that it imported, and their files."""

# --- config files -------------------------------------------------------------------------------------------


def run(path: pathlib.Path) -> Any:
    """Runs a config file and returns the result of its `get_config()`.

    Modules beside the file can be imported, as by a script.

    Raises:
      VosError: an error in the file, with its line.
    """
    spec = importlib.util.spec_from_file_location(f"{MODULE}{path.stem}", path)
    assert spec is not None and spec.loader is not None  # the path ends in .py
    module = importlib.util.module_from_spec(spec)
    folder = path.resolve().parent
    _forget_others(folder)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        _sources[spec.name] = path.read_bytes()
        spec.loader.exec_module(module)
        # Registered: `inspect` and `pickle` look modules up by their name.
        sys.modules[spec.name] = module
        if not callable(getattr(module, "get_config", None)):
            raise VosError(f"{path}: defines no get_config(); a config file is `def get_config() -> Config:`")
        return module.get_config()
    except VosError as error:
        raise error if str(path) in str(error) else VosError(f"{path}: {error}") from error
    except Exception as error:
        raise VosError(_explain(error, path)) from error
    finally:
        sys.path.remove(str(folder))
        # Still found by an import inside a function, after everything else.
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        _note_neighbours(set(sys.modules) - before, folder)


def _forget_others(folder: pathlib.Path) -> None:
    """Drops the modules beside earlier config files if one was edited, or `folder` has its own."""
    for name, file in _neighbours.items():
        other = folder / file.name
        edited = not file.is_file() or file.read_bytes() != _sources[name]
        if edited or (other != file and other.is_file()):
            break
    else:
        return
    for name in _neighbours:
        sys.modules.pop(name, None)
    _neighbours.clear()


def _note_neighbours(names: set[str], folder: pathlib.Path) -> None:
    for name in names:
        file = _file_of(sys.modules.get(name))
        if file is not None and file.parent == folder and not name.startswith(("vos_jax.", MODULE)):
            _neighbours[name], _sources[name] = file, file.read_bytes()


def _explain(error: Exception, path: pathlib.Path) -> str:
    """Returns one line about an exception in a config file or in a module that it imports."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}: line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(pathlib.Path(f.filename))]
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


# --- variants -----------------------------------------------------------------------------------------------


def call(key: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Calls a user's variant; an error in it becomes a VosError of one line that names its setting."""
    try:
        return function(*args, **kwargs)
    except VosError:
        raise
    except Exception as error:
        raise VosError(f"{key}: {_explain(error, _source_of(function))}") from error


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


# --- names of functions -------------------------------------------------------------------------------------


def name_of(value: Callable) -> str:
    """Returns `module:name` of a callable; code of users is followed by a version, `@HASH`.

    The version is a hash of the file that defines the callable, of the user's files that it imports, and of
    the plain global values that its functions read. Bound and enclosed values are named in brackets.
    """
    if isinstance(value, functools.partial):
        bound = {**{str(index): part for index, part in enumerate(value.args)}, **value.keywords}
        return f"{name_of(value.func)}({_listed(bound)})"
    if isinstance(value, types.MethodType):
        return f"{name_of(value.__func__)}(self={_shown(value.__self__)})"
    if not hasattr(value, "__qualname__"):
        return _shown(value)
    function = inspect.unwrap(value)
    name = f"{value.__module__}:{value.__qualname__}"
    if version := _version(function):
        name += f"@{version}"
    if isinstance(function, types.FunctionType) and function.__closure__:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
        enclosed = {key: cell.cell_contents for key, cell in cells.items() if _is_filled(cell)}
        if enclosed := {key: part for key, part in enclosed.items() if part is not value}:
            name += f"({_listed(enclosed)})"
    return name


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_shown(part)}" for key, part in values.items())


def _shown(value: Any) -> str:
    """Returns a text that is the same in every process: no addresses, and all of an array."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{_listed({str(key): part for key, part in value.items()})}}}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return str(value)
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}@{hashlib.sha256(value.tobytes()).hexdigest()[:8]}"
    if callable(value) and hasattr(value, "__qualname__") or isinstance(value, functools.partial):
        return name_of(value)
    kind = type(value)
    kept = {key: part for key, part in getattr(value, "__dict__", {}).items() if key[0] != "_"}
    version = _version(kind)
    return (
        f"{kind.__module__}:{kind.__qualname__}" + (f"@{version}" if version else "") + f"({_listed(kept)})"
    )


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a function that refers to itself before it is bound
        return False


def _version(value: Any) -> str:
    """Returns a hash of the user's code that a callable runs; empty for code that is installed."""
    module = value.__module__
    files = list(_user_files(module, set()))
    if not files:
        return ""
    digest = hashlib.sha256()
    for text in files:
        digest.update(text)
    for line in sorted(set(_globals_of(value))):
        digest.update(line.encode())
    return digest.hexdigest()[:8]


def _user_files(module: str, seen: set[str]) -> Iterator[bytes]:
    """Yields the text of a module and of all modules of users that it imports."""
    if module in seen:
        return
    seen.add(module)
    file = _file_of(sys.modules.get(module))
    text = _sources.get(module)
    if text is None:
        if file is None or not _is_users(file) or file.suffix != ".py":
            return
        try:
            text = file.read_bytes()
        except OSError:
            return
    yield text
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for name in _imported(tree, module):
        yield from _user_files(name, seen)


def _imported(tree: ast.Module, module: str) -> Iterator[str]:
    """Yields the names of the modules that a module may import, in its order."""
    package = module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(part for part in (*above, base) if part)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _globals_of(value: Any, seen: set[int] | None = None) -> Iterator[str]:
    """Yields the plain global values that a function reads, itself and through functions of users."""
    seen = set() if seen is None else seen
    value = inspect.unwrap(value) if callable(value) else value
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, type):
        for part in vars(value).values():
            if isinstance(part, types.FunctionType):
                yield from _globals_of(part, seen)
    if not isinstance(value, types.FunctionType) or not any(_user_files(value.__module__, set())):
        return
    yield from (f"{value.__qualname__}.{i}={_shown(part)}" for i, part in enumerate(value.__defaults__ or ()))
    waiting = [value.__code__]
    while waiting:
        code = waiting.pop()
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        for name in code.co_names:
            part = value.__globals__.get(name)
            if isinstance(part, bool | int | float | str | tuple):
                yield f"{value.__module__}.{name}={_shown(part)}"
            elif isinstance(part, types.FunctionType | type):
                yield from _globals_of(part, seen)


def _file_of(module: types.ModuleType | None) -> pathlib.Path | None:
    file = getattr(module, "__file__", None)
    return None if file is None else pathlib.Path(os.path.abspath(file))


@functools.cache
def _installed() -> tuple[pathlib.Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {pathlib.Path(os.path.realpath(sysconfig.get_paths()[name])) for name in names}
    return (*sorted(found), _OWN)


def _is_users(file: pathlib.Path) -> bool:
    """Tells whether a file is neither of Python, nor of an installed package, nor of this one."""
    file = pathlib.Path(os.path.realpath(file))
    if "site-packages" in file.parts or "dist-packages" in file.parts:
        return False
    return not any(file.is_relative_to(folder) for folder in _installed())
