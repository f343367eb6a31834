"""Parser of byte strings in records of TensorFlow's Example format, without TensorFlow or protobuf.

The format is a protobuf message: Example.features (field 1) -> Features.feature (field 1, a map entry each)
-> key (field 1) and Feature (field 2) -> bytes_list (field 1) -> value (field 1, repeated).
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def byte_features(record: bytes) -> dict[str, bytes]:
    """Returns the features that hold exactly one byte string; numbers and lists are left out.

    Raises:
      ValueError: the record is no Example, or is cut off.
    """
    found = {}
    for features in _messages(memoryview(record), 1):
        for entry in _messages(features, 1):
            names = [bytes(name).decode() for name in _messages(entry, 1)]
            values = [
                value
                for feature in _messages(entry, 2)
                for values in _messages(feature, 1)
                for value in _messages(values, 1)
            ]
            if len(names) == 1 and len(values) == 1:
                found[names[0]] = bytes(values[0])
    return found


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """Yields the content of every length-delimited field `number`; skips other fields."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind, size = tag & 7, 0
        if kind == _VARINT:
            _, place = _varint(data, place)
        elif kind == _LENGTH:
            size, place = _varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"not a record: wire type {kind} at byte {place}")
        if place + size > len(data):
            raise ValueError(f"cut off: {size} bytes wanted at byte {place} of {len(data)}")
        if kind == _LENGTH and tag >> 3 == number:
            yield data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Returns the number at `place`, seven bits per byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"cut off: no complete number before byte {place}")
