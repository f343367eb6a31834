"""Mask files: every form that exists in the wild, and every broken one, by hand."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vos_jax import errors
from vos_jax.data import mask_files

IDS = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [5, 5, 2, 0]], np.uint8)


def save(path, array, mode=None, palette=None, **options):
    image = Image.fromarray(array) if mode is None else Image.frombytes(mode, array.shape[::-1], array)
    if palette is not None:
        image.putpalette(palette)
    image.save(path, "PNG", **options)
    return path


def raw_png(path, width, height, depth, kind, rows):
    """A PNG from its bytes: `rows` are packed pixels without the filter byte."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


def test_palette_is_the_davis_palette():
    assert mask_files.PALETTE[:9].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
        [128, 0, 128],
        [0, 128, 128],
        [128, 128, 128],
        [64, 0, 0],
    ]
    assert mask_files.PALETTE[255].tolist() == [224, 224, 192]
    assert len(np.unique(mask_files.PALETTE, axis=0)) == 256


def test_write_then_read_keeps_ids_size_and_palette(tmp_path):
    path = tmp_path / "00000.png"
    mask_files.write_mask(path, IDS)
    np.testing.assert_array_equal(mask_files.read_mask(path, (3, 4)), IDS)
    with Image.open(path) as image:
        assert image.mode == "P" and image.size == (4, 3)
        # Pillow drops unused entries only from the end.
        assert image.getpalette()[: 6 * 3] == mask_files.PALETTE[:6].ravel().tolist()
    assert os.listdir(tmp_path) == ["00000.png"]


def test_write_replaces_atomically(tmp_path, monkeypatch):
    path = tmp_path / "00000.png"
    mask_files.write_mask(path, IDS)

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        mask_files.write_mask(path, IDS * 0)
    np.testing.assert_array_equal(mask_files.read_mask(path), IDS)
    assert os.listdir(tmp_path) == ["00000.png"]


@pytest.mark.parametrize("ids", [IDS.astype(np.int32), IDS[None], np.zeros((0, 4), np.uint8)])
def test_write_refuses_what_is_no_uint8_plane(tmp_path, ids):
    with pytest.raises(ValueError, match="non-empty uint8"):
        mask_files.write_mask(tmp_path / "x.png", ids)


def test_indexed_with_any_palette(tmp_path):
    palette = np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes()
    path = save(tmp_path / "m.png", IDS, palette=palette)
    np.testing.assert_array_equal(mask_files.read_mask(path), IDS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_indexed_with_few_bits(tmp_path, bits):
    ids = IDS % 2**bits
    path = save(tmp_path / "m.png", ids, palette=mask_files.PALETTE.tobytes(), bits=bits)
    np.testing.assert_array_equal(mask_files.read_mask(path), ids)


@pytest.mark.parametrize("top", [1, 255])
def test_grey_binary_is_object_1(tmp_path, top):
    binary = (IDS > 0).astype(np.uint8)
    path = save(tmp_path / "m.png", binary * np.uint8(top))
    np.testing.assert_array_equal(mask_files.read_mask(path), binary)


def test_indexed_holding_only_0_and_255_is_binary(tmp_path):
    binary = (IDS > 0).astype(np.uint8)
    path = save(tmp_path / "m.png", binary * np.uint8(255), palette=mask_files.PALETTE.tobytes())
    np.testing.assert_array_equal(mask_files.read_mask(path), binary)


def test_mask_full_of_255_is_one_object_and_full_of_0_is_empty(tmp_path):
    assert mask_files.read_mask(save(tmp_path / "a.png", np.full((2, 3), 255, np.uint8))).min() == 1
    assert mask_files.read_mask(save(tmp_path / "b.png", np.zeros((2, 3), np.uint8))).max() == 0


@pytest.mark.parametrize("palette", [None, mask_files.PALETTE.tobytes()])
def test_void_255_beside_ids_is_background(tmp_path, palette):
    path = save(tmp_path / "m.png", np.where(IDS == 5, np.uint8(255), IDS), palette=palette)
    np.testing.assert_array_equal(mask_files.read_mask(path), np.where(IDS == 5, 0, IDS))


def test_grey_values_are_ids(tmp_path):
    np.testing.assert_array_equal(mask_files.read_mask(save(tmp_path / "m.png", IDS)), IDS)


@pytest.mark.parametrize(("bits", "row", "want"), [(1, b"\xa0", [1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3])])
def test_grey_with_few_bits_is_not_stretched(tmp_path, bits, row, want):
    path = raw_png(tmp_path / "m.png", len(want), 1, bits, 0, [row])
    np.testing.assert_array_equal(mask_files.read_mask(path), [want])


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("shade", [192, 191])  # DAVIS's own files write 191
def test_colours_of_the_palette(tmp_path, mode, shade):
    ids = np.array([[0, 1, 9], [13, 3, 255]], np.uint8)
    colours = mask_files.PALETTE[ids]
    colours = np.where(colours == 192, np.uint8(shade), colours)
    colours[1, 2] = mask_files.PALETTE[255]
    if mode == "RGBA":
        colours = np.concatenate([colours, np.full((2, 3, 1), 255, np.uint8)], -1)
    path = save(tmp_path / "m.png", colours)
    np.testing.assert_array_equal(mask_files.read_mask(path), [[0, 1, 9], [13, 3, 0]])


def test_black_and_white_rgb_is_binary_and_transparent_is_background(tmp_path):
    white = np.full((2, 2, 4), 255, np.uint8)
    white[0, 0] = 9, 9, 9, 0
    np.testing.assert_array_equal(mask_files.read_mask(save(tmp_path / "m.png", white)), [[0, 1], [1, 1]])
    np.testing.assert_array_equal(
        mask_files.read_mask(save(tmp_path / "g.png", white[..., 2:])), [[0, 1], [1, 1]]
    )


def test_returned_ids_can_be_changed(tmp_path):
    mask_files.read_mask(save(tmp_path / "m.png", IDS))[0, 0] = 7


def refuse(path, *words, size=None):
    with pytest.raises(errors.VosError) as caught:
        mask_files.read_mask(path, size)
    message = str(caught.value)
    assert message.count("\n") == 0
    for word in (str(path), *words):
        assert word in message, message


def test_unknown_colours_are_named(tmp_path):
    colours = mask_files.PALETTE[IDS].copy()
    colours[0, 1] = 37, 0, 0
    refuse(save(tmp_path / "m.png", colours), "1 colour", "(37,0,0)")


def test_white_among_palette_colours_is_unknown(tmp_path):
    colours = mask_files.PALETTE[IDS].copy()
    colours[0, 1] = 255
    refuse(save(tmp_path / "m.png", colours), "(255,255,255)")


def test_half_transparent_is_refused(tmp_path):
    colours = np.full((2, 2, 4), 255, np.uint8)
    colours[0, 0, 3] = 128
    refuse(save(tmp_path / "m.png", colours), "anti-aliased", "128")


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 255, 16),  # a soft edge with white
        np.arange(100),  # soft edges, no white
        [0, 127, 255],  # two objects painted in grey levels: 255 would vanish as void
    ],
)
def test_grey_levels_that_are_no_ids_are_refused(tmp_path, values):
    grey = np.asarray(values, np.uint8)[None]
    refuse(save(tmp_path / "m.png", grey), "anti-aliased", "0, ")


