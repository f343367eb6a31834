"""Files from elsewhere: links to devices, pipes, bombs, playlists, names that command a terminal."""

import io
import json
import os
import pathlib
import pickle
import resource
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data import video_maker
from vos_jax import config as configs
from vos_jax import errors, untrusted, weights_io
from vos_jax.convert import torch_pickle
from vos_jax.data import (
    frames,
    given_masks,
    masks,
    names,
    proposal_files,
    records,
    sequences,
    sources,
    video_files,
    videos,
    youtube_vos,
)
from vos_jax.inference import probabilities, record, session, writer

IDS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3


@pytest.fixture
def little_memory():
    """Whoever asks for a gigabyte more than there is now gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int, *, second: bool = False) -> bytes:
    """A PNG of a few bytes with a huge size in its header, or in a second header behind a harmless one."""
    header = [struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)]
    if second:
        header.insert(0, struct.pack(">IIBBBBB", 6, 4, 8, 0, 0, 0, 0))
    chunks = [*(chunk(b"IHDR", h) for h in header), chunk(b"IDAT", zlib.compress(bytes(1 << 16)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IEND", b"")])


def jpeg_claiming(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(data, "JPEG")
    data = bytearray(data.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("claim", [(60_000, 60_000), (30_000, 30_000), (12_000, 9_000)])
@pytest.mark.parametrize("make", [png_claiming, jpeg_claiming])
def test_frame_bombs_are_refused_by_the_header_wherever_frames_are_decoded(
    tmp_path, little_memory, make, claim
):
    """`read_frame` and the training readers decoded what claimed 30,000 x 30,000 pixels: 2.7 GB."""
    path = tmp_path / "bomb.jpg"
    path.write_bytes(make(*claim))
    for read in (
        lambda: frames.read_frame(path),
        lambda: frames.frame_size(path),
        lambda: sequences.decode_frame(path.read_bytes(), "packed"),
        lambda: sequences.decode_ids(path.read_bytes(), "packed"),
    ):
        with pytest.raises(errors.VosError, match="pixels|decompression bomb"):
            read()


@pytest.mark.parametrize("claim", [(60_000, 60_000), (9_000, 9_000)])
def test_a_second_header_in_a_mask_does_not_pass_the_size_check(tmp_path, little_memory, claim):
    """Pillow believes a PNG's last header: the check of the first one was passed by, with a traceback."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(*claim, second=True))
    with pytest.raises(errors.VosError, match="damaged"):
        masks.read_mask(path)


def test_a_chunk_that_claims_gigabytes_is_not_allocated(tmp_path, little_memory):
    """OpenCV 5 allocated and cleared what a chunk's length claims: 3.5 GB for a file of 400 bytes."""
    data = io.BytesIO()
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(data, "PNG")
    end = data.getvalue().index(b"IEND") - 4
    evil = data.getvalue()[:end] + struct.pack(">I", 0x7FFFFFF0) + b"IDAT" + data.getvalue()[end:]
    (tmp_path / "a.png").write_bytes(evil)
    with pytest.raises(errors.VosError, match="longer than the file"):
        frames.read_frame(tmp_path / "a.png")
    with pytest.raises(errors.VosError, match="longer than the file"):
        sequences.decode_ids(evil, "packed")


def test_reading_a_file_allocates_no_more_than_its_size(tmp_path):
    """A reader with a limit allocated the limit, a gigabyte, for every file."""
    (tmp_path / "small").write_bytes(b"x")
    tracemalloc.start()
    assert untrusted.read_bytes(tmp_path / "small") == b"x"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_film_bomb_is_refused_before_its_frames_are_allocated(tmp_path, monkeypatch):
    path = video_maker.write(tmp_path / "v.mp4", [np.zeros((64, 96, 3), np.uint8)] * 2)
    monkeypatch.setattr(masks, "MAX_PIXELS", 64 * 96 - 1)
    monkeypatch.setattr(masks, "check_size", lambda *_: pytest.fail("decoded already"))
    with pytest.raises(errors.VosError, match=r"v\.mp4"):
        video_files.open_media(path)


