"""Cases A20, A21, A25, A26, A29, A30, B14 and B30: frames of films that were lost or wrong."""

import logging
import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.cases import films
from vos_jax import errors
from vos_jax.data import film_clock, media


def read(path):
    """The frames, their times in seconds, and the packets of sound."""
    with media.open_media(path).open() as reader:
        items = list(reader)
    frames = [item for item in items if isinstance(item, media.Frame)]
    return (
        [frame.image for frame in frames],
        [float(frame.time) for frame in frames],
        [item for item in items if isinstance(item, av.Packet)],
    )


def check(path, count=12, start=0, size=films.SIZE, order=None):
    """Checks number, order, size and content of the frames."""
    images, times, _ = read(path)
    assert len(images) == count == media.open_media(path).num_frames
    assert all(b > a for a, b in zip(times, times[1:], strict=False))
    for i, image in enumerate(images):
        wanted = films.picture(start + (i if order is None else order[i]), size)
        assert image.shape == wanted.shape
        assert np.abs(image.astype(int) - wanted).mean() < 12, i
    assert len(list(media.open_media(path).frames(count - 2))) == 2
    return times


# ---------------------------------------------------------------- order and choice of streams
@pytest.mark.parametrize("streams", ["va", "av", "avs", "asv"])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a20_frames_where_the_picture_is_not_stream_0(tmp_path, streams, kind):
    if kind == "mp4":
        streams = streams.replace("s", "")
    check(films.film(tmp_path / f"film.{kind}", streams=streams))


@pytest.mark.parametrize(
    ("kind", "codec", "sound"), [("webm", "libvpx-vp9", "libopus"), ("ts", "libx264", "mp2")]
)
def test_a20_sound_first_in_other_containers(tmp_path, kind, codec, sound):
    check(films.film(tmp_path / f"film.{kind}", codec, streams="av", sound=sound))


@pytest.mark.parametrize("streams", ["sv", "vs", "sav", "sva"])
def test_a21_subtitles_first(tmp_path, streams):
    check(films.film(tmp_path / "film.mkv", streams=streams))


@pytest.mark.parametrize("streams", ["pv", "vp", "apv", "spv", "pav"])
def test_a29_the_default_stream_is_read_and_named(tmp_path, streams, caplog):
    path = films.film(tmp_path / "film.mkv", "mpeg4", streams=streams, count=8)
    check(path, 8)
    at = streams.index("v")
    assert "holds 2 pictures" in caplog.text and f"number {at} is read" in caplog.text
    assert f"{at}: 96x64" in caplog.text


def test_a29_a_preview_without_frames_is_not_taken(tmp_path):
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        empty, full = (container.add_stream("mpeg4", rate=12) for _ in range(2))
        for stream, width in ((empty, 192), (full, 96)):
            stream.width, stream.height, stream.pix_fmt = width, width * 2 // 3, "yuv420p"
        for i in range(4):
            container.mux(full.encode(av.VideoFrame.from_ndarray(films.picture(i), format="rgb24")))
        container.mux(full.encode())
    check(tmp_path / "film.mkv", 4)


# ---------------------------------------------------------------- cut short
CUT = [
    ("mkv", "libx264"),
    ("webm", "libvpx-vp9"),
    ("flv", "libx264"),
    ("mkv", "mpeg4"),
    ("avi", "mpeg4"),
    ("mkv", "mjpeg"),
    ("mkv", "ffv1"),
    ("mp4", "libx264"),
    ("mov", "mpeg4"),
]


@pytest.mark.parametrize("share", [0.6, 0.85])
@pytest.mark.parametrize(("kind", "codec"), CUT)
def test_a25_a_film_cut_short_is_read_to_its_end_with_a_word(tmp_path, caplog, kind, codec, share):
    path = tmp_path / f"film.{kind}"
    films.film(path, codec, gop=4, b_frames=0, pixels="yuvj420p" if codec == "mjpeg" else "yuv420p", noise=40)
    if kind in ("mp4", "mov"):
        _header_first(path)
    films.cut(path, share)
    try:
        images, times, _ = read(path)
    except errors.VosError as error:  # cut inside of the header or of the first frame
        assert share == 0.6 and str(error).startswith(str(path))
        return
    assert 1 <= len(images) < 12 and times == sorted(times)
    assert any(word in caplog.text for word in ("cut short", "damaged", "cannot decode its last")), (
        caplog.text
    )


