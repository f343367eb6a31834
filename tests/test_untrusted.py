"""Files from elsewhere: links to devices, pipes, bombs, playlists, names that command a terminal."""

import io
import json
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from tests import layouts
from tests.data import video_maker
from vos_jax import config as configs
from vos_jax import errors, files
from vos_jax.data import image_files, mask_files, mask_options, media, proposal_files
from vos_jax.data.datasets import records, youtube_vos
from vos_jax.inference import mask_writer, probabilities, result_store

IDS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int, *, second: bool = False) -> bytes:
    """Returns a PNG of a few bytes with a huge size in its header.

    With `second`, the huge size stands in a second header behind a harmless one.
    """
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
        lambda: image_files.read_frame(path),
        lambda: image_files.frame_size(path),
        lambda: image_files.read_frame(path, short_side=100),
        lambda: image_files.decode(path.read_bytes(), "packed"),
        lambda: records.decode_ids(path.read_bytes(), "packed"),
    ):
        with pytest.raises(errors.VosError, match="pixels|decompression bomb"):
            read()


@pytest.mark.parametrize("claim", [(60_000, 60_000), (9_000, 9_000)])
def test_a_second_header_in_a_mask_does_not_pass_the_size_check(tmp_path, little_memory, claim):
    """Pillow believes a PNG's last header: the check of the first one was passed by, with a traceback."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(*claim, second=True))
    with pytest.raises(errors.VosError, match="damaged"):
        mask_files.read_mask(path)


def test_a_chunk_that_claims_gigabytes_is_not_allocated(tmp_path, little_memory):
    """OpenCV 5 allocated and cleared what a chunk's length claims: 3.5 GB for a file of 400 bytes."""
    data = io.BytesIO()
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(data, "PNG")
    end = data.getvalue().index(b"IEND") - 4
    evil = data.getvalue()[:end] + struct.pack(">I", 0x7FFFFFF0) + b"IDAT" + data.getvalue()[end:]
    (tmp_path / "a.png").write_bytes(evil)
    with pytest.raises(errors.VosError, match="longer than the file"):
        image_files.read_frame(tmp_path / "a.png")
    with pytest.raises(errors.VosError, match="longer than the file"):
        records.decode_ids(evil, "packed")


def test_a_mask_whose_last_chunk_claims_four_gigabytes_is_looked_at_without_them(tmp_path, little_memory):
    """The test for black and white let Pillow read from the file, and reading 4 GB allocates them first."""
    path = tmp_path / "a.png"
    mask_files.write_mask(path, np.array([[0, 255]], np.uint8))
    data = path.read_bytes()
    at = data.index(b"IDAT") - 4
    path.write_bytes(data[:at] + b"\xff\0\0\0" + data[at + 4 :])
    assert mask_files.read_mask(path).tolist() == [[0, 1]] and mask_files.read(path).is_binary


def test_reading_a_file_allocates_no_more_than_its_size(tmp_path):
    """A reader with a limit allocated the limit, a gigabyte, for every file."""
    (tmp_path / "small").write_bytes(b"x")
    tracemalloc.start()
    assert files.read_bytes(tmp_path / "small") == b"x"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_film_bomb_is_refused_before_its_frames_are_allocated(tmp_path, monkeypatch):
    path = video_maker.write(tmp_path / "v.mp4", [np.zeros((64, 96, 3), np.uint8)] * 2)
    monkeypatch.setattr(mask_files, "MAX_PIXELS", 64 * 96 - 1)
    monkeypatch.setattr(mask_files, "check_size", lambda *_: pytest.fail("decoded already"))
    with pytest.raises(errors.VosError, match=r"v\.mp4"):
        media.open_media(path)


@pytest.mark.parametrize("name", ["v.mp4", "v.webm"])
def test_titles_in_no_encoding_do_not_lose_a_film(tmp_path, name):
    codec = {"v.mp4": "libx264", "v.webm": "libvpx-vp9"}[name]
    path = video_maker.write(tmp_path / name, [np.zeros((64, 96, 3), np.uint8)] * 2, codec=codec)
    assert b"Lavf" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert len(list(media.open_media(path).frames())) == 2


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
        media.open_media(tmp_path / name)


