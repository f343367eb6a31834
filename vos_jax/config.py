"""Configs: a Python file in configs/ by name, or any file by path, plus `--config.key=value` overrides."""

import difflib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from vos_jax.errors import VosError

_PREFIX = "--config."
# Beside the entry points in a checkout; where an installed wheel puts them otherwise (pyproject.toml).
_FOLDERS = (
    pathlib.Path(__file__).resolve().parents[1] / "configs",
    pathlib.Path(sys.prefix) / "share" / "vos_jax" / "configs",
)
CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "data.given": ("auto", "first_frame", "first", "all"),
    "model.proposals": ("network", "file", "none"),
    "inference.direction": ("forward", "backward", "both"),
    "memory.eviction": ("fifo", "usage", "consolidate"),
    "training_free.features": ("c2", "c3", "c4", "c5"),
}
"""What plain words may be; variants that may be callables are resolved where they are used."""

MINIMA = {
    "memory.capacity": 3,
    "memory.every": 1,
    "memory.topk": 1,
    "memory.window": 0,
    "memory.reach": 0.0,
    "training_free.topk": 1,
    "training_free.window": 0,
    "training_free.temperature": 1e-6,
    "objects.buckets": 1,
    "inference.min_size": 0,
    "inference.max_size": 0,
    "inference.adaptation.steps": 0,
    "eval.workers": 1,
}

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def load(name_or_path: str | pathlib.Path, overrides: Sequence[str] = ()) -> config_dict.ConfigDict:
    """The config of that name or file with `overrides` applied: locked and type-checked.

    Args:
        name_or_path: `davis17` for configs/davis17.py, or a path ending in .py. The file defines
            `get_config() -> ConfigDict`.
        overrides: `memory.every=3`, also written `--config.memory.every=3`; later ones win. Tuples are
            written `a,b`, an empty one as nothing.

    Raises:
        VosError: no such config, a file without `get_config`, an unknown key (its nearest neighbours are
            named), a value of another type or out of range.
    """
    config = _run(_find(str(name_or_path)))
    config.lock()
    for override in overrides:
        key, equals, text = override.removeprefix(_PREFIX).partition("=")
        if not equals:
            raise VosError(f"--config.{key} lacks its value: write --config.{key}=VALUE")
        _set(config, key, text)
    _check(config)
    return config


def default() -> config_dict.ConfigDict:
    """configs/default.py's config, unlocked: what the other configs start from."""
    return _run(_find("default"))


def names() -> list[str]:
    """The names `load` takes."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.py") if path.stem[0] != "_"})


def choice(name_or_callable: str | Callable) -> config_dict.FieldReference:
    """A config value that may be a name or a callable of the variants' signature."""
    return config_dict.FieldReference(name_or_callable, field_type=object)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts a command line into (what is left for argparse, the `--config.key=value` overrides)."""
    rest = [argument for argument in arguments if not argument.startswith(_PREFIX)]
    return rest, [argument for argument in arguments if argument.startswith(_PREFIX)]


def as_dict(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain JSON-able values: callables become `module:name`, tuples lists."""
    plain = {}
    for key, value in config.items():
        if isinstance(value, config_dict.ConfigDict):
            plain[key] = as_dict(value)
        elif callable(value):
            plain[key] = (
                f"{value.__module__}:{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)
            )
        else:
            plain[key] = list(value) if isinstance(value, tuple) else value
    return plain


def _find(name_or_path: str) -> pathlib.Path:
    if name_or_path.endswith(".py") or "/" in name_or_path:
        path = pathlib.Path(name_or_path)
        if len(name_or_path) < 4096 and os.path.isfile(path):
            return path
        raise VosError(f"no config file {name_or_path}; the names that need no path: {', '.join(names())}")
    for folder in _FOLDERS:
        if (folder / f"{name_or_path}.py").is_file():
            return folder / f"{name_or_path}.py"
    raise VosError(
        f"no config named {name_or_path!r}; there are: {', '.join(names())} (or a path to a .py file)"
    )


def _run(path: pathlib.Path) -> config_dict.ConfigDict:
    spec = importlib.util.spec_from_file_location(f"vos_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # the path ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
    except SyntaxError as error:
        raise VosError(f"{path}: line {error.lineno}: {error.msg}") from error
    except AttributeError as error:
        raise VosError(f"{path}: {error}; a config file defines get_config()") from error
    config = get_config()
    if not isinstance(config, config_dict.ConfigDict):
        raise VosError(f"{path}: get_config() returned a {type(config).__name__}, not a ConfigDict")
    return config


def _paths(config: config_dict.ConfigDict, prefix: str = "") -> Iterator[str]:
    """Every key as a dotted path."""
    for key, value in config.items():
        if isinstance(value, config_dict.ConfigDict):
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _get(config: config_dict.ConfigDict, key: str) -> Any:
    """The value at a dotted path; None where the config has no such key."""
    for name in key.split("."):
        if name not in config:
            return None
        config = config[name]
    return config


def _check(config: config_dict.ConfigDict) -> None:
    """Raises `VosError` for values that no part of the program could use."""
    for key in (*CHOICES, *MINIMA):
        value = _get(config, key)
        if value == ():
            raise VosError(f"{key} is empty; it needs a value")
        for part in value if isinstance(value, tuple) else (value,):
            if key in CHOICES and part not in (None, *CHOICES[key]):
                raise VosError(f"{key} is {part!r}; there are: {', '.join(CHOICES[key])}")
            if key in MINIMA and part is not None and part < MINIMA[key]:
                raise VosError(f"{key} is {part}; it must be at least {MINIMA[key]}")


def _set(config: config_dict.ConfigDict, key: str, text: str) -> None:
    if key not in (paths := list(_paths(config))):
        raise VosError(f"no config key {key!r}; nearest: {', '.join(_nearest(key, paths))}")
    *sections, leaf = key.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[leaf] = _parse(text, section[leaf], key, is_choice=section.get_type(leaf) is object)


def _nearest(key: str, paths: list[str]) -> list[str]:
    """Up to three keys, the likeliest first: those inside `key`, of like spelling or like last part."""

    def likeness(path: str) -> float:
        whole = difflib.SequenceMatcher(None, key, path).ratio()
        leaf = difflib.SequenceMatcher(None, key.rpartition(".")[2], path.rpartition(".")[2]).ratio()
        return path.startswith(f"{key}.") + max(whole, leaf) + 0.1 * whole

    return sorted(paths, key=likeness, reverse=True)[:3]


def _parse(text: str, old: Any, key: str, *, is_choice: bool = False) -> Any:
    """`text` as a value of `old`'s type."""
    if is_choice or isinstance(old, str):
        return text
    if isinstance(old, tuple):
        kind = old[0] if old else ""
        return tuple(_parse(part.strip(), kind, key) for part in text.split(",") if part.strip())
    try:
        value = _BOOLS[text.lower()] if isinstance(old, bool) else type(old)(text)
        if not -1e308 < value < 1e308:
            raise ValueError(text)
        return value
    except (KeyError, ValueError) as error:
        raise VosError(f"--config.{key} takes {_describe(old)}, like {old}; found {text!r}") from error


def _describe(value: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(
        type(value), type(value).__name__
    )
