"""Small video files of every kind, for tests."""

import fractions

import av
import numpy as np


def write(
    path,
    frames,
    *,
    codec="libx264",
    pixels="yuv420p",
    times=None,
    base=1200,
    sound=None,
    aspect=1,
    lasts=None,
):
    """Writes frames at `times` (in 1/`base` s), pixels `aspect` times as wide as high, maybe with a tone.

    `lasts`: how long each frame is shown (in 1/`base` s), as long as the encoder says by default.
    """
    base = fractions.Fraction(1, base)
    times = times or [100 * i for i in range(len(frames))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = base
        stream.codec_context.sample_aspect_ratio = fractions.Fraction(aspect)
        if codec in ("libx264", "mpeg4"):
            stream.options = {"crf": "8"}
        hertz = 48_000  # what every codec here takes
        audio = container.add_stream(sound, rate=hertz, layout="mono") if sound else None
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.time_base, picture.pts = base, time
            container.mux(_lasting(stream.encode(picture), lasts))
        if audio:
            wave = (8000 * np.sin(0.05 * np.arange(hertz * len(frames) // 12))).astype(np.int16)
            tone = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = hertz, 0, fractions.Fraction(1, hertz)
            container.mux(audio.encode(tone))
            container.mux(audio.encode())
        container.mux(_lasting(stream.encode(), lasts))
    return path


def _lasting(found, lasts):
    for packet in found:
        packet.duration = packet.duration if lasts is None else lasts
    return found


def turn(path):
    """Writes "show me turned by 90 degrees clockwise" into an mp4's track header, as telephones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    for i, value in enumerate((0, one, 0, -one, 0, 0, 0, 0, 1 << 30)):
        data[at + 4 * i : at + 4 * i + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def packets(path, kind):
    """(time in seconds, bytes) of every packet of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = container.streams.get(**{kind: 0})[0]
        found = [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.pts is not None]
    return sorted(found)
