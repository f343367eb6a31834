"""The layers of the architecture: a file imports from its own package and from lower layers only.

`PLACES` names the files of today that belong to another package than the folder they lie in; `ALLOWED` are
today's violations. Both only shrink: an entry that is no longer needed fails.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

LAYERS = (
    ("programs", "tools"),
    ("web",),
    ("config", "cli", "api"),
    ("visualize",),
    ("evaluation",),
    ("inference",),
    ("train",),
    ("models", "data"),
    ("ops",),
    ("base",),
)
"""Packages from the highest layer to the lowest; files at the root of vos_jax are `base` or in `PLACES`."""

ONE_ROW = {"programs", "tools"}, {"config", "cli", "api"}
"""Packages of one layer that may import each other; `models` and `data` may not."""

PLACES = {
    "vos_jax/__init__": "api",
    "vos_jax/api": "api",
    "vos_jax/cli": "cli",
    "vos_jax/config": "config",
}
"""Files at the root of vos_jax that do not lie in the lowest layer."""

ALLOWED = ""
"""IMPORTER -> IMPORTED, sorted."""


def modules() -> dict[str, pathlib.Path]:
    """Returns the files that have a layer, by path without suffix: the programs and all of vos_jax."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "vos_jax").rglob("*.py")]
    return {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(paths)}


def package_of(module: str) -> str:
    """Returns the package that a file belongs to, such as `data` for `vos_jax/data/clips`."""
    if module in PLACES:
        return PLACES[module]
    parts = module.split("/")
    if parts[0] != "vos_jax":
        return "programs"
    return "base" if len(parts) == 2 else parts[1]


def layer_of(package: str) -> int:
    """Returns the number of a package's layer, 0 for the highest."""
    return next(index for index, row in enumerate(LAYERS) if package in row)


def may_import(importer: str, imported: str) -> bool:
    """Returns whether a file of one package may import one of another."""
    if importer == imported or any({importer, imported} <= row for row in ONE_ROW):
        return True
    return layer_of(importer) < layer_of(imported)


def imported_by(tree: ast.Module, known: dict[str, pathlib.Path]) -> Iterator[str]:
    """Yields the files of `known` that a module imports, inside functions too."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            # A name that is no module is defined in the one that it is imported from.
            names += [name if _file_of(name, known) else node.module for name in whole]
    for name in dict.fromkeys(names):
        if file := _file_of(name, known):
            yield file


def _file_of(name: str, known: dict[str, pathlib.Path]) -> str | None:
    path = name.replace(".", "/")
    return next((module for module in (path, f"{path}/__init__") if module in known), None)


def violations() -> set[str]:
    """Returns the imports that point upwards or sideways, as `IMPORTER -> IMPORTED`."""
    known = modules()
    return {
        f"{module} -> {imported}"
        for module, path in known.items()
        for imported in imported_by(ast.parse(path.read_text()), known)
        if not may_import(package_of(module), package_of(imported))
    }


def test_files_import_from_lower_layers_only():
    new = violations() - set(ALLOWED.split("\n"))
    told = [
        f"{line} ({' -> '.join(package_of(name) for name in line.split(' -> '))})" for line in sorted(new)
    ]
    assert not told, f"imports that point upwards or sideways: {', '.join(told)}"


def test_the_allow_list_only_shrinks():
    listed = ALLOWED.strip().split("\n") if ALLOWED.strip() else []
    assert listed == sorted(set(listed))
    gone = set(listed) - violations()
    assert not gone, f"no longer violations, delete them from ALLOWED: {', '.join(sorted(gone))}"


def test_places_name_files_that_lie_elsewhere():
    stale = [name for name, package in PLACES.items() if name not in modules() or f"/{package}/" in name]
    assert not stale, f"not there or in place, delete them from PLACES: {', '.join(stale)}"


def test_every_package_has_a_layer():
    for name in modules():
        assert layer_of(package_of(name)) >= 0, name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from vos_jax.data import clips, transforms", ["vos_jax/data/clips", "vos_jax/data/transforms"]),
        ("from vos_jax.errors import VosError", ["vos_jax/errors"]),
        ("def f():\n    import vos_jax.models.vos", ["vos_jax/models/vos"]),
        ("from vos_jax.models import backbones\nimport numpy", ["vos_jax/models/backbones/__init__"]),
    ],
)
def test_imports_are_found(source, expected):
    assert list(imported_by(ast.parse(source), modules())) == expected


def test_layers_are_those_of_the_picture():
    assert may_import("inference", "train") and not may_import("train", "inference")
    assert not may_import("models", "data") and not may_import("data", "models")
    assert may_import("api", "config") and not may_import("base", "ops")
