"""Frames of films of every kind, compared with the output of ffmpeg: number and pictures."""

import itertools
import shutil
import subprocess

import av
import numpy as np
import pytest

from tests.cases import films
from tests.cases.test_films import MATRICES
from vos_jax import errors
from vos_jax.data import media

KINDS = {
    "mp4": ("libx264", "mpeg4", "libvpx-vp9", "libx265", "libsvtav1"),
    "mov": ("libx264", "mjpeg", "png", "prores_ks", "qtrle"),
    "mkv": ("libx264", "mpeg4", "mjpeg", "ffv1", "libvpx", "libvpx-vp9", "mpeg2video"),
    "webm": ("libvpx", "libvpx-vp9"),
    "avi": ("mpeg4", "mjpeg", "rawvideo", "ffv1", "libx264", "huffyuv"),
    "ts": ("libx264", "mpeg2video"),
    "flv": ("libx264", "flv"),
    "mpg": ("mpeg2video", "mpeg1video"),
    "nut": ("ffv1", "mpeg4"),
    "gif": ("gif",),
}
"""Container -> codecs."""

PIXELS = {
    **{"mjpeg": "yuvj420p", "png": "rgb24", "qtrle": "rgb24", "rawvideo": "bgr24", "gif": "rgb8"},
    **{"prores_ks": "yuv422p10le", "huffyuv": "yuv422p"},
}
RATES = {"mpeg2video": 25, "mpeg1video": 25, "gif": 10}
STREAMS = ("v", "va", "av", "sav", "pv")
CUTS = (1, 0.9, 0.6)
TURNED = ("mp4", "mov")


def combinations():
    """Yields (container, codec, streams, matrix, share that is left of the file)."""
    for kind, codecs in KINDS.items():
        for codec, streams, share in itertools.product(codecs, STREAMS, CUTS):
            silent = kind in ("gif",) and streams != "v"
            if not silent and ("s" not in streams or kind == "mkv") and ("p" not in streams or kind == "mkv"):
                yield kind, codec, streams, (1, 0, 0, 1), share
        if kind in TURNED:
            for codec, matrix in itertools.product(codecs, MATRICES):
                yield kind, codec, "av", matrix, 1


ALL = list(combinations())
FAST = [
    ("mp4", "libx264", "av", (0, 1, -1, 0), 1),
    ("mov", "mjpeg", "av", (-1, 0, 0, 1), 1),
    ("mkv", "libx264", "sav", (1, 0, 0, 1), 0.6),
    ("mkv", "libx264", "pv", (1, 0, 0, 1), 1),
    ("webm", "libvpx", "av", (1, 0, 0, 1), 1),
    ("ts", "mpeg2video", "va", (1, 0, 0, 1), 0.9),
    ("avi", "mpeg4", "v", (1, 0, 0, 1), 0.9),
]


def reference(path):
    """The frames as ffmpeg shows them."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("needs the program ffmpeg, which is not on this machine")
    order = ("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    found = subprocess.run(
        [program, "-v", "quiet", "-i", str(path), "-an", "-sn", *order], capture_output=True
    )
    return found.stdout


def compare(path, kind, codec, streams, matrix, share):
    """Returns the number of frames; they are those of ffmpeg."""
    sound = {"webm": "libopus", "ts": "mp2", "mpg": "mp2", "flv": "aac"}.get(kind, "aac")
    try:
        films.film(
            path,
            codec,
            streams=streams,
            pixels=PIXELS.get(codec, "yuv420p"),
            rate=RATES.get(codec, 12),
            sound=sound,
        )
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV has no encoder {codec}")
    if matrix != (1, 0, 0, 1):
        films.set_matrix(path, *matrix)
    if share < 1:
        films.cut(path, share)
    shown = reference(path)
    try:
        frames = list(media.open_media(path).frames())
    except errors.VosError as error:
        assert not shown, f"refused ({error}), but ffmpeg shows it"
        return 0
    assert len(frames) * frames[0].size == len(shown), (len(frames), len(shown) / frames[0].size)
    wanted = np.frombuffer(shown, np.uint8).reshape(len(frames), *frames[0].shape)
    for index, frame in enumerate(frames):
        difference = np.abs(frame.astype(int) - wanted[index])
        assert difference.mean() < 2 and np.percentile(difference, 99) <= 16, (index, difference.mean())
    return len(frames)


@pytest.mark.parametrize(("kind", "codec", "streams", "matrix", "share"), FAST)
def test_frames_are_those_of_ffmpeg(tmp_path, kind, codec, streams, matrix, share):
    count = compare(tmp_path / f"film.{kind}", kind, codec, streams, matrix, share)
    assert count == 12 or share < 1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "codec", "streams", "matrix", "share"), ALL)
def test_frames_of_every_film_are_those_of_ffmpeg(tmp_path, kind, codec, streams, matrix, share):
    compare(tmp_path / f"film.{kind}", kind, codec, streams, matrix, share)
