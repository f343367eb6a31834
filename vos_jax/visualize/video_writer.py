"""Writer of video files, frame by frame at the frames' times: H.264 in mp4, VP9 with alpha in webm."""

import fractions
import os
import pathlib
from typing import Any

import av
import av.codec.codec
import av.error
import numpy as np

from vos_jax import errors, files
from vos_jax.typing import UInt8
from vos_jax.visualize import sound

_CODECS = {
    # Every player supports yuv420p.
    ".mp4": ("libx264", "yuv420p", {"crf": "20", "preset": "veryfast"}),
    # VP9 supports alpha only without alternate reference frames.
    ".webm": (
        "libvpx-vp9",
        "yuva420p",
        {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"},
    ),
}


def check_codec(suffix: str) -> None:
    """Raises VosError if this installation cannot write such files (".mp4", ".webm")."""
    name = _CODECS[suffix][0]
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise errors.VosError(
            f"cannot write {suffix}: this installation of PyAV has no encoder {name}; "
            "`pip install --force-reinstall av` brings one"
        ) from error


class VideoWriter:
    """Writes a video file, which appears under its name when it is complete.

    Odd sizes get one more row or column, copied from the border.

    Args:
      path: ends in .mp4 (RGB frames) or .webm (RGBA frames).
      rate: average number of frames per second.
      time_base: unit of the frames' times, in seconds. Default: the duration of a frame.
      aspect: width of a pixel divided by its height.
      audio: the stream of the packets for `add_sound`.
      size: (height, width) of the frames; needed if sound comes before the first frame.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        rate: fractions.Fraction | int,
        time_base: fractions.Fraction | None = None,
        aspect: fractions.Fraction | int = 1,
        audio: av.AudioStream | None = None,
        size: tuple[int, int] | None = None,
    ):
        self.path = pathlib.Path(path)
        self._temporary = files.temporary_name(self.path)
        self.rate = fractions.Fraction(rate)
        self._time_base = time_base or 1 / self.rate
        self._aspect, self._source = fractions.Fraction(aspect), audio
        self._size: tuple[int, int] | None = None
        self._num_frames = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._sound: sound.Sound | None = None
        # "file:" lest a name with a colon is taken for a network address.
        self._container = av.open(f"file:{self._temporary}", "w", format=self.path.suffix[1:])
        if size is not None:
            self._begin(size)

    def write(self, image: UInt8[np.ndarray, "H W C"], time: fractions.Fraction) -> None:
        """Adds a frame that is shown from `time` (seconds) on; VosError if its size is another."""
        if self._size is None:
            self._begin(image.shape[:2])
        if image.shape[:2] != self._size:
            raise errors.VosError(f"{self.path}: a frame of {image.shape[:2]} follows frames of {self._size}")
        height, width = image.shape[:2]
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24")
        frame.time_base, frame.pts = self._time_base, round(time / self._time_base)
        self._container.mux(self._stream.encode(frame))
        self._num_frames += 1

    def add_sound(self, packet: av.Packet) -> None:
        """Adds a packet of the sound; raises OSError if the disk is full."""
        if self._sound is not None:
            self._sound.add(packet)

    def close(self) -> None:
        """Completes the file; VosError if it has no frames."""
        if self._num_frames == 0:
            raise errors.VosError(f"{self.path}: no frames to write")
        self._container.mux(self._stream.encode())
        if self._sound is not None:
            self._sound.close()
        self._container.close()
        files.commit(self._temporary, self.path)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._discard()

    def _begin(self, size: tuple[int, int]) -> None:
        codec, pixels, options = _CODECS[self.path.suffix]
        self._size = size
        stream = self._container.add_stream(codec, rate=self.rate.limit_denominator(1001))
        assert isinstance(stream, av.VideoStream)  # `_CODECS` has video codecs only
        self._stream = stream
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = pixels
        self._stream.options = dict(options)
        self._stream.codec_context.sample_aspect_ratio = self._aspect
        self._stream.codec_context.time_base = self._stream.time_base = self._time_base
        if self._source is not None:
            self._sound = sound.Sound(self._container, self._source, str(self.path))

    def _discard(self) -> None:
        if self._temporary.exists():
            try:
                self._container.close()
            except (OSError, av.error.FFmpegError):
                pass  # a full disk; the file is removed below
            files.remove(self._temporary)
