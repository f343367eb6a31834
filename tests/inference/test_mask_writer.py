"""Writing results: whole files only, and errors that surface."""

import os
import threading

import numpy as np
import pytest

from vos_jax import errors, files
from vos_jax.data import mask_files
from vos_jax.inference import mask_writer

FRAMES = ("00000", "00001", "00002")


def ids_of(i, size=(6, 8)):
    return np.full(size, i, np.uint8)


def write_all(out, **options):
    with mask_writer.MaskWriter(out, **options) as results:
        for i, name in enumerate(FRAMES):
            results.write("cat", name, ids_of(i + 1))
    return results


def test_writes_every_mask_under_its_frames_name(tmp_path):
    results = write_all(tmp_path / "new" / "out", queue_size=1)
    assert sorted(os.listdir(tmp_path / "new/out/cat")) == [f"{name}.png" for name in FRAMES]
    for i, name in enumerate(FRAMES):
        np.testing.assert_array_equal(
            mask_files.read_mask(tmp_path / f"new/out/cat/{name}.png"), ids_of(i + 1)
        )
    assert results.seconds > 0
    assert not [t for t in threading.enumerate() if t.name == "vos-mask-writer"]


def test_flush_means_on_disk(tmp_path):
    with mask_writer.MaskWriter(tmp_path) as results:
        for i in range(20):
            results.write("cat", f"{i:05d}", ids_of(1))
        results.flush()
        assert len(os.listdir(tmp_path / "cat")) == 20


def test_disk_full_surfaces_at_the_next_call_and_stops_the_run(tmp_path, monkeypatch):
    results = mask_writer.MaskWriter(tmp_path, queue_size=2)
    written = []

    def write(path, ids):
        written.append(path.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(mask_files, "write_mask", write)
    with pytest.raises(errors.VosError, match="00001.png: cannot write: No space left"):
        for i in range(100):
            results.write("cat", f"{i:05d}", ids_of(1))
    for call in (results.flush, results.close, results.close):
        with pytest.raises(errors.VosError, match="No space"):
            call()
    assert written == ["00000.png", "00001.png"]


def test_an_error_on_its_way_is_not_replaced_by_the_writers(tmp_path, monkeypatch):
    def fail(path, ids):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mask_files, "write_mask", fail)
    with pytest.raises(KeyboardInterrupt), mask_writer.MaskWriter(tmp_path) as results:
        results.write("cat", "00000", ids_of(1))
        raise KeyboardInterrupt


def test_a_wrong_mask_does_not_hang(tmp_path):
    with pytest.raises(errors.VosError, match="00000.png.*non-empty uint8"):
        with mask_writer.MaskWriter(tmp_path) as results:
            results.write("cat", "00000", ids_of(1).astype(np.float32))


def test_unwritable_folder_is_found_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/results"):
        for call in (files.check_writable, mask_writer.MaskWriter):
            with pytest.raises(errors.VosError, match=f"cannot write to {folder}.*--out"):
                call(folder)


@pytest.mark.parametrize(("sequence", "name"), [("../cat", "00000"), ("cat", "../../00000"), ("cat", "")])
def test_names_cannot_leave_the_folder(tmp_path, sequence, name):
    with mask_writer.MaskWriter(tmp_path / "out") as results:
        with pytest.raises(errors.VosError, match="plain name"):
            results.write(sequence, name, ids_of(1))


def test_write_after_close_is_a_bug(tmp_path):
    results = write_all(tmp_path)
    with pytest.raises(RuntimeError, match="closed"):
        results.write("cat", "00000", ids_of(1))
