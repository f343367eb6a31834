"""Config files: Python files of the package or of users that define `get_config()`."""

import importlib.util
import pathlib
import sys
from typing import Any

from vos_jax import user_code
from vos_jax.errors import VosError

MODULE = "vos_jax_config_"
"""Prefix of the module names of config files."""

_neighbours: dict[str, pathlib.Path] = {}
"""Modules beside a config file that it imported, and their files."""


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
        user_code.SOURCES[spec.name] = path.read_bytes()
        spec.loader.exec_module(module)
        # Registered: `inspect` and `pickle` look modules up by their name.
        sys.modules[spec.name] = module
        if not callable(getattr(module, "get_config", None)):
            raise VosError(f"{path}: defines no get_config(); a config file is `def get_config() -> Config:`")
        return module.get_config()
    except VosError as error:
        raise error if str(path) in str(error) else VosError(f"{path}: {error}") from error
    except Exception as error:
        raise VosError(user_code.explain(error, path)) from error
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
        edited = not file.is_file() or file.read_bytes() != user_code.SOURCES[name]
        if edited or (other != file and other.is_file()):
            break
    else:
        return
    for name in _neighbours:
        sys.modules.pop(name, None)
    _neighbours.clear()


def _note_neighbours(names: set[str], folder: pathlib.Path) -> None:
    for name in names:
        file = user_code.file_of(sys.modules.get(name))
        if file is not None and file.parent == folder and not name.startswith(("vos_jax.", MODULE)):
            _neighbours[name], user_code.SOURCES[name] = file, file.read_bytes()