def test_grey_values_above_the_number_of_objects_are_no_ids(tmp_path):
    refuse(save(tmp_path / "m.png", np.array([[0, 50, 100, 150]], np.uint8)), "0, 50, 100, 150", "1, 2, ...")
    ids = np.array([[0, 50, 64]], np.uint8)
    np.testing.assert_array_equal(mask_files.read_mask(save(tmp_path / "i.png", ids)), ids)


def test_200_objects_are_refused(tmp_path):
    ids = np.arange(201, dtype=np.uint8).reshape(3, 67)
    refuse(save(tmp_path / "m.png", ids, palette=mask_files.PALETTE.tobytes()), "200 objects", "64")


def test_64_objects_are_read(tmp_path):
    ids = np.arange(65, dtype=np.uint8)[None]
    for name, options in (("p.png", {"palette": mask_files.PALETTE.tobytes()}), ("l.png", {})):
        np.testing.assert_array_equal(mask_files.read_mask(save(tmp_path / name, ids, **options)), ids)
    np.testing.assert_array_equal(
        mask_files.read_mask(save(tmp_path / "c.png", mask_files.PALETTE[ids])), ids
    )


def test_16_bit_is_refused(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(path)
    refuse(path, "16-bit")


def test_other_size_is_refused(tmp_path):
    refuse(save(tmp_path / "m.png", IDS), "4x3", "8x6", size=(6, 8))


@pytest.mark.parametrize("keep", [0, 5, 20, 60, -12, -30])
def test_truncated_file_is_refused(tmp_path, keep):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (40, 40), np.uint8)).save(whole, "PNG")
    path = tmp_path / "m.png"
    path.write_bytes(whole.getvalue()[:keep])
    with pytest.raises(errors.VosError, match="truncated|empty|damaged"):
        mask_files.read_mask(path)
    with pytest.raises(errors.VosError, match="truncated|empty"):
        mask_files.png_size(path)


def test_missing_file_and_other_formats_are_refused(tmp_path):
    refuse(tmp_path / "none.png", "No such file")
    jpeg = tmp_path / "m.png"
    Image.fromarray(IDS).save(jpeg, "JPEG")
    refuse(jpeg, "not a PNG")
    refuse(tmp_path, "directory")


@pytest.mark.parametrize("size", [(30_000, 10), (10_000, 10_000), (0, 4)])
def test_size_bomb_is_refused_from_the_header(tmp_path, size):
    path = raw_png(tmp_path / "m.png", *size, 8, 0, [b""])
    refuse(path, f"{size[0]}x{size[1]}")


def test_png_size_reads_header_and_end_only(tmp_path):
    path = tmp_path / "m.png"
    mask_files.write_mask(path, IDS)
    assert mask_files.png_size(path) == (3, 4)
    data = bytearray(path.read_bytes())
    data[45:60] = bytes(15)
    path.write_bytes(data)
    assert mask_files.png_size(path) == (3, 4)
