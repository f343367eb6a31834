"""Backbones: against PyTorch's figures, both forms of the depthwise layers, and the shipped weights."""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import patterns
from vos_jax import errors
from vos_jax.models import backbones
from vos_jax.models.backbones import folding, pretrained
from vos_jax.ops import bottleneck, depthwise
from vos_jax.tools import convert

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LEVELS = ("c2", "c3", "c4", "c5")


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The error's norm over the expected value's."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def features_of(name: str, params: dict, frame: np.ndarray) -> dict[str, np.ndarray]:
    module = backbones.make(name)
    features = jax.jit(lambda params, frame: module.apply({"params": params}, frame))(params, frame)
    return {level: np.asarray(getattr(features, level)) for level in LEVELS}


def test_lite0_computes_what_the_pytorch_original_does():
    golden = np.load(GOLDEN / "lite0.npz")
    params = backbones.load_pretrained("efficientnet_lite0")
    found = features_of("efficientnet_lite0", params, patterns.frame(64, 96))
    for level in LEVELS:
        # Equal up to the order of sums; to the original, up to the rounding of the shipped weights.
        assert relative(found[level], golden[f"shipped.{level}"]) < 1e-4, level
        assert relative(found[level], golden[f"exact.{level}"]) < 0.02, level


@pytest.mark.parametrize(
    ("name", "blocks", "step"), [("resnet18", (2, 2, 2, 2), 5), ("resnet50", (3, 4, 6, 3), 17)]
)
def test_resnet_computes_what_pytorch_does_from_a_torchvision_state_dict(name, blocks, step):
    state = patterns.resnet_state(blocks, bottleneck=name == "resnet50")
    state |= {"fc.weight": np.zeros((1000, 8), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    plan = backbones.BACKBONES[name].conversion
    flat = folding.convert(state, convert.kernel_shapes(name), plan, name="state dict")
    frame = patterns.frame(64, 96).astype(np.float32) / 255
    found = features_of(name, pretrained.unflatten(flat), frame)
    golden = np.load(GOLDEN / "resnet.npz")
    for level in LEVELS:
        assert relative(found[level][::2, ::2, ::step], golden[f"{name}.{level}"]) < 1e-5, level


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_every_backbone_has_four_levels_of_the_announced_channels_and_parameters_by_stage(name):
    module = backbones.make(name, jnp.bfloat16)
    frame = jax.ShapeDtypeStruct((96, 64, 3), jnp.uint8)
    features, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), frame)
    for level, stride in backbones.STRIDES.items():
        feature = getattr(features, level)
        channels = backbones.channels(name)[level]
        assert feature.shape == (96 // stride, 64 // stride, channels)
        assert feature.dtype == jnp.bfloat16
    known = {"resnet18": 64, "resnet50": 256, "efficientnet_lite0": 24}
    assert backbones.channels(name)["c2"] == known[name]
    stages = 7 if name == "efficientnet_lite0" else 4
    assert set(variables["params"]) == {"stem", *(f"stage{i + 1}" for i in range(stages))}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_a_frame_in_bytes_and_in_unit_range_are_the_same_frame():
    frame = patterns.frame(4, 6)
    options = {"mean": (0.5, 0.25, 0.1), "std": (0.5, 0.2, 1.0), "dtype": jnp.float32}
    in_bytes = backbones.features.normalise(frame, **options)
    in_unit_range = backbones.features.normalise(frame.astype(np.float32) / 255, **options)
    np.testing.assert_allclose(in_bytes, in_unit_range, atol=1e-6)
    np.testing.assert_allclose(in_bytes[1, 2, 1], (frame[1, 2, 1] / 255 - 0.25) / 0.2, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 9)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_both_forms_of_the_depthwise_convolution_agree(height, width, stride, size):
    x = patterns.uniform("x", (height, width, 4))
    kernel = patterns.uniform("kernel", (size, size, 4))
    grouped, shifted = jax.jit(
        lambda x, kernel: [form(x, kernel, stride=stride) for form in (depthwise.grouped, depthwise.shifted)]
    )(x, kernel)
    assert grouped.shape == shifted.shape == (-(-height // stride), -(-width // stride), 4)
    np.testing.assert_allclose(shifted, grouped, atol=1e-5)


# A half is fast: two shapes in float32, the third one in bfloat16.
@pytest.mark.parametrize(
    ("dtype", "height", "width"),
    [
        (jnp.float32, 8, 12),
        (jnp.float32, 7, 9),
        (jnp.bfloat16, 2, 40),
        pytest.param(jnp.bfloat16, 8, 12, marks=pytest.mark.slow),
        pytest.param(jnp.bfloat16, 7, 9, marks=pytest.mark.slow),
        pytest.param(jnp.float32, 2, 40, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_the_shifted_depthwise_convolution_has_the_gradients_of_the_grouped_one(
    height, width, stride, size, dtype
):
    x = jnp.asarray(patterns.uniform("x", (2, height, width, 4)), dtype)
    kernel = jnp.asarray(patterns.uniform("kernel", (size, size, 4)), dtype)
    dy = jnp.asarray(patterns.uniform("dy", (2, -(-height // stride), -(-width // stride), 4)), dtype)

    def gradients(form, dtype):
        batched = jax.vmap(functools.partial(form, stride=stride), in_axes=(0, None))
        back = jax.jit(lambda x, kernel, dy: jax.vjp(batched, x, kernel)[1](dy))
        return back(x.astype(dtype), kernel.astype(dtype), dy.astype(dtype))

    found = gradients(depthwise.shifted, dtype)
    assert all(gradient.dtype == dtype for gradient in found)
    for gradient, expected in zip(found, gradients(depthwise.grouped, jnp.float32), strict=True):
        assert relative(gradient.astype(jnp.float32), expected) < (1e-5 if dtype == jnp.float32 else 0.01)


def block_arguments(inputs: int, expanded: int, outputs: int, size: int, expand: bool) -> tuple:
    return (
        bottleneck.Dense(patterns.uniform("e", (inputs, expanded)), patterns.uniform("eb", (expanded,)))
        if expand
        else None,
        bottleneck.Spatial(
            patterns.uniform("s", (size, size, expanded)), patterns.uniform("sb", (expanded,))
        ),
        bottleneck.Dense(patterns.uniform("p", (expanded, outputs)), patterns.uniform("pb", (outputs,))),
    )


@pytest.mark.parametrize(
    ("height", "stride", "size", "expand"),
    [(15, 2, 3, True), (13, 1, 5, True), (8, 1, 3, False), (8, 2, 5, False)],
)
@pytest.mark.parametrize("strip_rows", [6, 60])
def test_the_bottleneck_in_strips_equals_the_whole_with_gradients_and_vmap(
    height, stride, size, expand, strip_rows
):
    arguments = block_arguments(6, 12 if expand else 6, 5, size, expand)
    batch = patterns.uniform("x", (2, height, 10, 6))
    # Six expanded rows are several strips, the last one beyond the frame; sixty are the whole frame.
    strip_bytes = strip_rows * 14 * 12 * 4

    def run(form, **options):
        def loss(batch, arguments):
            out = jax.vmap(lambda x: form(x, *arguments, stride=stride, **options))(batch)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(batch, arguments)

    (_, whole), whole_gradients = run(bottleneck.whole)
    (_, strips), strips_gradients = run(bottleneck.strips, strip_bytes=strip_bytes)
    np.testing.assert_allclose(strips, whole, rtol=1e-4, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), strips_gradients, whole_gradients
    )


def test_the_cpu_gets_strips_and_no_grouped_convolution_other_platforms_the_grouped_one():
    arguments = block_arguments(4, 24, 4, 3, expand=True)
    block = jax.jit(lambda x: bottleneck.inverted_bottleneck(x, *arguments, stride=1))
    traced = block.trace(jax.ShapeDtypeStruct((8, 8, 4), jnp.float32))
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("feature_group_count = 24" in text) == (platform != "cpu"), platform


def test_a_large_expanded_tensor_is_never_whole_in_memory_on_cpu():
    arguments = block_arguments(4, 24, 4, 3, expand=True)
    x = jax.ShapeDtypeStruct((480, 432, 4), jnp.float32)

    def temporary_bytes(form) -> int:
        compiled = jax.jit(lambda x: form(x, *arguments, stride=2)).lower(x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    expanded = 480 * 432 * 24 * 4
    assert temporary_bytes(bottleneck.whole) > expanded
    # The padded input (with its extra channel), and one strip.
    padded_input = 481 * 433 * 5 * 4
    bound = padded_input + 2 * bottleneck.STRIP_BYTES
    assert temporary_bytes(bottleneck.strips) < bound < expanded


def test_shipped_weights_are_those_of_their_record():
    record = json.loads((pretrained.WEIGHTS / "efficientnet_lite0.json").read_text())
    params = backbones.load_pretrained("efficientnet_lite0")
    leaves = jax.tree.leaves(params)
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in leaves)
    assert sum(leaf.size for leaf in leaves) == record["parameters"]
    assert record["source"]["licence"] == "Apache-2.0"
    frame = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    fresh = jax.eval_shape(backbones.make("efficientnet_lite0").init, jax.random.key(0), frame)["params"]
    assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda a: a.shape, fresh)


def test_weights_that_do_not_ship_are_asked_for_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(errors.VosError, match=r"python -m vos_jax.tools.convert resnet50 resnet50-\S+\.pth"):
        backbones.load_pretrained("resnet50", tmp_path / "resnet50.safetensors")


def test_an_unknown_backbone_is_refused_by_name():
    with pytest.raises(errors.VosError, match="resnet34.*efficientnet_lite0"):
        backbones.load_pretrained("resnet34")


def test_damaged_weights_and_weights_of_another_backbone_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    shutil.copy(pretrained.WEIGHTS / "efficientnet_lite0.safetensors", file)
    with pytest.raises(
        errors.VosError, match="holds weights of efficientnet_lite0, not of the backbone resnet18"
    ):
        backbones.load_pretrained("resnet18", file)
    shutil.copy(pretrained.WEIGHTS / "efficientnet_lite0.json", file.with_suffix(".json"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(errors.VosError, match="sha256"):
        backbones.load_pretrained("efficientnet_lite0", file)
    file.with_suffix(".json").unlink()
    file.write_bytes(data[:1000])
    with pytest.raises(errors.VosError, match="not a complete safetensors file"):
        backbones.load_pretrained("efficientnet_lite0", file)
