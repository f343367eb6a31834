"""Films drawn in tests: any container, codec and order of streams, pictures that tell frames apart."""

import fractions
import io
import os

import av
import cv2
import numpy as np
from av.stream import Disposition

SIZE = (64, 96)


def picture(index, size=SIZE, noise=0):
    """A red circle that moves to the right; the bars at the upper left say which way is up."""
    height, width = size
    image = np.full((height, width, 3), (40, 90, 40), np.uint8)
    if noise:
        image += np.random.default_rng(index).integers(0, noise, image.shape, np.uint8)
    image[: height // 8, : width // 3] = 250
    return cv2.circle(image, (width // 6 + width * index // 20, height // 2), height // 6, (220, 60, 60), -1)


def first_mask(size=SIZE):
    height, width = size
    return cv2.circle(np.zeros(size, np.uint8), (width // 6, height // 2), height // 6, 255, -1)


def film(
    path,
    codec="libx264",
    *,
    streams="v",
    count=12,
    rate=12,
    size=SIZE,
    pixels="yuv420p",
    start=0,
    sound="aac",
    hertz=48000,
    layout="mono",
    **settings,
):
    """Writes a film.

    Args:
      path: its suffix is the container, unless `format` is in `settings`.
      codec: of the picture.
      streams: their order: v the film, p a preview of half its size, a sound, s subtitles.
      count: number of frames.
      rate: frames per second.
      size: (height, width).
      pixels: pixel format.
      start: number of the first picture that is drawn.
      sound: codec of the sound.
      hertz: its sample rate.
      layout: its channels.
      **settings: gop, b_frames, options, format, noise (which makes packets large).
    """
    with av.open(str(path), "w", format=settings.get("format")) as container:
        made = {
            kind: _stream(container, kind, codec, rate, size, pixels, sound, hertz, layout, settings)
            for kind in streams
        }
        if "p" in made:
            made["p"].disposition, made["v"].disposition = Disposition(0), Disposition.default
        for kind in "vp":
            if kind not in made:
                continue
            for i in range(count):
                image = cv2.resize(
                    picture(start + i, size, settings.get("noise", 0)), (made[kind].width, made[kind].height)
                )
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = i, 1 / fractions.Fraction(rate)
                container.mux(made[kind].encode(frame))
            container.mux(made[kind].encode())
        if "a" in made:
            channels = av.AudioLayout(layout).nb_channels
            samples = round(hertz * count / rate)
            wave = np.repeat((8000 * np.sin(np.arange(samples) / 20)).astype(np.int16), channels)[None]
            tone = av.AudioFrame.from_ndarray(wave, "s16", layout)
            tone.sample_rate, tone.pts, tone.time_base = hertz, 0, fractions.Fraction(1, hertz)
            container.mux(made["a"].encode(tone))
            container.mux(made["a"].encode())
        if "s" in made:
            with _subtitles() as text:
                for packet in text.demux():
                    if packet.dts is not None:
                        packet.stream = made["s"]
                        container.mux(packet)
    return path


def _stream(container, kind, codec, rate, size, pixels, sound, hertz, layout, settings):
    if kind == "a":
        return container.add_stream(sound, rate=hertz, layout=layout)
    if kind == "s":
        with _subtitles() as text:
            return container.add_stream_from_template(text.streams.subtitles[0])
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = (side // 2 if kind == "p" else side for side in size)
    stream.pix_fmt = pixels
    if "gop" in settings:
        stream.codec_context.gop_size = settings["gop"]
    if "b_frames" in settings:
        stream.codec_context.max_b_frames = settings["b_frames"]
    stream.options = {"threads": "1", **settings.get("options", {})}
    return stream


def _subtitles():
    return av.open(io.BytesIO(b"1\n00:00:00,000 --> 00:00:00,500\nhello\n\n"), format="srt")


def cut(path, share):
    """Drops the end of a file, as a copy that broke off."""
    os.truncate(path, int(share * os.path.getsize(path)))
    return path


def spoil(path, number, share=1 / 3, value=0):
    """Overwrites the end of a packet of the picture, as a bad sector does."""
    with av.open(str(path)) as container:
        packet = bytes([packet for packet in container.demux(video=0) if packet.size][number])
    data = path.read_bytes()
    assert data.count(packet) == 1
    start = data.index(packet) + int(len(packet) * share)
    end = data.index(packet) + len(packet) - 2
    path.write_bytes(data[:start] + bytes([value]) * (end - start) + data[end:])
    return path


def set_matrix(path, a, b, c, d):
    """Writes a display matrix into an mp4's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    for i, value in enumerate((a, b, 0, c, d, 0, 0, 0)):
        data[at + 4 * i : at + 4 * i + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path
