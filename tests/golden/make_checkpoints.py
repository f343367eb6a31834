"""Writes tensors_zip.pth and tensors_legacy.pth: the kinds of tensor a PyTorch checkpoint can hold.

pip install torch numpy        # in an environment of its own
python tests/golden/make_checkpoints.py
"""

import collections
import pathlib

import torch

HERE = pathlib.Path(__file__).parent


def main() -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = collections.OrderedDict(
        plain=base.clone(),
        transposed=base.T,
        part=base[1:3, ::2],  # shares its storage with `transposed`
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
        half=torch.tensor([0.5, -1.25], dtype=torch.float16),
        bfloat=torch.tensor([0.5, -3.0], dtype=torch.bfloat16),
        double=torch.tensor([1 / 3], dtype=torch.float64),
        flags=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(torch.tensor([2.0, 4.0])),
    )
    torch.save(state, HERE / "tensors_zip.pth")
    torch.save(state, HERE / "tensors_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