def test_pipes_devices_and_folders_are_not_read_by_anybody(tmp_path):
    """A pipe in a data set made every reader wait for ever, a link to a device filled the memory."""
    pipe, device, folder = tmp_path / "pipe.png", tmp_path / "device.png", tmp_path / "folder.png"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    readers = (
        mask_files.read_mask,
        mask_files.png_size,
        image_files.read_frame,
        image_files.frame_size,
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
            media.open_media(path)


def test_files_larger_than_any_honest_one_are_not_read(tmp_path, little_memory):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.VosError, match="at most 1024 MiB"):
        mask_files.read_mask(tmp_path / "huge.png")
    with pytest.raises(OSError, match="512 MiB"):
        files.read_json(tmp_path / "huge.png")


def test_links_within_a_data_set_are_followed(tmp_path):
    """People link data sets into place; that goes on working."""
    (tmp_path / "there").mkdir()
    mask_files.write_mask(tmp_path / "there" / "a.png", IDS)
    (tmp_path / "here").symlink_to(tmp_path / "there")
    assert np.array_equal(mask_files.read_mask(tmp_path / "here" / "a.png"), IDS)


@pytest.mark.parametrize(
    "read",
    [
        proposal_files.read,
        youtube_vos.read_meta,
        lambda path: result_store.ResultStore(path.parent, {}),
    ],
)
def test_json_nested_without_end_is_no_traceback(tmp_path, read):
    """json raised RecursionError, which no reader caught."""
    path = tmp_path / result_store.NAME
    path.write_text("[" * 200_000)
    with pytest.raises(errors.VosError, match="nested too deeply"):
        read(path)


@pytest.mark.parametrize("name", ["../up", "a/b", "/etc", "..", "a\\b", "", "a\x1b[2J", "\udcff", "x" * 300])
def test_names_that_leave_their_folder_or_command_the_terminal_are_refused(tmp_path, name):
    with pytest.raises(errors.VosError) as told:
        files.safe_name(name)
    str(told.value).encode()
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {name: {"objects": {}}}}))
    with pytest.raises(errors.VosError):
        youtube_vos.read_meta(tmp_path / "meta.json")
    with pytest.raises(errors.VosError):
        proposal_files.path_of(tmp_path, name)
    with pytest.raises(errors.VosError):
        mask_writer.mask_path(tmp_path, name, "00000")


def test_a_list_of_sequences_cannot_name_a_folder_elsewhere(tmp_path):
    for folder in ("JPEGImages/480p", "Annotations/480p", "ImageSets/2017"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("../../../etc\n")
    with pytest.raises(errors.VosError, match="not a plain name"):
        layouts.open_as("davis", tmp_path)


def test_results_are_not_written_through_a_link_out_of_the_folder(tmp_path):
    """A results folder from elsewhere may hold a link: masks there would be removed and written."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "00000.png").write_bytes(b"precious")
    (out / "cow").symlink_to(elsewhere)
    with pytest.raises(errors.VosError, match="link out of"), mask_writer.MaskWriter(out) as results:
        results.write("cow", "00000", IDS)
        results.flush()
    assert (elsewhere / "00000.png").read_bytes() == b"precious"
    linked = tmp_path / "linked"
    linked.symlink_to(out)
    with mask_writer.MaskWriter(linked) as results:
        results.write("dog", "00000", IDS)
    assert (out / "dog" / "00000.png").is_file(), "the folder itself may be a link"


def test_a_path_too_long_for_a_mask_is_no_traceback():
    with pytest.raises(errors.VosError, match="no such file"):
        mask_options.parse("x" * 5000)
    with pytest.raises(errors.VosError, match="no config"):
        configs.load("/" + "x" * 5000)


def test_an_endless_number_in_a_config_is_no_traceback():
    """An int beyond every float raised OverflowError."""
    with pytest.raises(errors.VosError, match="model.memory.every"):
        configs.load("default", ["model.memory.every=" + "9" * 400])
