"""Natural order of file names: numbers are compared by value, with signs and decimals."""

import fractions
import pathlib
import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"([0-9]+)")
_DECIMAL = re.compile(r"([0-9]+[.,][0-9]+|[0-9]+)")

_Place = tuple[int, tuple[str, ...], str]
"""Position of a number in a name, the texts before it, and the text that it follows."""


def sort(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Returns paths sorted by name, numbers in it by value: 2 before 10, -1 before 0, 0.25 before 0.3.

    The names beside a name decide whether a minus is a sign and whether a dot is a decimal point: `a-1` and
    `a-2` are 1 and 2, but with `a_0` beside it `a_-1` is below 0; `1.9` and `1.10` are frames 9 and 10 of
    shot 1, but `1.05` and `1.1` are seconds.
    """
    splits = {path: _NUMBER.split(path.stem) for path in paths}
    split_decimals = {path: _DECIMAL.split(path.stem) for path in paths}
    decimal = _decimal_families(split_decimals.values())
    splits |= {path: split for path, split in split_decimals.items() if tuple(split[::2]) in decimal}
    signed = _signed_places(splits.values())

    def key(path: pathlib.Path) -> tuple:
        # Text and numbers alternate, so that numbers are compared with numbers only.
        pieces, split = [], splits[path]
        for i in range(1, len(split), 2):
            is_negative = _place(split, i) in signed
            text = split[i - 1][:-1] if is_negative else split[i - 1]
            pieces += [text, -_value(split[i]) if is_negative else _value(split[i])]
        return [*pieces, split[-1]], path.suffix, path.name

    return sorted(paths, key=key)


def _value(number: str) -> fractions.Fraction:
    return fractions.Fraction(number.replace(",", "."))


def _place(split: Sequence[str], i: int) -> _Place:
    return i, tuple(split[: i - 1 : 2]), split[i - 1]


def _decimal_families(splits: Iterable[list[str]]) -> set[tuple[str, ...]]:
    """Returns the texts between the numbers of names that hold decimals, such as seconds."""
    families: dict[tuple[str, ...], list[list[str]]] = {}
    for split in splits:
        families.setdefault(tuple(split[::2]), []).append(split[1::2])
    found = set()
    for texts, members in families.items():
        for column in zip(*members, strict=True):
            parts = [re.split("[.,]", number) for number in column]
            if all(len(part) == 2 for part in parts) and _are_fractions([after for _, after in parts]):
                found.add(texts)
    return found


def _are_fractions(after: list[str]) -> bool:
    """Returns whether the digits after dots are fractions, not a second number that counts."""
    if len({len(text) for text in after}) == 1:
        return True  # the order is the same, but for numbers below 0
    if any(len(text) > 1 and text[0] == "0" for text in after):
        return True
    if any(len(text) > 1 and text[-1] == "0" for text in after):
        return False  # numbers print as 0.1, not as 0.10
    counts = {int(text) for text in after}
    return len(counts) < (max(counts) - min(counts) + 1) / 2


def _signed_places(splits: Iterable[list[str]]) -> set[_Place]:
    """Returns the places where a minus is a sign."""
    numbers: dict[_Place, set[fractions.Fraction]] = {}
    for split in splits:
        for i in range(1, len(split), 2):
            numbers.setdefault(_place(split, i), set()).add(_value(split[i]))
    found = set()
    for place, values in numbers.items():
        i, before, text = place
        if not text.endswith("-"):
            continue
        beside = numbers.get((i, before, text[:-1]), set())
        if text[-2:-1].isalnum():
            # `shot-1` beside `shot1` may be a slip, but hardly beside `shot0`.
            is_sign = 1 in values and 0 in beside
        else:
            is_sign = bool(beside) or text.endswith("_-")  # a separator needs no other one before it
        if is_sign:
            found.add(place)
    return found
