"""eval.py --score-only: masks that are there already."""

import json
import shutil

import pytest

import eval as program
from tests.eval import runs
from vos_jax.data import mask_files


def test_score_only_scores_what_is_there(davis, tmp_path, capsys):
    results_dir = shutil.copytree(davis / "Annotations/480p", tmp_path / "theirs")
    assert program.main(["--config", "davis17", "--data", str(davis), "--score-only", str(results_dir)]) == 0
    results = runs.results_of(results_dir)
    assert results["G"] == 1.0 and results["fps"] is None and len(results["objects"]) == 6
    assert "1.000" in capsys.readouterr().out


def test_score_only_agrees_with_the_run_and_keeps_its_results(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert runs.run(davis, out) == 0
    before = (out / "results.json").read_bytes()
    assert program.main(["--config", "davis17", "--data", str(davis), "--score-only", str(out)]) == 0
    assert (out / "results.json").read_bytes() == before
    assert runs.run(davis, tmp_path / "again", "--score-only", out) == 0
    again = runs.results_of(tmp_path / "again")
    assert {key: again[key] for key in "GJF"} == {key: json.loads(before)[key] for key in "GJF"}
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == [
        "files.jsonl",
        *runs.CSV,
        "results.json",
    ]


def _missing_result(folder):
    (folder / "bee/00003.png").unlink()
    return "bee/00003.png"


def _missing_sequence(folder):
    shutil.rmtree(folder / "bee")
    return "bee"


def _surplus_id(folder):
    ids = mask_files.read_mask(folder / "bee/00003.png")
    ids[0, 0] = 9
    mask_files.write_mask(folder / "bee/00003.png", ids)
    return "bee/00003.png"


def _no_folder(folder):
    shutil.rmtree(folder)
    return str(folder)


@pytest.mark.parametrize(
    "breakage",
    [_missing_result, _missing_sequence, _surplus_id, _no_folder],
    ids=lambda breakage: breakage.__name__,
)
def test_incomplete_results_are_named(davis, tmp_path, capsys, breakage):
    results_dir = shutil.copytree(davis / "Annotations/480p", tmp_path / "theirs")
    named = breakage(results_dir)
    assert runs.run(davis, tmp_path / "out", "--score-only", results_dir) == 2
    runs.check_message(capsys, named)
    assert not (tmp_path / "out" / "results.json").exists()
