"""Writes resnet.npz: what PyTorch computes for torchvision's ResNets with the weights of patterns.py.

pip install torch numpy        # in an environment of its own
python tests/golden/make_resnet_golden.py
"""

import pathlib

import numpy as np
import patterns
import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).parent
RESNETS = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}
# A sample of each feature map keeps the file small: every second pixel, every n-th channel.
STEP = {"resnet18": 5, "resnet50": 17}


def features(
    state: dict[str, torch.Tensor], blocks: tuple[int, ...], bottleneck: bool, x: torch.Tensor
) -> list:
    def conv(x, conv_name, norm, stride=1):
        weight = state[f"{conv_name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=False, eps=1e-5)

    x = F.max_pool2d(F.relu(conv(x, "conv1", "bn1", 2)), kernel_size=3, stride=2, padding=1)
    levels = []
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            last = 3 if bottleneck else 2
            strided = 2 if bottleneck else 1
            y = x
            for index in range(1, last + 1):
                y = conv(y, f"{at}.conv{index}", f"{at}.bn{index}", stride if index == strided else 1)
                y = F.relu(y) if index < last else y
            if f"{at}.downsample.0.weight" in state:
                x = conv(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = F.relu(x + y)
        levels.append(x[0].permute(1, 2, 0).numpy())
    return levels


def main() -> None:
    picture = patterns.frame(64, 96).astype(np.float32) / 255
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    x = torch.from_numpy((picture - mean) / deviation).permute(2, 0, 1)[None]
    out = {}
    for name, (blocks, bottleneck) in RESNETS.items():
        state = {
            k: torch.from_numpy(np.asarray(v)) for k, v in patterns.resnet_state(blocks, bottleneck).items()
        }
        with torch.no_grad():
            for level, value in zip(
                ("c2", "c3", "c4", "c5"), features(state, blocks, bottleneck, x), strict=True
            ):
                out[f"{name}.{level}"] = value[::2, ::2, :: STEP[name]]
                print(name, level, value.shape, "deviation", value.std())
    np.savez_compressed(HERE / "resnet.npz", **out)


if __name__ == "__main__":
    main()
