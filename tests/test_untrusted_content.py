"""Hostile content behind an honest header: proposals, pickles, probabilities, records, messages."""

import dataclasses
import io
import json
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests import layouts
from tests.inference import coloured
from vos_jax import errors, files, weights_io
from vos_jax.data import proposal_files
from vos_jax.data.datasets import tfds
from vos_jax.inference import mask_writer, objects, probabilities, result_store, session_file
from vos_jax.inference import session as session_lib
from vos_jax.tools import torch_pickle

IDS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3


def write_proposals(path: pathlib.Path, **segmentation) -> pathlib.Path:
    entry = {"score": 0.5, "segmentation": {"size": [4, 6], "counts": "08", **segmentation}}
    size = entry["segmentation"]["size"]
    content = {"format": proposal_files.FORMAT, "video": "v", "size": size, "frames": {"0": [entry]}}
    path.write_text(json.dumps(content))
    return path


def test_a_code_that_pycocotools_reads_otherwise_is_refused(tmp_path):
    """A letter outside the code's alphabet passed the sum of runs here and was two letters there."""
    mask = np.zeros((4, 6), bool)
    mask[:, 3:] = True
    good = proposal_files.encode_proposal(mask, 0.5).counts
    assert proposal_files.read(write_proposals(tmp_path / "v.json", counts=good))
    for counts in (good + "\u0130", good + "p", good + " ", good + "\0"):
        with pytest.raises(errors.VosError, match="damaged code"):
            proposal_files.read(write_proposals(tmp_path / "v.json", counts=counts))


def test_a_run_of_endless_digits_does_not_hang(tmp_path):
    """Adding five bits at a time to a number of megabytes took hours."""
    path = write_proposals(tmp_path / "v.json", counts="o" * 3_000_000)
    with pytest.raises(errors.VosError, match="damaged code"):
        proposal_files.read(path)


def test_proposals_larger_than_any_frame_are_refused_before_they_are_decoded(tmp_path):
    path = write_proposals(tmp_path / "v.json", size=[16_000, 16_000], counts=[16_000 * 16_000])
    with pytest.raises(errors.VosError, match="'size'"):
        proposal_files.read(path)


def test_ten_thousand_proposals_in_a_frame_are_not_all_compared(little_memory):
    """Their overlaps alone took 8 bytes times their number squared."""
    boxes = np.zeros((4, 6), bool)
    boxes[1:3, 1:4] = True
    one = proposal_files.encode_proposal(boxes, 0.5)
    many = proposal_files.VideoProposals("v", (4, 6), {"0": [one] * 20_000})
    found = proposal_files.arrays(many, "0", frame_size=(4, 6), padded_size=(32, 32), capacity=2)
    assert found.valid.tolist() == [True, False]


@pytest.mark.parametrize("opcode", [b"r\xff\xff\xff\x7f", b"p2000000000\n"])
def test_a_pickle_cannot_order_a_memo_of_gigabytes(little_memory, opcode):
    """`LONG_BINPUT 0x7fffffff` makes the unpickler allocate and clear 32 GB."""
    data = b"\x80\x02}" + opcode + b"."
    with pytest.raises(errors.VosError, match="memo"):
        torch_pickle.read(io.BytesIO(data), "evil.pth")


def test_probabilities_do_not_unpack_to_gigabytes(tmp_path, little_memory):
    path = tmp_path / "00000.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("levels.npy", "w", force_zip64=True) as member:
            for _ in range(65):
                member.write(bytes(1 << 24))
    with pytest.raises(errors.VosError, match="not probabilities"):
        probabilities.read(path)


