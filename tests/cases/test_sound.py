"""Cases A40 to A43: sound, and names of places, that cost the picture after all the work."""

import io
import logging
import os
import struct
import wave

import av
import numpy as np
import pytest

from tests.cases import films
from vos_jax import errors
from vos_jax.data import media
from vos_jax.visualize import exports, sound, video_writer

COUNT = 6


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "vos_jax")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(path, out="out", names=("overlay", "cutout_webm", "coco")):
    """Exports a film whose masks are all of its first object; returns the overlay's numbers of its parts."""
    os.makedirs(out, exist_ok=True)
    ids = (films.first_mask() > 0).astype(np.uint8)
    exports.export_video(names, media.open_media(path), lambda _: ids, media.pathlib.Path(out), lambda: None)
    for name in names:
        assert os.path.getsize(f"{out}/{exports.EXPORTS[name].path}") > 0
    with av.open(f"file:{out}/overlay.mp4") as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(f"file:{out}/overlay.mp4") as container:
        samples = 0
        if container.streams.audio:
            stream = container.streams.audio[0]
            samples = sum(piece.samples for piece in container.decode(stream)) / stream.rate
    return frames, samples


# ---------------------------------------------------------------- names
@pytest.mark.parametrize(
    "out",
    ["take:2", "http://x", "12:30:00", "a:b/c:d", "pipe:1", "file:x", "50%d", "caf\udce9", "-out", "a b'c"],
)
def test_a40_out_is_a_path_whatever_its_name(out):
    films.film("film.mp4", count=COUNT)
    assert export("film.mp4", out)[0] == COUNT
    with video_writer.VideoWriter(f"{out}/more.webm", rate=12) as writer:
        writer.write(np.zeros((8, 8, 4), np.uint8), media.fractions.Fraction(0))


# ---------------------------------------------------------------- layouts
def chan(path, tag, count):
    """Says in a mov's header that its channels lie in the order of a tag of CoreAudio."""
    data = bytearray(media.pathlib.Path(path).read_bytes())
    at = data.index(b"chan") + 8
    data[at : at + 8] = (tag << 16 | count).to_bytes(4, "big") + bytes(4)
    media.pathlib.Path(path).write_bytes(data)
    return path


ORDERS = {
    "MPEG_5_1_B": (122, "5.1"),
    "MPEG_5_1_C": (123, "5.1"),
    "MPEG_6_1_A": (125, "6.1"),
    "MPEG_5_0_C": (119, "5.0"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24le"])
def test_a41_channels_in_film_order_are_mixed_down(order, codec):
    tag, layout = ORDERS[order]
    count = av.AudioLayout(layout).nb_channels
    films.film("film.mov", streams="va", count=COUNT, sound=codec, layout=layout)
    frames, seconds = export(chan("film.mov", tag, count))
    assert frames == COUNT and seconds == pytest.approx(COUNT / 12, abs=0.1)


def test_a41_every_channel_is_heard_from_its_own_side():
    """A tone in the third channel of the order L C R Ls Rs LFE comes from the right."""
    films.film("film.mov", streams="va", count=COUNT, sound="pcm_s16le", layout="5.1")
    data = bytearray(media.pathlib.Path("film.mov").read_bytes())
    with av.open("film.mov") as container:
        found = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    for at, size in found:
        samples = np.frombuffer(bytes(data[at : at + size]), np.int16).reshape(-1, 6).copy()
        samples[:, [0, 1, 3, 4, 5]] = 0
        data[at : at + size] = samples.tobytes()
    media.pathlib.Path("film.mov").write_bytes(data)
    chan("film.mov", 123, 6)
    export("film.mov")
    with av.open("out/overlay.mp4") as container:
        pieces = [piece.to_ndarray() for piece in container.decode(audio=0)]
    left, right = np.abs(np.concatenate(pieces, axis=1)).mean(axis=1)
    assert right > 20 * left


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "quad", "5.1", "7.1"])
@pytest.mark.parametrize("codec", ["pcm_s16le", "flac", "aac"])
def test_usual_layouts_are_heard(layout, codec):
    kind = "mov" if codec == "pcm_s16le" else "mkv"
    films.film(f"film.{kind}", streams="va", count=COUNT, sound=codec, layout=layout)
    frames, seconds = export(f"film.{kind}")
    assert frames == COUNT and seconds == pytest.approx(COUNT / 12, abs=0.15)


def test_a41_channels_without_places():
    """A wav of ten channels, of which nobody says where they are: the first two are heard."""
    data = io.BytesIO()
    with wave.open(data, "wb") as out:
        out.setnchannels(10), out.setsampwidth(2), out.setframerate(48000)
        out.writeframes(struct.pack("<h", 3000) * 10 * 24000)
    data.seek(0)
    with av.open(data) as container:
        source = container.streams.audio[0]
        with video_writer.VideoWriter("film.mp4", rate=12, audio=source, size=films.SIZE) as writer:
            for index in range(COUNT):
                writer.write(films.picture(index), media.fractions.Fraction(index, 12))
            for packet in container.demux(source):
                if packet.dts is not None:
                    writer.add_sound(packet)
    with av.open("film.mp4") as container:
        assert sum(piece.samples for piece in container.decode(audio=0)) == pytest.approx(24000, abs=3000)


