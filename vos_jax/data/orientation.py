"""Orientation of a film's frames: turned and mirrored by the display matrix, as players show them."""

import av
import numpy as np

from vos_jax.typing import UInt8


def upright(picture: av.VideoFrame) -> tuple[UInt8[np.ndarray, "H W 3"], bool]:
    """Returns a decoded frame as it is shown, RGB, and whether its sides were exchanged."""
    image = picture.to_ndarray(format="rgb24")
    data = picture.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image, False
    # Column a, b says where x goes, c, d where y goes; u, v and w are the perspective.
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)[:9].tolist()
    is_turned = abs(b) + abs(c) > abs(a) + abs(d)
    if is_turned:
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]), is_turned
