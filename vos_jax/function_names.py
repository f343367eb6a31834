"""Names of functions in settings; for code of users they tell versions apart."""

import ast
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from vos_jax import user_code


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
    file = user_code.file_of(sys.modules.get(module))
    text = user_code.SOURCES.get(module)
    if text is None:
        if file is None or not user_code.is_users(file) or file.suffix != ".py":
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