@pytest.mark.parametrize(
    "name, text",
    [
        ("v.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n"),
        ("v.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
        ("v.txt", "some private text\n" * 40),
        ("v.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_playlists_and_texts_are_no_films(tmp_path, name, text):
    """FFmpeg follows playlists to other files and hosts, and draws any text as a film."""
    for secret in ("secret.mp4", "secret.ts"):
        video_maker.write(tmp_path / secret, [np.zeros((64, 96, 3), np.uint8)] * 2)
    (tmp_path / name).write_text(text)
    with pytest.raises(errors.VosError, match="cannot be opened as a video"):
        video_files.open_media(tmp_path / name)


def test_pipes_devices_and_folders_are_not_read_by_anybody(tmp_path):
    """A pipe in a data set made every reader wait for ever, a link to a device filled the memory."""
    pipe, device, folder = tmp_path / "pipe.png", tmp_path / "device.png", tmp_path / "folder.png"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    readers = (
        masks.read_mask,
        masks.png_size,
        frames.read_frame,
        frames.frame_size,
        proposal_files.read,
        youtube_vos.read_meta,
        probabilities.read,
    )
    for path in (pipe, device, folder):
        for read in readers:
            with pytest.raises(errors.VosError, match=path.name):
                read(path)
    for path in (pipe, device):
        with pytest.raises(errors.VosError, match="not a plain file"):
            video_files.open_media(path)


def test_files_larger_than_any_honest_one_are_not_read(tmp_path, little_memory):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.VosError, match="at most 1024 MiB"):
        masks.read_mask(tmp_path / "huge.png")
    with pytest.raises(OSError, match="512 MiB"):
        untrusted.read_json(tmp_path / "huge.png")


def test_links_within_a_data_set_are_followed(tmp_path):
    """People link data sets into place; that goes on working."""
    (tmp_path / "there").mkdir()
    masks.write_mask(tmp_path / "there" / "a.png", IDS)
    (tmp_path / "here").symlink_to(tmp_path / "there")
    assert np.array_equal(masks.read_mask(tmp_path / "here" / "a.png"), IDS)


@pytest.mark.parametrize(
    "read",
    [
        proposal_files.read,
        youtube_vos.read_meta,
        lambda path: record.Record(path.parent, {}),
        lambda path: session.Session(path.parent, {}, "model"),
    ],
)
def test_json_nested_without_end_is_no_traceback(tmp_path, read):
    """json raised RecursionError, which no reader caught."""
    path = tmp_path / record.NAME
    path.write_text("[" * 200_000)
    with pytest.raises(errors.VosError, match="nested too deeply"):
        read(path)


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "/etc", "..", "a\\b", "C:x", "", "a\x1b[2J", "\udcff", "x" * 300]
)
def test_names_that_leave_their_folder_or_command_the_terminal_are_refused(tmp_path, name):
    with pytest.raises(errors.VosError) as told:
        names.safe_name(name)
    str(told.value).encode()
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {name: {"objects": {}}}}))
    with pytest.raises(errors.VosError):
        youtube_vos.read_meta(tmp_path / "meta.json")
    with pytest.raises(errors.VosError):
        proposal_files.path_of(tmp_path, name)
    with pytest.raises(errors.VosError):
        writer.mask_path(tmp_path, name, "00000")


def test_a_list_of_sequences_cannot_name_a_folder_elsewhere(tmp_path):
    for folder in ("JPEGImages/480p", "Annotations/480p", "ImageSets/2017"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("../../../etc\n")
    with pytest.raises(errors.VosError, match="not a plain name"):
        sources.DavisSource(tmp_path)


def test_results_are_not_written_through_a_link_out_of_the_folder(tmp_path):
    """A results folder from elsewhere may hold a link: masks there would be removed and written."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "00000.png").write_bytes(b"precious")
    (out / "cow").symlink_to(elsewhere)
    for attempt in (
        lambda results: results.begin("cow", ["00000"]),
        lambda results: (results.write("cow", "00000", IDS), results.flush()),
    ):
        with pytest.raises(errors.VosError, match="link out of"), writer.MaskWriter(out) as results:
            attempt(results)
    assert (elsewhere / "00000.png").read_bytes() == b"precious"
    linked = tmp_path / "linked"
    linked.symlink_to(out)
    with writer.MaskWriter(linked) as results:
        results.write("dog", "00000", IDS)
    assert (out / "dog" / "00000.png").is_file(), "the folder itself may be a link"


def test_a_path_too_long_for_a_mask_is_no_traceback():
    with pytest.raises(errors.VosError, match="no such file"):
        given_masks.parse("x" * 5000)
    with pytest.raises(errors.VosError, match="no config"):
        configs.load("/" + "x" * 5000)


def test_an_endless_number_in_a_config_is_no_traceback():
    """An int beyond every float raised OverflowError."""
    with pytest.raises(errors.VosError, match="memory.every"):
        configs.load("default", ["memory.every=" + "9" * 400])


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
    good = proposal_files.record_of(mask, 0.5).counts
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
    one = proposal_files.record_of(boxes, 0.5)
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
    root = pathlib.Path(untrusted.__file__).parent
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
    assert found == ["convert/torch_pickle.py: import pickle\n", "inference/probabilities.py: np.load("], (
        found
    )
    assert issubclass(pickle.UnpicklingError, Exception)


def test_a_packed_data_set_imports_no_class_of_its_own_choice(tmp_path, monkeypatch):
    """tensorflow-datasets imports the module that features.json names."""
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "evil_features.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    content = {"featuresDict": {"features": {"a": {"pythonClassName": "evil_features.Evil"}}}}
    (tmp_path / "features.json").write_text(json.dumps(content))
    with pytest.raises(errors.VosError, match="evil_features"):
        len(records.Records(tmp_path, "train"))


@pytest.mark.parametrize(
    "content",
    [
        {"sequences": {"cow": 3}, "settings": {}},
        {"sequences": {"cow": {}}, "settings": {}},
        {"sequences": {"cow": {"settings": [], "seconds": None}}, "settings": {}},
        {"sequences": {"cow": {"settings": "k", "seconds": {}}}, "settings": {"k": {}}},
        {"sequences": {"cow": {"settings": "k", "seconds": None}}, "settings": {"k": 7}},
    ],
)
def test_a_record_of_another_shape_is_no_traceback(tmp_path, content):
    """Only the outermost keys of run.json were looked at."""
    (tmp_path / record.NAME).write_text(json.dumps(content))
    with pytest.raises(errors.VosError, match="not a record"):
        record.Record(tmp_path, {})


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
def test_a_segment_record_with_an_impossible_count_is_no_traceback(tmp_path, frames):
    (tmp_path / record.NAME).write_text(json.dumps({"settings": {}, "frames": frames}))
    with pytest.raises(errors.VosError, match="not a record"):
        session.Session(tmp_path, {}, "model")


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
        source = sources.FoldersSource(tmp_path)
        for name in source.sequences():
            video = source.video(name)
            assert isinstance(video, videos.FolderVideo)
            writer.mask_path(tmp_path, video.name, "0")
    str(told.value).encode()