# ---------------------------------------------------------------- rates
@pytest.mark.parametrize("hertz", [192_000, 176_400, 96_000, 37_800, 22_050, 8000, 5000, 1000])
def test_a42_sound_of_any_rate_is_resampled(hertz):
    films.film("film.mov", streams="va", count=COUNT, sound="pcm_s16le", hertz=hertz)
    frames, seconds = export("film.mov")
    assert frames == COUNT and seconds == pytest.approx(COUNT / 12, abs=0.15)


@pytest.mark.parametrize("sound_codec", ["mp2", "ac3", "pcm_u8", "pcm_f32le", "libmp3lame"])
def test_a42_sound_of_any_codec_is_copied_or_encoded_anew(sound_codec):
    films.film(
        "film.mkv", "mpeg4", streams="va", count=COUNT, sound=sound_codec, layout="stereo", hertz=44100
    )
    frames, seconds = export("film.mkv")
    assert frames == COUNT and seconds == pytest.approx(COUNT / 12, abs=0.2)


# ---------------------------------------------------------------- sound that cannot be decoded
def unknown(path, before=b"ulaw", name=b"apac"):
    data = media.pathlib.Path(path).read_bytes()
    assert data.count(before) == 1
    media.pathlib.Path(path).write_bytes(data.replace(before, name))
    return path


@pytest.mark.parametrize("name", [b"apac", b"ac-4", b"enca", b"zzzz"])
def test_a43_sound_without_a_decoder_is_left_out_with_a_word(name, caplog):
    films.film("film.mov", streams="va", count=COUNT, sound="pcm_mulaw", hertz=8000)
    assert export(unknown("film.mov", name=name)) == (COUNT, 0)
    assert "sound" in caplog.text and "left out" in caplog.text and len(caplog.records) == 1


def test_a43_another_sound_is_taken():
    with av.open("film.mov", "w") as container:
        video = container.add_stream("libx264", rate=12)
        video.height, video.width, video.pix_fmt = *films.SIZE, "yuv420p"
        streams = [
            container.add_stream(codec, rate=8000, layout="mono") for codec in ("pcm_mulaw", "pcm_s16le")
        ]
        for i in range(COUNT):
            container.mux(video.encode(av.VideoFrame.from_ndarray(films.picture(i), format="rgb24")))
        container.mux(video.encode())
        for stream in streams:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), "s16", "mono")
            tone.sample_rate, tone.pts = 8000, 0
            container.mux(stream.encode(tone)), container.mux(stream.encode())
    frames, seconds = export(unknown("film.mov"))
    assert frames == COUNT and seconds == pytest.approx(0.5, abs=0.2)


def test_a43_damaged_sound_becomes_a_gap():
    films.film("film.mkv", streams="va", count=COUNT, sound="mp2", hertz=48000)
    with av.open("film.mkv") as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    data = media.pathlib.Path("film.mkv").read_bytes()
    for packet in packets[3:6]:
        data = data.replace(packet, b"\xff" * len(packet))
    media.pathlib.Path("film.mkv").write_bytes(data)
    assert export("film.mkv")[0] == COUNT


def test_a43_a_copy_that_the_container_refuses_is_encoded_anew(monkeypatch):
    films.film("film.mkv", streams="va", count=COUNT)
    monkeypatch.setattr(sound, "_can_be_copied", lambda _: False)
    frames, seconds = export("film.mkv")
    assert frames == COUNT and seconds == pytest.approx(0.5, abs=0.1)


def test_a30_the_overlay_of_joined_recordings_has_all_of_their_sound():
    data = b""
    for number in (0, 1):
        films.film(f"{number}.ts", streams="va", start=6 * number, count=6, b_frames=0, sound="mp2")
        data += media.pathlib.Path(f"{number}.ts").read_bytes()
    media.pathlib.Path("film.ts").write_bytes(data)
    frames, seconds = export("film.ts")
    assert frames == 12 and seconds == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------- one export that fails
@pytest.mark.parametrize("failing", ["overlay", "cutout_webm", "coco"])
@pytest.mark.parametrize("when", ["write", "close"])
def test_a42_an_export_that_fails_does_not_cost_the_others(monkeypatch, failing, when):
    films.film("film.mp4", count=COUNT)

    def full(*_):
        raise OSError(28, "No space left on device")

    kind = {"overlay": exports.Overlay, "cutout_webm": exports.CutoutVideo, "coco": exports.RunLengths}[
        failing
    ]
    close = kind.__exit__

    def full_at_the_end(self, *_):
        close(self, OSError, None, None)
        full()

    patch = ("add", full) if when == "write" else ("__exit__", full_at_the_end)
    monkeypatch.setattr(kind, *patch)
    name = exports.EXPORTS[failing].path
    with pytest.raises(errors.VosError, match=f"^out/{name}: cannot write: No space left") as caught:
        export("film.mp4")
    others = {export.path for export in exports.EXPORTS.values()} - {name, "cutout"}
    assert all(os.path.getsize(f"out/{other}") for other in others)
    assert not any(other in str(caught.value) for other in others)
