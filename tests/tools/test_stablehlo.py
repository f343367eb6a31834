"""The model as programs that need nothing but JAX: the tutorial's loader segments as a session does."""

import pathlib
import re

import jax
import numpy as np
import pytest

from tests import tiny
from tests.inference import coloured
from vos_jax import errors
from vos_jax.inference import session as session_lib
from vos_jax.tools import export, stablehlo

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE = (50, 70)  # of no multiple of anything


@pytest.mark.parametrize(
    "changes",
    [{"proposals": tiny.NO_NETWORK, "refine": False}, pytest.param({}, marks=pytest.mark.slow)],
    ids=["coarse", "whole"],
)
def test_the_tutorials_loader_gives_what_a_session_gives(tmp_path, changes):
    code = {}
    exec(
        re.search(r"^```py\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL | re.MULTILINE)[1],
        code,
    )
    model = tiny.model(**changes)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0)))  # as they come from a file
    (tmp_path / "tiny.zip").write_bytes(stablehlo.export(model, params, SIZE, 2, platforms=("cpu",)))
    frames = np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3)).astype(np.uint8)
    first = np.zeros(SIZE, np.uint8)
    first[5:30, 8:30], first[10:40, 40:60] = 1, 2
    expected = session_lib.Session(coloured.make_engine(model, params)).run(frames, {0: first})
    found = list(code["follow"](tmp_path / "tiny.zip", frames, first))
    np.testing.assert_array_equal(found[0], first)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b.ids)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["lite0.bin"], "ends in .zip"),
        (["lite0.zip", "--size", "480"], "--size 480: write HEIGHTxWIDTH"),
        (["lite0.zip", "--objects", "0"], "--objects 0: it must be in 1 to 64"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, said):
    with pytest.raises(errors.VosError, match=re.escape(said)):
        stablehlo.main(arguments)


def test_the_option_reaches_the_exporter(capsys):
    assert export.main(["--stablehlo", "x.txt"]) != 0
    assert "ends in .zip" in capsys.readouterr().err
