"""Names of sequences and files: which are safe, which come first, which was meant."""

import difflib
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from vos_jax import errors

MAX_BYTES = 200
"""Longest name; file systems end at 255, and files in the making take some more."""


def safe_name(name: str, what: str = "sequence") -> str:
    """Returns a name that is one path component, so that no name can leave its folder; VosError otherwise."""
    if not name or name in (".", "..") or any(c in "/\\\0:" for c in name):
        raise errors.VosError(f"{what} {name!r} is not a plain name (no '/', '\\', ':' or '..')")
    # Control characters command the terminal that shows the name; lone surrogates cannot be shown at all.
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name) or len(name.encode()) > MAX_BYTES:
        raise errors.VosError(
            f"{what} {name[:100]!r} holds control characters, is no UTF-8 or is longer than {MAX_BYTES} bytes"
        )
    return name


def subset(wanted: Sequence[str], known: Sequence[str], where: str) -> list[str]:
    for name in wanted:
        safe_name(name)
        if name not in known:
            near = closest(name, known)
            listed = ", ".join(known) if len(known) <= 30 else f"{', '.join(known[:30])}, ... ({len(known)})"
            raise errors.VosError(
                f"unknown sequence '{name}'; did you mean {' or '.join(near)}? {where} has: {listed}"
            )
    return list(dict.fromkeys(wanted)) or list(known)


def closest(name: str, known: Sequence[str]) -> list[str]:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return near or difflib.get_close_matches(name, known, n=1, cutoff=0.0) or list(known[:1])


def visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """A folder's entries in natural order, without hidden ones (.DS_Store, ._00000.jpg); [] if it is none."""
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise errors.VosError(f"{folder}: cannot list the folder: {error.strerror}") from error
    return sorted(paths, key=_natural)


def _natural(path: pathlib.Path) -> tuple:
    # Alternating text and numbers, so that like is always compared with like.
    parts = re.split(r"([0-9]+)", path.name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), path.name