def _header_first(path):
    """Moves the header of an mp4 before the pictures, as films for the web have it."""
    with av.open(str(path)) as source:
        kept = path.with_name(f"kept{path.suffix}")
        with av.open(str(kept), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    kept.replace(path)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi", "ts", "flv", "mov", "gif"])
@pytest.mark.parametrize("streams", ["v", "va"])
def test_a25_whole_films_are_said_to_be_nothing_else(tmp_path, caplog, kind, streams):
    codec = {"webm": "libvpx-vp9", "gif": "gif"}.get(kind, "libx264")
    if kind == "gif" and streams == "va":
        pytest.skip("a GIF has no sound")
    sound = "libopus" if kind == "webm" else "aac"
    films.film(
        tmp_path / f"film.{kind}",
        codec,
        streams=streams,
        sound=sound,
        pixels="rgb8" if kind == "gif" else "yuv420p",
    )
    read(tmp_path / f"film.{kind}")
    assert not caplog.records, caplog.text


def test_a25_sound_that_is_longer_than_the_picture_is_no_cut(tmp_path, caplog):
    """The header's duration is the sound's."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono")
        for i in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(films.picture(i), format="rgb24")))
        container.mux(stream.encode())
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 144_000), np.int16), "s16", "mono")
        tone.sample_rate, tone.pts = 48000, 0
        container.mux(audio.encode(tone))
        container.mux(audio.encode())
    check(path, 4)
    assert not caplog.records, caplog.text


def test_a25_a_mask_behind_the_cut_is_refused_before_work(tmp_path):
    path = films.cut(films.film(tmp_path / "film.mkv", "libx264", gop=4, b_frames=0), 0.6)
    assert media.open_media(path).max_frames < 12


# ---------------------------------------------------------------- damage
@pytest.mark.parametrize(
    ("kind", "codec", "settings"),
    [
        ("mp4", "libx264", {}),
        ("mkv", "libx264", {"b_frames": 0}),
        ("ts", "libx264", {"b_frames": 0}),
        ("avi", "mpeg4", {}),
        ("mov", "mjpeg", {"pixels": "yuvj420p"}),
    ],
)
def test_a26_damaged_frames_are_named(tmp_path, caplog, kind, codec, settings):
    path = films.film(tmp_path / f"film.{kind}", codec, noise=40, **settings)
    if kind == "ts":
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
        path.write_bytes(data)
    else:
        films.spoil(path, 3, value=255)
    images, _, _ = read(path)
    assert len(images) >= 11
    assert "damaged" in caplog.text or "decode" in caplog.text, caplog.text


def test_a26_the_first_damaged_frame_is_the_one_named(tmp_path, caplog):
    path = films.spoil(films.film(tmp_path / "film.mp4", b_frames=0, noise=40), 5, value=255)
    read(path)
    assert "frame 5" in caplog.text and "frames from 5 on" in caplog.text


@pytest.mark.parametrize("number", [3, 7, 11])
@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "mpeg4"), ("mov", "png"), ("mp4", "libvpx-vp9"), ("mkv", "ffv1")]
)
def test_b30_a_frame_that_cannot_be_decoded_shows_the_one_before(tmp_path, caplog, kind, codec, number):
    """Numbers and times of later frames stay."""
    pixels = "rgb24" if codec == "png" else "yuv420p"
    path = films.film(tmp_path / f"film.{kind}", codec, gop=1, pixels=pixels, noise=40)
    whole = read(path)[0]
    films.spoil(path, number, share=0, value=255)
    images, times, _ = read(path)
    assert len(images) in (12, number), len(images)  # a lost end is no gap
    if len(images) == 12:
        assert times == pytest.approx([i / 12 for i in range(12)], abs=2e-3)
        np.testing.assert_array_equal(
            images[-1] if number < 11 else images[0], whole[-1] if number < 11 else whole[0]
        )
    assert "film" in caplog.text


def test_a_film_without_one_frame_that_can_be_decoded_is_refused(tmp_path):
    path = films.film(tmp_path / "film.mov", "png", pixels="rgb24", count=3)
    for number in range(3):
        films.spoil(path, number, share=0, value=255)
    with pytest.raises(errors.VosError, match="frame 0 cannot be decoded"):
        media.open_media(path)


# ---------------------------------------------------------------- joined recordings
def joined(path, *parts, **settings):
    data = b""
    for number, (start, count) in enumerate(parts):
        part = path.with_name(f"part{number}{path.suffix}")
        data += pathlib.Path(films.film(part, start=start, count=count, b_frames=0, **settings)).read_bytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "parts", [[(0, 6), (6, 6)], [(0, 4), (4, 4), (8, 4)], [(0, 3), (3, 9)], [(0, 11), (11, 1)]]
)
def test_a30_joined_recordings_go_on_at_the_films_rate(tmp_path, parts, caplog):
    times = check(joined(tmp_path / "film.ts", *parts))
    assert times == pytest.approx([times[0] + i / 12 for i in range(12)], abs=1e-3)
    assert not caplog.records, caplog.text


def test_a30_the_sound_of_joined_recordings_goes_on(tmp_path):
    path = joined(tmp_path / "film.ts", (0, 6), (6, 6), streams="va", sound="mp2")
    times = check(path)
    assert times == pytest.approx([times[0] + i / 12 for i in range(12)], abs=0.05)
    sound = [float(packet.dts * packet.time_base) for packet in read(path)[2]]
    assert sound == sorted(sound) and sound[-1] - sound[0] == pytest.approx(1, abs=0.1)


def test_a30_other_mpeg_streams(tmp_path):
    times = check(joined(tmp_path / "film.mpg", (0, 6), (6, 6), codec="mpeg2video", rate=25))
    assert times == pytest.approx([times[0] + i / 25 for i in range(12)], abs=1e-3)


def test_a30_clock():
    def times(given, **settings):
        clock = film_clock.Clock(Fraction(1, 10), Fraction(1, 1000), **settings)
        return [round(float(clock(None if t is None else Fraction(t))), 4) for t in given]

    assert times([0, 0.1, 0.2, 0, 0.1], jumps=False) == [0, 0.1, 0.2, 0.3, 0.4]
    assert times([0, 0.1, 3600, 3600.1], jumps=True) == [0, 0.1, 0.2, 0.3]
    assert times([0, 0.1, 3600], jumps=False) == [0, 0.1, 3600]  # a pause of an hour
    assert times([5, 5, 5.1], jumps=False) == [5, 5.001, 5.1]  # one time twice
    assert times([None, None, 0.25], jumps=False) == [0, 0.1, 0.25]
    assert times([9, 9.1, 0, 0.1, 0, 0.1], jumps=True) == [9, 9.1, 9.2, 9.3, 9.4, 9.5]


# ---------------------------------------------------------------- turned and mirrored
MATRICES = {  # the picture as shown, from the stored one
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: image.swapaxes(0, 1)[::-1, ::-1],
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_b14_a_film_is_turned_and_mirrored_as_its_header_says(tmp_path, matrix):
    path = films.film(tmp_path / "film.mp4", count=3)
    stored = read(path)[0]
    films.set_matrix(path, *matrix)
    for before, after in zip(stored, read(path)[0], strict=True):
        np.testing.assert_array_equal(after, MATRICES[matrix](before))


@pytest.fixture(autouse=True)
def warnings_only(caplog):
    caplog.set_level(logging.WARNING, "vos_jax")
