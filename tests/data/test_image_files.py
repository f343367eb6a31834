"""Frame files: strict decoding, and headers that tell enough before it."""

import io

import numpy as np
import pytest
from PIL import Image

from vos_jax import errors
from vos_jax.data import image_files

FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def encode(image, kind="JPEG", **options):
    data = io.BytesIO()
    Image.fromarray(image).save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_frames_are_read_as_rgb(tmp_path, kind):
    path = tmp_path / f"f.{kind.lower()}"
    path.write_bytes(encode(FRAME, kind, **({"lossless": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(image_files.read_frame(path), FRAME)
    assert image_files.frame_size(path) == (48, 64)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_is_read_as_rgb(tmp_path, options):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    path = tmp_path / "f.jpg"
    path.write_bytes(encode(red, **options))
    assert np.abs(image_files.read_frame(path).astype(int) - red).max() <= 2


def test_grey_jpeg_becomes_rgb_and_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    path = tmp_path / "f.jpg"
    path.write_bytes(encode(FRAME[..., 0], exif=exif))
    frame = image_files.read_frame(path)
    assert frame.shape == (64, 48, 3) and image_files.frame_size(path) == (64, 48)
    np.testing.assert_array_equal(frame[..., 0], frame[..., 2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.6, 0.95, 0.99])
def test_truncated_frame_is_found_by_header_check_and_by_reading(tmp_path, kind, share):
    data = encode(FRAME, kind)
    path = tmp_path / "f.jpg"
    path.write_bytes(data[: int(share * len(data))])
    for read in (image_files.frame_size, image_files.read_frame):
        with pytest.raises(errors.VosError, match="f.jpg.*truncated"):
            read(path)


def test_thumbnail_end_does_not_hide_a_truncation(tmp_path):
    thumbnail = encode(FRAME[:8, :8])
    exif = b"Exif\0\0" + thumbnail
    data = encode(FRAME, exif=exif)
    assert data.count(b"\xff\xd9") == 2
    path = tmp_path / "f.jpg"
    path.write_bytes(data[:-200])
    with pytest.raises(errors.VosError, match="truncated"):
        image_files.read_frame(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_behind_the_end_do_no_harm(tmp_path, kind):
    path = tmp_path / "f.jpg"
    path.write_bytes(encode(FRAME, kind) + b"maker notes, 20 bytes")
    assert image_files.read_frame(path).shape == image_files.frame_size(path) + (3,)


@pytest.mark.parametrize("data", [b"", b"no picture at all, but text of some length"])
def test_what_is_no_image_is_refused(tmp_path, data):
    path = tmp_path / "f.jpg"
    path.write_bytes(data)
    for read in (image_files.frame_size, image_files.read_frame):
        with pytest.raises(errors.VosError, match="f.jpg.*(empty|not an image)"):
            read(path)


def test_missing_file_is_refused(tmp_path):
    for read in (image_files.frame_size, image_files.read_frame):
        with pytest.raises(errors.VosError, match="No such file"):
            read(tmp_path / "none.jpg")


def test_size_bomb_is_refused_from_the_header(tmp_path):
    data = bytearray(encode(FRAME, "BMP"))
    data[18:22] = (20_000).to_bytes(4, "little")
    path = tmp_path / "f.bmp"
    path.write_bytes(data)
    with pytest.raises(errors.VosError, match="20000x48"):
        image_files.frame_size(path)
    data[22:26] = (20_000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(errors.VosError, match="f.bmp.*pixels"):
        image_files.frame_size(path)
