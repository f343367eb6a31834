"""Overlays, videos and contact sheets."""

import fractions

import av
import numpy as np
import pytest
from PIL import Image

from vos_jax.data import mask_files, media
from vos_jax.errors import VosError
from vos_jax.visualize import exports, overlay


def _example(height=40, width=60):
    frame = np.full((height, width, 3), 100, np.uint8)
    ids = np.zeros((height, width), np.uint8)
    ids[10:30, 10:30], ids[10:30, 30:50] = 1, 2
    return frame, ids


def test_background_stays_objects_are_tinted_edges_have_the_full_colour():
    frame, ids = _example()
    out = overlay.overlay(frame, ids, 0.5)
    np.testing.assert_array_equal(out[ids == 0], frame[ids == 0])
    # Palette colour of object 1 is (128, 0, 0): half of it and half of 100.
    assert out[20, 20].tolist() == [114, 50, 50]
    for row, column in ((10, 20), (20, 10), (20, 29), (29, 20)):
        assert out[row, column].tolist() == mask_files.PALETTE[1].tolist()
    assert out[20, 30].tolist() == mask_files.PALETTE[2].tolist()


def test_alpha_is_the_share_of_the_tint():
    frame, ids = _example()
    assert overlay.overlay(frame, ids, 0.0)[20, 20].tolist() == [100] * 3
    assert overlay.overlay(frame, ids, 1.0)[20, 20].tolist() == mask_files.PALETTE[1].tolist()


def test_object_on_the_frame_border_has_no_outline_there():
    frame, ids = _example()
    ids[:] = 1
    assert overlay.overlay(frame, ids)[0, 0].tolist() == [114, 50, 50]


def test_mask_of_another_size_is_refused():
    frame, ids = _example()
    with pytest.raises(VosError, match="mask"):
        overlay.overlay(frame, ids[1:])


@pytest.mark.parametrize("size", [(40, 60), (41, 61)])
def test_video_round_trip(tmp_path, size):
    frame, _ = _example(*size)
    frames = [np.full_like(frame, level) for level in (20, 120, 220)]
    path = overlay.write_video(tmp_path / "new" / "clip.mp4", iter(frames), fps=12)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 12
        decoded = [picture.to_ndarray(format="rgb24") for picture in container.decode(stream)]
    assert len(decoded) == 3
    for picture, level in zip(decoded, (20, 120, 220), strict=True):
        assert picture.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
        assert abs(picture.mean() - level) < 6
    assert [item.name for item in path.parent.iterdir()] == ["clip.mp4"]


def test_failed_video_leaves_nothing(tmp_path):
    frame, _ = _example()
    with pytest.raises(VosError, match="follows"):
        overlay.write_video(tmp_path / "clip.mp4", [frame, frame[2:]])
    with pytest.raises(VosError, match="no frames"):
        overlay.write_video(tmp_path / "clip.mp4", [])
    assert not list(tmp_path.iterdir())


def test_contact_sheet_reads_row_by_row_and_keeps_proportions():
    colours = [np.full((40, 60, 3), level, np.uint8) for level in (10, 50, 90, 130)]
    colours[3] = np.full((40, 20, 3), 130, np.uint8)
    sheet = overlay.contact_sheet(colours, columns=3, width=306, gap=6)
    assert sheet.shape == (6 + 2 * (63 + 6), 306, 3)
    assert [int(sheet[37, column, 0]) for column in (50, 150, 250)] == [10, 50, 90]
    assert sheet[37 + 69, 50, 0] == 130 and sheet[37 + 69, 10, 0] == 255 and sheet[37 + 69, 150, 0] == 255
    with pytest.raises(VosError):
        overlay.contact_sheet([])


def test_picked_frames_are_spread_and_hold_both_ends():
    assert overlay.evenly_spaced(24, shown=6) == [0, 5, 9, 14, 18, 23]
    assert overlay.evenly_spaced(3, shown=6) == [0, 1, 2] and overlay.evenly_spaced(1) == [0]


def test_a_cut_out_that_lost_its_end_is_made_anew(tmp_path):
    """A power cut leaves empty files; those that are whole are not drawn twice."""
    frame, ids = _example()
    shown = media.Frame(frame, fractions.Fraction(0))
    (tmp_path / "video").mkdir()
    Image.fromarray(frame).save(tmp_path / "video/0.png")
    video = media.open_media(tmp_path / "video")
    with video.open() as reader, exports.CutoutImages(tmp_path, video, reader) as cutouts:
        cutouts.add("0", shown, ids)
        whole = (tmp_path / "0.png").read_bytes()
        (tmp_path / "0.png").write_bytes(whole[:-5])
        cutouts.add("0", shown, ids)
        assert (tmp_path / "0.png").read_bytes() == whole
        cutouts.add("0", media.Frame(frame * 0, fractions.Fraction(0)), ids)
        assert (tmp_path / "0.png").read_bytes() == whole
