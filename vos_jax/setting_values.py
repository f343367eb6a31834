"""Values of settings: checked and converted by the type of their field."""

import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from vos_jax.errors import VosError

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number"}


def _members(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def convert(value: Any, hint: Any, key: str) -> Any:
    """Returns a Python value as the type of its field: lists become tuples, whole numbers floats.

    Args:
      value: from a config file.
      hint: the field's annotation.
      key: the whole key, for the error.

    Raises:
      VosError: a value of another type, or a number that is not finite.
    """
    for member in _members(hint):
        origin = typing.get_origin(member) or member
        if member is type(None) and value is None or member is Any:
            return value
        if origin is Callable or origin is typing.get_origin(Callable[..., Any]):
            if callable(value):
                return value
        elif origin is tuple and isinstance(value, tuple | list):
            kinds = _kinds(member, len(value), key, value)
            return tuple(convert(part, kind, key) for part, kind in zip(value, kinds, strict=True))
        elif origin is dict and isinstance(value, Mapping):
            kind = typing.get_args(member)[1]
            if wrong := [name for name in value if not isinstance(name, str) or "." in name]:
                raise VosError(f"{key} has the key {wrong[0]!r}; it must be a name without dots")
            return {name: convert(part, kind, f"{key}.{name}") for name, part in value.items()}
        elif origin is float and isinstance(value, int | float) and not isinstance(value, bool):
            if not -1e308 < value < 1e308:
                raise VosError(f"{key} takes {_describe(hint)}; found {value!r}")
            return float(value)
        elif isinstance(origin, type) and isinstance(value, origin):
            if not (isinstance(value, bool) and origin is int):
                return value
    raise VosError(f"{key} takes {_describe(hint)}; found {value!r}")


def parse(text: str, hint: Any, key: str) -> Any:
    """Returns a value of the command line as the type of its field; arguments and errors as `convert`."""
    members = _members(hint)
    if type(None) in members and text.lower() in ("", "none"):
        return None
    member = next(member for member in members if member is not type(None))
    if str in members:
        return text
    if typing.get_origin(member) is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        kinds = _kinds(member, len(parts), key, text)
        return tuple(parse(part, kind, key) for part, kind in zip(parts, kinds, strict=True))
    if member is Callable:
        raise VosError(f"--config.{key} takes a function, which only a config file can give")
    if member not in (bool, int, float):
        raise VosError(f"--config.{key} is a section; set one of its keys, or write a config file")
    try:
        value = _BOOLS[text.lower()] if member is bool else member(text)
        if not -1e308 < value < 1e308:
            raise ValueError(text)
        return value
    except (KeyError, ValueError) as error:
        raise VosError(f"--config.{key} takes {_describe(hint)}; found {text!r}") from error


def _kinds(hint: Any, count: int, key: str, found: Any) -> tuple[Any, ...]:
    """Returns the types of a tuple's parts."""
    kinds = typing.get_args(hint)
    if kinds[-1] is Ellipsis:
        return (kinds[0],) * count
    if len(kinds) != count:
        raise VosError(f"{key} takes {len(kinds)} values separated by commas; found {found!r}")
    return kinds


def _describe(hint: Any) -> str:
    words = []
    for member in _members(hint):
        if typing.get_origin(member) is tuple:
            words.append(f"{_describe(typing.get_args(member)[0])}, several separated by commas")
        elif member is type(None):
            words.append("none")
        else:
            words.append(_WORDS.get(member, getattr(member, "__name__", str(member))))
    return " or ".join(words)


def show(value: Any) -> str:
    """Returns a flattened value as the command line takes it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else str(value).lower()
