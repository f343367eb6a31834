"""Records parsed without TensorFlow: the same bytes as tensorflow-datasets finds, or a ValueError."""

import hypothesis
import pytest
from hypothesis import strategies
from tensorflow_datasets.proto import tf_example_pb2 as pb

from vos_jax.data import examples

FEW = hypothesis.settings(max_examples=100, deadline=None)


def packed(features: dict) -> bytes:
    message = pb.Example()
    for name, value in features.items():
        feature = message.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.bytes_list.value.extend(value)
    return message.SerializeToString()


def test_byte_strings_are_found_and_nothing_else():
    record = packed({"frame": [b"x" * 300], "ids": [b""], "time": -3, "score": 0.5, "two": [b"a", b"b"]})
    assert examples.byte_features(record) == {"frame": b"x" * 300, "ids": b""}
    assert examples.byte_features(b"") == {}


@FEW
@hypothesis.given(strategies.dictionaries(strategies.text(), strategies.binary()))
def test_any_names_and_bytes_come_back(features):
    assert examples.byte_features(packed({k: [v] for k, v in features.items()})) == features


@FEW
@hypothesis.given(strategies.binary(), strategies.integers(0, 80))
def test_any_other_bytes_are_refused_or_read(noise, cut):
    record = packed({"frame": [b"12345678" * 4], "ids": [b"abc"]})
    for data in (noise, record[:cut], record[:cut] + noise):
        try:
            examples.byte_features(data)
        except ValueError:
            pass


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x0b", b"\xff" * 12, b"\x0a"])
def test_what_is_cut_off_is_refused(data):
    with pytest.raises(ValueError, match="cut off|wire type"):
        examples.byte_features(data)