def test_probabilities_run_no_pickle(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.savez(tmp_path / "a.npz", objects=np.array([Evil()], object), levels=np.zeros((2, 4, 6), np.uint8))
    with pytest.raises(errors.VosError, match="not probabilities"):
        probabilities.read(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_no_reader_unpickles():
    """`pickle` and `np.load` outside the two places that guard them."""
    root = pathlib.Path(files.__file__).parent
    found = [
        f"{path.relative_to(root)}: {word}"
        for path in sorted(root.rglob("*.py"))
        for word in (
            "import pickle\n",
            "allow_pickle=True",
            "np.load(",
            "joblib",
            "dill",
            "eval(",
            "yaml.load",
        )
        if word in path.read_text()
    ]
    assert found == ["inference/probabilities.py: np.load(", "tools/torch_pickle.py: import pickle\n"], found
    assert issubclass(pickle.UnpicklingError, Exception)


def test_a_packed_data_set_imports_no_class_of_its_own_choice(tmp_path, monkeypatch):
    """tensorflow-datasets imports the module that features.json names."""
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "evil_features.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    content = {"featuresDict": {"features": {"a": {"pythonClassName": "evil_features.Evil"}}}}
    (tmp_path / "features.json").write_text(json.dumps(content))
    with pytest.raises(errors.VosError, match="evil_features"):
        len(tfds.CatalogueRecords(tmp_path, "train"))


@pytest.mark.parametrize(
    "content",
    [
        {"videos": {"cow": 3}, "settings": {}},
        {"videos": {"cow": {}}, "settings": {}},
        {"videos": {"cow": {"settings": [], "summary": None}}, "settings": {}},
        {"videos": {"cow": {"settings": "k", "summary": {}}}, "settings": {"k": {}}},
        {"videos": {"cow": {"settings": "k", "summary": None}}, "settings": {"k": 7}},
        {"sequences": {}, "settings": {}},
    ],
)
def test_a_record_of_another_shape_is_no_traceback(tmp_path, content):
    """Only the outermost keys of run.json were looked at."""
    (tmp_path / result_store.NAME).write_text(json.dumps(content))
    with pytest.raises(errors.VosError, match="not a record"):
        result_store.ResultStore(tmp_path, {})


def test_probabilities_that_are_no_arrays_are_no_traceback(tmp_path):
    """np.load gives a member that is no array as bytes."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("objects.npy", b"text")
        archive.writestr("levels.npy", b"text")
    with pytest.raises(errors.VosError, match="planes"):
        probabilities.read(tmp_path / "a.npz")


def test_an_array_header_that_is_cut_off_is_no_traceback(tmp_path):
    """numpy tokenizes the header as Python: TokenError, found by fuzzing."""
    header = b"{'descr': '|u1', (\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("objects.npy", member)
        archive.writestr("levels.npy", member)
    with pytest.raises(errors.VosError, match="not probabilities"):
        probabilities.read(tmp_path / "a.npz")


@pytest.mark.parametrize("frames", ["3", 2.5, [1]])
def test_a_record_with_an_impossible_count_is_no_traceback(tmp_path, frames):
    entry = {"settings": "k", "summary": {"frames": frames, "seconds": {}, "presence": {}}}
    content = {"videos": {"cow": entry}, "settings": {"k": {}}}
    (tmp_path / result_store.NAME).write_text(json.dumps(content))
    with pytest.raises(errors.VosError, match="not a record"):
        result_store.ResultStore(tmp_path, {})


def test_a_message_does_not_command_the_terminal(capsys):
    @errors.entry_point
    def main():
        raise errors.VosError("x\x1b[2J\udcff: no such file\nnext line")

    assert main() == 2
    assert capsys.readouterr().err == "error: x\\x1b[2J\\udcff: no such file\nnext line\n"


def test_tensors_of_impossible_shape_are_no_traceback():
    header = json.dumps({"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}).encode()
    with pytest.raises(errors.VosError, match="evil"):
        weights_io.load(struct.pack("<Q", len(header)) + header, "evil")


def test_a_sequence_folder_that_is_no_text_is_named_not_a_traceback(tmp_path, capsys):
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(folder)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(os.fsdecode(folder) + "/0.png")
    with pytest.raises(errors.VosError) as told:
        for video in layouts.open_as("folders", tmp_path):
            mask_writer.mask_path(tmp_path, video.name, "0")
    str(told.value).encode()


def test_metadata_that_is_null_is_none():
    """`deserialize` takes `"__metadata__": null`; who asked for a key of it met None."""
    header = b'{"__metadata__":null,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    tensors, metadata = weights_io.load(struct.pack("<Q", len(header)) + header + b"x", "w")
    assert tensors["a"].tolist() == [ord("x")] and metadata == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objects", [[1, 1]]),
        ("objects", [[1, -1]]),
        ("objects", [[300, 0]]),
        ("objects", [[0, 0]]),
        ("objects", [[1, 0], [2, 0]]),
        ("objects", [[10**30, 0]]),
        ("first_frames", []),
        ("first_frames", [[1, 57]]),
        ("first_frames", [[1, -5]]),
        ("index", 10**20),
        ("index", -1),
        ("index", "1"),
        ("size", [0, 40]),
        ("size", [24, 10**9]),
        ("size", [24, 40, 1]),
    ],
)
def test_a_saved_state_that_contradicts_itself_is_refused(tmp_path, key, value):
    """An object beyond the state's room, or of an id that no mask holds, was a traceback one frame later."""
    engine = coloured.make_engine(object_buckets=(1,))
    before = session_lib.Session(engine, (24, 40)).snapshot()
    known = dataclasses.replace(before, objects=objects.ObjectTable({1: 0}, {1: 0}), index=1)
    path = tmp_path / "state"
    session_file.save(path, session_lib.Session.restore(engine, known))
    assert session_file.load(path, engine).objects == (1,)
    tensors, metadata = weights_io.load(path.read_bytes(), "w")
    del metadata[session_file.SUM]
    metadata["track"] = json.dumps(json.loads(metadata["track"]) | {key: value})
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    with pytest.raises(errors.VosError, match=f"{path}: damaged"):
        session_file.load(path, engine)


def test_a_saved_state_in_which_a_byte_changed_is_refused(tmp_path):
    """Tensors have no checksums of their own: a video would have gone on with other masks."""
    engine = coloured.make_engine(object_buckets=(1,))
    session = session_lib.Session(engine)
    session.step(np.zeros((24, 40, 3), np.uint8), np.ones((24, 40), np.uint8))
    path = tmp_path / "state"
    session_file.save(path, session)
    data = path.read_bytes()
    for at in np.random.default_rng(0).integers(8 + int.from_bytes(data[:8], "little"), len(data), 20):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(errors.VosError, match="damaged: it is not what was saved"):
            session_file.load(path, engine)
