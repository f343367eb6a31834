"""Range checks of settings. Errors begin with the field's name; `config` puts the section's key before it."""

from collections.abc import Collection
from typing import Any

from vos_jax.errors import VosError


def at_least(settings: Any, least: float, *names: str) -> None:
    """Raises VosError for a field below `least`; of a tuple, every part counts."""
    for name in names:
        value = getattr(settings, name)
        if any(part < least for part in (value if isinstance(value, tuple) else (value,))):
            raise VosError(f"{name} is {value}; it must be at least {least}")


def above(settings: Any, bound: float, *names: str) -> None:
    """Raises VosError for a field that is not above `bound`."""
    for name in names:
        if not getattr(settings, name) > bound:
            raise VosError(f"{name} is {getattr(settings, name)}; it must be above {bound}")


def probability(settings: Any, *names: str) -> None:
    """Raises VosError for a field outside [0, 1]."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise VosError(f"{name} is {getattr(settings, name)}; a probability lies in [0, 1]")


def one_of(settings: Any, name: str, known: Collection[str]) -> None:
    """Raises VosError for a field that is none of the known words; of a tuple, every part counts."""
    value = getattr(settings, name)
    for part in value if isinstance(value, tuple) else (value,):
        if part not in known:
            raise VosError(f"{name} is {part!r}; there are: {', '.join(known)}")


def known_name(settings: Any, name: str, known: Collection[str]) -> None:
    """Raises VosError for a field that is neither a known name nor a callable."""
    if not callable(value := getattr(settings, name)) and value not in known:
        raise VosError(f"{name} is {value!r}; there are {', '.join(known)}, or any callable")


def increasing(settings: Any, low: str, high: str) -> None:
    """Raises VosError where the field `low` is above the field `high`."""
    if getattr(settings, low) > getattr(settings, high):
        raise VosError(f"{low} is {getattr(settings, low)}; it is above {high}, {getattr(settings, high)}")


def not_empty(settings: Any, *names: str) -> None:
    """Raises VosError for an empty tuple."""
    for name in names:
        if not getattr(settings, name):
            raise VosError(f"{name} is empty; it needs a value")
