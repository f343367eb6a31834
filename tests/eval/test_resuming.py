"""eval.py goes on where it was stopped, and never mixes masks that were made in different ways."""

import shutil

from tests.eval import runs
from tests.inference.coloured import make_model
from vos_jax.models import weights


def test_finished_sequences_are_kept_and_scored(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert runs.run(davis, out) == 0
    first, before = runs.results_of(out), runs.times(out)
    assert copy_model.segmented == [runs.FRAMES, runs.FRAMES]
    (out / "bee" / "00002.png").unlink()
    assert runs.run(davis, out) == 0
    assert copy_model.segmented == [runs.FRAMES] * 3
    after = runs.times(out)
    assert all(before[path] == after[path] for path in before if path.parent.name == "ant")
    assert runs.results_of(out)["objects"] == first["objects"]
    assert runs.run(davis, out, "--overwrite") == 0
    assert copy_model.segmented == [runs.FRAMES] * 5


def test_interrupted_run_goes_on(davis, tmp_path, copy_model):
    out = tmp_path / "out"
    copy_model.interrupt_after = (2, 2)
    assert runs.run(davis, out) == 130
    assert not (out / "results.json").exists()
    assert runs.run(davis, out) == 0
    assert copy_model.segmented == [runs.FRAMES, 2, runs.FRAMES]
    assert runs.results_of(out)["frames"] == 2 * runs.FRAMES


def test_interrupted_overwrite_leaves_no_mixture(davis, tmp_path, copy_model):
    out = tmp_path / "out"
    assert runs.run(davis, out, "--sequences", "ant") == 0
    copy_model.interrupt_after = (2, 2)
    assert runs.run(davis, out, "--sequences", "ant", "--overwrite") == 130
    assert runs.run(davis, out, "--sequences", "ant") == 0
    assert copy_model.segmented == [runs.FRAMES, 2, runs.FRAMES]


def test_masks_of_other_settings_are_not_mixed_in(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert runs.run(davis, out, "--sequences", "ant") == 0
    before = runs.times(out)
    assert runs.run(davis, out, "--config.model.memory.every=3") == 2
    assert "model.memory.every: 5, now 3" in capsys.readouterr().err
    assert runs.times(out) == before
    # The result does not depend on the overlay and the number of workers.
    assert runs.run(davis, out, "--overlay", "--config.eval.workers=1") == 0
    assert runs.run(davis, out, "--config.model.memory.every=3", "--overwrite") == 0
    assert runs.run(davis, out, "--config.model.memory.every=3") == 0
    assert copy_model.segmented == [runs.FRAMES] * 4


def test_masks_of_other_weights_are_not_mixed_in(davis, tmp_path, copy_model, capsys, monkeypatch):
    """Weights are told apart by the content of their file, not by its name."""
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for path in files:
        path.write_bytes(b"same")
    monkeypatch.setattr(weights, "load_model", lambda config, checkpoint: (make_model(), None, checkpoint))
    for path in files:
        assert runs.run(davis, tmp_path / "out", "--sequences", "ant", "--checkpoint", path) == 0
    assert copy_model.segmented == [runs.FRAMES]
    files[0].write_bytes(b"trained further")
    assert runs.run(davis, tmp_path / "out", "--sequences", "ant", "--checkpoint", files[0]) == 2
    runs.check_message(capsys, "checkpoint")


def test_masks_of_somebody_else_are_not_mixed_in(davis, tmp_path, copy_model, capsys):
    out = shutil.copytree(davis / "Annotations/480p", tmp_path / "out")
    assert runs.run(davis, out) == 2
    assert "did not write" in capsys.readouterr().err and not (out / "results.json").exists()


def test_broken_record(davis, tmp_path, copy_model, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text("{")
    assert runs.run(davis, tmp_path / "out") == 2
    runs.check_message(capsys, "run.json")
