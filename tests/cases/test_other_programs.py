"""Cases A13 to A15 and the store: files that train.py, export, convert and merge find. All stay now."""

import json
import os
import pathlib

import numpy as np
import pytest

from tests import layouts
from tests.cases.user_files import MINE, SIZE, check_refused, tree, write
from tests.eval import runs
from tests.eval.conftest import copy_model, davis, pristine  # noqa: F401 - fixtures
from tests.inference.coloured import make_model
from vos_jax import errors, files, output_folder, weights_io
from vos_jax.data import proposal_files
from vos_jax.inference import result_store, state_files, video_results
from vos_jax.models import weights
from vos_jax.tools import convert, convert_proposals, export, merge
from vos_jax.train import workdir


# ---------------------------------------------------------------- train.py, export, convert, merge
def train_folder(folder, every=2):
    workdir.check(folder, [], every)


def test_a13_a_workdir_of_another_program_is_refused(tmp_path):
    rows = [json.dumps({"step": step, "loss": 1.0}) for step in range(100, 600, 100)]
    contents = {
        "config.json": b'{"project": "mine"}',
        "metrics.jsonl": "\n".join(rows).encode(),
        "evaluations.jsonl": b'{"epoch": 1, "map": 0.31}\n',
        "checkpoints/100/weights": b"w",
        "tensorboard/events": b"e",
    }
    for name, content in contents.items():
        folder = tmp_path / name.replace("/", "_")
        write(folder / name, content)
        with pytest.raises(errors.VosError, match="holds files that train.py did not write"):
            train_folder(folder)


NOTED = {"config": {}, "version": "1", "commit": None, "command": "python train.py"}


def test_a13_logs_whose_checkpoints_are_gone_are_not_cut(tmp_path):
    files.write_json(tmp_path / "config.json", NOTED)
    rows = [json.dumps({"step": step}) for step in (1, 2, 3)]
    write(tmp_path / "metrics.jsonl", "\n".join(rows).encode())
    with pytest.raises(
        errors.VosError, match="logs step 2, but the last checkpoint .* restore the checkpoints"
    ):
        train_folder(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    train_folder(tmp_path)  # killed before its first checkpoint was whole
    write(tmp_path / "metrics.jsonl", b"".join(b'{"step": %d}\n' % step for step in range(1, 100)))
    with pytest.raises(errors.VosError, match="logs step 98"):
        train_folder(tmp_path)
    (tmp_path / "checkpoints/96").mkdir()
    train_folder(tmp_path)
    write(tmp_path / "evaluations.jsonl", b'{"epoch": 1}\n{"epoch": 2}\n')
    with pytest.raises(errors.VosError, match="evaluations.jsonl: is not a log of train.py"):
        train_folder(tmp_path)


def test_a13_a_workdir_in_the_data_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(errors.VosError, match="--workdir .*: lies in the input"):
        workdir.check(tmp_path / "data/run", [str(tmp_path / "data"), ""], 2)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a14_weights_and_records_of_others_are_not_replaced(tmp_path, name):
    write(tmp_path / name)
    with pytest.raises(errors.VosError, match=f"{name}: .*not replaced"):
        weights_io.check_free(tmp_path / "model.safetensors")
    with pytest.raises(errors.VosError, match=f"{name}: .*not replaced"):
        weights_io.save(tmp_path / "model.safetensors", b"new", {})
    assert tree(tmp_path) == {name: MINE}


def test_a14_own_weights_are_replaced_until_the_user_changes_one(tmp_path, monkeypatch):
    out = tmp_path / "model.safetensors"
    weights_io.save(out, b"one", {"step": 1})
    record = weights_io.save(out, b"two", {"step": 2})
    assert out.read_bytes() == b"two" and json.loads((tmp_path / "model.json").read_text()) == record
    # Killed between the two files: the same command goes on.
    with monkeypatch.context() as broken:
        broken.setattr(files, "atomic", _fails_for(out))
        with pytest.raises(errors.VosError, match="cannot be written"):
            weights_io.save(out, b"three", {"step": 3})
    weights_io.save(out, b"four", {"step": 4})
    noted = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**noted, "licence": "mine"}))
    with pytest.raises(errors.VosError, match="model.json"):
        weights_io.save(out, b"five", {})
    (tmp_path / "model.json").write_text(json.dumps(noted))
    out.write_bytes(b"changed")
    with pytest.raises(errors.VosError, match="this program did not write it"):
        weights_io.save(out, b"five", {})


def _fails_for(out):
    atomic = files.atomic

    def failing(path, **options):
        if path == out:
            raise OSError(28, "No space left on device")
        return atomic(path, **options)

    return failing


def test_a14_export_does_not_write_among_the_checkpoints(tmp_path):
    (tmp_path / "run/checkpoints/10").mkdir(parents=True)
    with pytest.raises(errors.VosError, match="OUT .*: lies in the input"):
        export.export(tmp_path / "run", tmp_path / "run/checkpoints/10/w.safetensors")


