"""The settings: one tree of frozen dataclasses, config files that change it, `--config.KEY=VALUE`.

    python -m vos_jax.config              # every key, its default and what it means
    python -m vos_jax.config --markdown   # the same as docs/configuration.md

Each section's dataclass stands beside what it configures and holds the only default of its keys.
"""

import argparse
import dataclasses
import difflib
import functools
import os
import pathlib
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vos_jax import config_file, errors, function_names, setting_values
from vos_jax.data.datasets import EvalDatasetConfig
from vos_jax.errors import VosError
from vos_jax.inference.config import EvalConfig, InferenceConfig
from vos_jax.models import config as model_config
from vos_jax.train.config import TrainConfig

T = typing.TypeVar("T")
_hints = functools.cache(typing.get_type_hints)

_PREFIX = "--config."
# Beside the entry points in a checkout; where an installed wheel puts them otherwise (pyproject.toml).
_FOLDERS = (
    pathlib.Path(__file__).resolve().parents[1] / "configs",
    pathlib.Path(sys.prefix) / "share" / "vos_jax" / "configs",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings tree.

    Attributes:
      seed: Root of all randomness.
      checkpoint: Trained weights: "auto" = those that ship, "none" = training-free on ImageNet features, or a
        path; --checkpoint.
      data: The data set that eval.py segments.
      model: The method.
      inference: How a video is segmented.
      eval: Where results go and what is written.
      train: What train.py does.
    """

    seed: int = 0
    checkpoint: str = "auto"
    data: EvalDatasetConfig = EvalDatasetConfig()
    model: model_config.ModelConfig = model_config.ModelConfig()
    inference: InferenceConfig = InferenceConfig()
    eval: EvalConfig = EvalConfig()
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise VosError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1}")


def default(variant: str = "lite0") -> Config:
    """Returns the default settings of a variant of the model.

    Raises:
      VosError: an unknown variant.
    """
    return replace(Config(), {"model.variant": variant})


def load(name: str | pathlib.Path, overrides: Sequence[str] = ()) -> Config:
    """Returns the settings of a config file, changed by overrides.

    Args:
      name: "default"; `davis17` for configs/davis17.py; or a path ending in .py. A file defines
        `get_config() -> Config`.
      overrides: `model.memory.every=3`, also written `--config.model.memory.every=3`; later ones win. Tuples
        are written `a,b`, an empty one as nothing.

    Raises:
      VosError: no such config, a file without `get_config`, an unknown key (its nearest neighbours are
        named), a value of another type or out of range.
    """
    config = default() if name == "default" else _run(_find(str(name)))
    changes = {}
    for override in overrides:
        key, equals, text = override.removeprefix(_PREFIX).partition("=")
        if not equals:
            raise VosError(f"--config.{key} lacks its value: write --config.{key}=VALUE")
        changes[key] = setting_values.parse(text, _hint(config, key), key)
    return replace(config, changes)


def names() -> list[str]:
    """Returns the names `load` takes."""
    found = {path.stem for folder in _FOLDERS for path in folder.glob("*.py") if path.stem[0] != "_"}
    return sorted({"default", *found})


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts a command line into (the rest, the `--config.key=value` overrides)."""
    rest = [argument for argument in arguments if not argument.startswith(_PREFIX)]
    return rest, [argument for argument in arguments if argument.startswith(_PREFIX)]


def replace(config: T, changes: Mapping[str, Any]) -> T:
    """Returns settings with some values changed.

    A change of "model.variant" takes along every key of the model that still has the old variant's value.

    Args:
      config: a `Config` or one of its sections.
      changes: dotted key -> value, relative to `config`.

    Raises:
      VosError: an unknown key (its nearest neighbours are named), a value of another type or out of range.
    """
    changes = {key: setting_values.convert(value, _hint(config, key), key) for key, value in changes.items()}
    if isinstance(config, Config) and "model.variant" in changes:
        model = changes.pop("model", config.model)
        model = model_config.change_variant(model, changes.pop("model.variant"))
        config = _replace(config, {"model": model}, "")
    return _replace(config, changes, "")


@dataclasses.dataclass(frozen=True)
class Unused:
    """Settings that a program does not follow.

    Attributes:
      program: Its name.
      sections: Prefixes of keys that it never reads. A config file may set them, for the other programs.
      keys: Keys that change masks elsewhere, and must have their default; with `=VALUE`, those that must not
        have that value.
    """

    program: str
    sections: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def check(self, config: "Config", overrides: Sequence[str]) -> None:
        """Raises VosError for an override of `sections`, and for a refused value of `keys`."""
        for override in overrides:
            key = override.removeprefix(_PREFIX).partition("=")[0]
            if key.startswith(self.sections):
                raise VosError(f"{self.program} does not use {key}; leave --config.{key} away")
        before, now = flatten(default()), flatten(config)
        for text in self.keys:
            key, _, refused = text.partition("=")
            if now[key] == refused or (not refused and now[key] != before[key]):
                raise VosError(
                    f"{self.program} cannot follow {key}={setting_values.show(now[key])}; set it to "
                    f"{setting_values.show(before[key])}, or use eval.py"
                )


def flatten(config: Any) -> dict[str, Any]:
    """Returns every key and its value, JSON-able: tuples become lists, callables `module:name`.

    A user's function is followed by a hash of its code (`function_names.name_of`), so that results and
    checkpoints of another version of the function are told apart.
    """
    return {key: _plain(_get(config, key)) for key in keys(config)}


def keys(config: Any, prefix: str = "", *, empty: bool = False) -> Iterator[str]:
    """Yields the dotted keys of a `Config` or a section; those that follow another key are left out.

    Args:
      config: the settings.
      prefix: of every key.
      empty: count a section of named entries that has none as a key.
    """
    for name, value in _children(config):
        if _is_section(config, name) and not (empty and value == {}):
            yield from keys(value, f"{prefix}{name}.", empty=empty)
        else:
            yield f"{prefix}{name}"


def describe(config: Any) -> dict[str, str]:
    """Returns what each key means, from the docstrings of the dataclasses."""
    found = {}
    for key in keys(config, empty=True):
        *sections, leaf = key.split(".")
        section = _get(config, ".".join(sections)) if sections else config
        if isinstance(section, Mapping):
            section, leaf = _get(config, ".".join(sections[:-1])), sections[-1]
        found[key] = documentation(type(section)).get(leaf, "")
    return found


def documentation(section: type) -> dict[str, str]:
    """Returns what each field means, from the Attributes of a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        lines = (base.__doc__ or "").splitlines()
        inside, names = False, []
        for line in lines:
            if line.strip() in ("Attributes:", "Args:"):
                inside, margin = True, len(line) - len(line.lstrip()) + 2
                continue
            if not inside or not line.strip():
                inside = inside and bool(line.strip())
                continue
            indent = len(line) - len(line.lstrip())
            head, colon, text = line.strip().partition(": ")
            if indent == margin and colon and all(part.isidentifier() for part in head.split(", ")):
                names = head.split(", ")
                found |= dict.fromkeys(names, text)
            elif names:
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


# --- one key ------------------------------------------------------------------------------------------------


def _children(config: Any) -> list[tuple[str, Any]]:
    if isinstance(config, Mapping):
        return list(config.items())
    fields = [field for field in dataclasses.fields(config) if "follows" not in field.metadata]
    return [(field.name, getattr(config, field.name)) for field in fields]


def _get(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name] if isinstance(config, Mapping) else getattr(config, name)
    return config


def _hint(config: Any, key: str) -> Any:
    """Returns the type of a key's value."""
    hint, section, holds_keys = None, config, True
    names = key.split(".")
    for place, name in enumerate(names, 1):
        children = dict(_children(section)) if holds_keys else {}
        if (
            isinstance(section, Mapping)
            and typing.get_args(hint)[1] is float
            and name
            and place == len(names)
        ):
            return float  # of an entry of the user's own, too
        if name not in children:
            hidden = _hidden(section, name) if holds_keys else ""
            raise VosError(f"no config key {key!r}{hidden}; nearest: {_nearest(key, config)}")
        is_mapping = isinstance(section, Mapping)
        hint = typing.get_args(hint)[1] if is_mapping else _hints(type(section))[name]
        holds_keys, section = _is_section(section, name), children[name]
    return hint


def _is_section(config: Any, name: str) -> bool:
    """Tells whether a child holds keys of its own, by its type: a backbone may be a dataclass, too."""
    if isinstance(config, Mapping):
        return dataclasses.is_dataclass(config[name]) and not isinstance(config[name], type)
    hint = _hints(type(config))[name]
    return dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict


def _hidden(section: Any, name: str) -> str:
    """Returns where a value that is no setting comes from."""
    fields = {} if isinstance(section, Mapping) else {x.name: x for x in dataclasses.fields(section)}
    return f": it follows {fields[name].metadata['follows']}" if name in fields else ""


def _nearest(key: str, config: Any) -> str:
    """Returns up to three keys, the likeliest first: inside `key`, of like spelling or like last part."""

    def likeness(path: str) -> float:
        whole = difflib.SequenceMatcher(None, key, path).ratio()
        leaf = difflib.SequenceMatcher(None, key.rpartition(".")[2], path.rpartition(".")[2]).ratio()
        return path.startswith(f"{key}.") + max(whole, leaf) + 0.1 * whole

    return ", ".join(sorted(keys(config), key=likeness, reverse=True)[:3])


def _replace(config: Any, changes: Mapping[str, Any], prefix: str) -> Any:
    """Returns a section with `changes`, whose values have the right type; errors name the whole key."""
    direct = {key: value for key, value in changes.items() if "." not in key}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        name, dot, rest = key.partition(".")
        if dot:
            nested.setdefault(name, {})[rest] = value
    for name, inner in nested.items():
        base = direct.get(name, _get(config, name))
        direct[name] = _replace(base, inner, f"{prefix}{name}.")
    if isinstance(config, Mapping):
        return {**config, **direct}
    try:
        return dataclasses.replace(config, **direct)
    except VosError as error:
        raise VosError(f"{prefix}{error}") from error


def _plain(value: Any) -> Any:
    if callable(value):
        return function_names.name_of(value)
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _typed(config: Any, prefix: str = "") -> Any:
    """Returns a section each of whose values has the type that its field says; VosError where one has not."""
    changes = {}
    for name, value in _children(config):
        hint, key = _hints(type(config))[name], f"{prefix}{name}"
        value = setting_values.convert(value, hint, key)
        if dataclasses.is_dataclass(hint):
            value = _typed(value, f"{key}.")
        elif isinstance(value, Mapping):
            value = {
                inner: _typed(part, f"{key}.{inner}.") if _is_section(value, inner) else part
                for inner, part in value.items()
            }
        changes[name] = value
    return dataclasses.replace(config, **changes)


# --- files --------------------------------------------------------------------------------------------------


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


def _run(path: pathlib.Path) -> Config:
    config = config_file.run(path)
    if not isinstance(config, Config):
        raise VosError(f"{path}: get_config() returned a {type(config).__name__}, not a vos_jax Config")
    try:
        return _typed(config)
    except VosError as error:
        raise VosError(f"{path}: {error}") from error


# --- the list of all keys -----------------------------------------------------------------------------------


def table(*, markdown: bool = False) -> str:
    """Returns every key with its default and its meaning, by section."""
    config, lines, before = default(), [], None
    texts = describe(config)
    for key in keys(config, empty=True):
        section, value = key.rpartition(".")[0], _plain(_get(config, key))
        if section != before:
            head = f"\n### {section}\n\n| key | default | |\n|---|---|---|" if markdown else f"\n[{section}]"
            lines.append(head if section else head.replace("### ", "").replace("[]", "").strip("\n"))
            before = section
        shown, text = setting_values.show(value), texts[key]
        text = text.replace("|", "\\|") if markdown else text
        lines.append(f"| `{key}` | `{shown}` | {text} |" if markdown else f"{key}={shown}\n    {text}")
    return "\n".join(lines) + "\n"


_TITLE = """# Every setting

Printed by `python -m vos_jax.config --markdown`. Any key is changed by `--config.KEY=VALUE`, or in a config
file of your own (`--config FILE.py`, see configs/). Tuples are written `a,b`.

"""


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    """Prints every setting."""
    parser = argparse.ArgumentParser(prog="python -m vos_jax.config", description="Prints every setting.")
    parser.add_argument("--markdown", action="store_true", help="as docs/configuration.md")
    markdown = parser.parse_args(arguments).markdown
    print((_TITLE if markdown else "") + table(markdown=markdown), end="")


if __name__ == "__main__":
    # `Config` of this module is another class than the one that config files import.
    from vos_jax import config as this

    sys.exit(this.main())
