"""The tutorial's Python runs as it stands, and its commands are understood by the programs."""

import ast
import importlib
import pathlib
import re
import shlex

import numpy as np
import pytest

import eval as eval_program
import segment
import train
import vos_jax
from vos_jax import geometry
from vos_jax.data import mask_files
from vos_jax.tools import pack_data

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/tutorial.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def commands():
    """Returns the commands behind a prompt, continuation lines joined."""
    text = "\n".join(blocks("console")).replace("\\\n", " ")
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")]


def test_the_code_uses_names_that_exist():
    """Each block of Python is compiled, and every name of vos_jax in it is looked up."""
    seen = set()
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vos_jax":
                names = {alias.name for alias in node.names}
                assert not [name for name in names if not hasattr(importlib.import_module(node.module), name)]
                seen |= names
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "vos_jax":
                assert hasattr(vos_jax, node.attr), node.attr
                seen.add(node.attr)
    assert len(seen) >= 2


@pytest.mark.slow
def test_a_new_user_gets_from_a_video_to_masks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Followed at its own size: what the code says is the same.
    monkeypatch.setattr(geometry, "MAX_ENLARGEMENT", 1.0)
    code = {}
    make, track, edit = blocks("python")
    exec(make, code)
    command = next(c for c in commands() if c[1:2] == ["segment.py"])
    assert segment.main(command[2:]) == 0
    found = sorted((tmp_path / "results/holiday/masks").iterdir())
    exec(track + edit, code)
    assert len(found) == len(code["frames"]) == 8
    last = mask_files.read_mask(found[-1])
    assert set(np.unique(last)) == {0, 1, 2, 3}
    assert code["session"].index == 3 and code["session"].objects == (1, 2, 3, 8)


def test_the_commands_are_understood():
    """Each is parsed by its own program; a renamed option or config key fails here."""
    parsers = {"segment.py": segment.parse, "eval.py": eval_program.parse, "train.py": train.parse}
    seen = set()
    for command in commands():
        if command[1] in parsers:
            options, overrides = parsers[command[1]](command[2:])
            name = getattr(options, "config", "default")
            eval_program.configs.load(name, overrides)
            seen.add(command[1])
        elif command[1] == "-m":
            seen.add(command[2])
    assert seen == {
        "segment.py",
        "eval.py",
        "train.py",
        "vos_jax.tools.check_data",
        "vos_jax.tools.pack_data",
    } | {"vos_jax.tools.export", "vos_jax.tools.still"}
    assert pack_data.parse([*next(c for c in commands() if "vos_jax.tools.pack_data" in c)[3:]]).root


def test_the_quick_start_in_the_readme_is_the_tutorials():
    readme = (ROOT / "README.md").read_text()
    assert "segment.py video.mp4 --masks first.png" in readme and "vos_jax.load(" in readme
    for path in re.findall(r"\]\((docs/[^)]+)\)", readme):
        assert (ROOT / path).is_file(), path