@pytest.mark.parametrize("out", ["model.safetensors", "linked.safetensors", "./a/../model.safetensors"])
def test_a15_convert_does_not_replace_its_source(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    write("model.safetensors"), write("model.json"), os.mkdir("a")
    os.symlink("model.safetensors", "linked.safetensors")
    assert convert.main(["efficientnet_lite0", "model.safetensors", out]) == 2
    check_refused(capsys, "is the input model.safetensors")
    assert pathlib.Path("model.safetensors").read_bytes() == pathlib.Path("model.json").read_bytes() == MINE


def test_merging_into_a_run_is_refused(tmp_path, capsys):
    write(tmp_path / "a/probabilities/ant/00000.npz")
    for out in ("a", "a/out", "."):
        assert merge.main([str(tmp_path / "a"), "--out", str(tmp_path / out)]) == 2
        check_refused(capsys, "the input")


def test_proposals_of_others_are_not_replaced(tmp_path, capsys):
    """A video called as the input file would have replaced it."""
    counts = proposal_files.encode_proposal(np.ones((4, 6), bool), 0.5).counts
    segmentation = {"size": [4, 6], "counts": counts}
    entries = [
        {"image_id": f"{name}/0.jpg", "score": 0.5, "segmentation": segmentation} for name in ("v", "results")
    ]
    write(tmp_path / "results.json", json.dumps(entries).encode())
    arguments = [str(tmp_path / "results.json"), "--out"]
    assert convert_proposals.main([*arguments, str(tmp_path)]) == 2
    check_refused(capsys, "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == entries
    for _ in range(2):
        assert convert_proposals.main([*arguments, str(tmp_path / "out")]) == 0


# ---------------------------------------------------------------- the store itself
def test_a_file_made_by_a_killed_run_is_known_whatever_the_moment(tmp_path, monkeypatch):
    """The record names a file before it is there, and the old one until the new one is."""
    output = output_folder.OutputFolder(tmp_path / "out")
    path = tmp_path / "out/a.txt"
    for text in ("one", "two"):
        with files.atomic(path) as temporary:
            temporary.write_text(text)
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), files.atomic(path) as temporary:
            temporary.write_text("three")
    output.close()
    output = output_folder.OutputFolder(tmp_path / "out")
    assert output.owns(path)
    output.compact()
    output.close()
    output = output_folder.OutputFolder(tmp_path / "out")
    assert output.owns(path) and len(output.recorded("a.txt")) == 1
    output.remove(path)
    output.close()
    assert not path.exists()


def test_a_record_that_a_full_disk_cut_goes_on(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for text in ("", output_folder.HEADER[:9], output_folder.HEADER + '{"file": "a.t'):
        (out / output_folder.NAME).write_text(text)
        output = output_folder.OutputFolder(out)
        files.write_json(out / "b.json", {})
        assert output.owns(out / "b.json")
        output.remove(out / "b.json")
        output.close()


def test_a_damaged_state_that_is_not_ours_is_named_not_removed(tmp_path):
    with result_store.ResultStore(tmp_path, {}) as store:
        write(tmp_path / ".states/ant-00000003.safetensors")
        with pytest.raises(errors.VosError, match=r"ant-00000003.safetensors: is there"):
            store.video(layouts.source("ant", SIZE, 1)).begin(0)


def test_eval_goes_on_in_mid_video(tmp_path, monkeypatch):
    """Resumed = uninterrupted, masks and presence, from the state of the last saved frame."""
    monkeypatch.setattr(state_files, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(state_files, "SAVE_SHARE", 1e9)
    monkeypatch.setattr(weights, "load_model", lambda *_: (make_model(), {}, "colours"))
    data = layouts.youtube_vos(tmp_path / "data", videos=("cow",), truth=True)
    assert runs.run(data, tmp_path / "through", config="ytvos19") == 0
    assert not (tmp_path / "through/.states").exists()
    write_frame, written = video_results.VideoResults.write, []

    def interrupted(self, result):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(result.index)
        write_frame(self, result)

    with monkeypatch.context() as broken:
        broken.setattr(video_results.VideoResults, "write", interrupted)
        assert runs.run(data, tmp_path / "out", config="ytvos19") == 130
        written[:] = [None] * 4
        assert runs.run(data, tmp_path / "out", config="ytvos19") == 0
    assert written[4] == 3, "went on where it was interrupted"
    assert tree(tmp_path / "out/cow") == tree(tmp_path / "through/cow")
    found, wanted = (runs.results_of(tmp_path / name) for name in ("out", "through"))
    assert found["presence"] == wanted["presence"] and found["objects"] == wanted["objects"]
    assert not (tmp_path / "out/.states").exists()
