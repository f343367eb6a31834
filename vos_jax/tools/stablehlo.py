"""Exports the model as two StableHLO programs that only need JAX.

    python -m vos_jax.tools.export --stablehlo lite0.zip --size 480x854 --objects 3

OUT holds two functions in StableHLO (`jax.export`) with the weights, for frames of one size. Enlarge frames
with a shorter side than 480 before, as `inference.min_size` does in the other programs.

    start() -> state                             the state before a video's first frame, a list of arrays
    step(frame, ids, *state) -> (ids, *state)    frame uint8 RGB [H, W, 3]; ids uint8 [H, W]

The ids passed in are prompts, 1 to N: objects that appear or are corrected in this frame; 0 elsewhere. The
returned ids are the frame's masks. See docs/tutorial.md for how to load the file.
"""

import argparse
import io
import json
import os
import pathlib
import re
import zipfile
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from vos_jax import api, errors, files, geometry, option_parser
from vos_jax import config as configs
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.models import weights
from vos_jax.ops import masks, target

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    model: state_lib.Model,
    params: Any,
    size: tuple[int, int],
    num_objects: int,
    *,
    platforms: tuple[str, ...] = PLATFORMS,
) -> bytes:
    """Returns the zip file of the module's docstring.

    Args:
      model, params: the model and its parameters.
      size: (height, width) of the frames in pixels.
      num_objects: N, the maximum number of objects.
      platforms: platforms on which the programs can run.
    """
    params = jax.tree.map(jnp.asarray, params)  # a traced index fails with numpy arrays
    padded = geometry.padded_size(size)
    treedef = jax.tree.structure(
        jax.eval_shape(lambda: state_lib.init_state(model, num_objects, padded, size))
    )

    def start():
        return jax.tree.leaves(state_lib.init_state(model, num_objects, padded, size))

    def step(frame, ids, *leaves):
        drawn = masks.one_hot(geometry.pad(ids, padded, mode="constant"), num_objects)
        prompt = state_lib.no_prompt(num_objects, padded).replace(
            mask=drawn.astype(jnp.float32), given=jnp.any(drawn, axis=(1, 2))
        )
        state, output = step_lib.step(
            model, params, treedef.unflatten(leaves), geometry.pad(frame, padded), prompt
        )
        found = masks.to_ids(output.prob, geometry.MASK_STRIDE)[: size[0], : size[1]].astype(jnp.uint8)
        return geometry.overwrite(found, ids), *jax.tree.leaves(state)

    frame = jax.ShapeDtypeStruct((*size, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct(size, jnp.uint8)
    with target.compile_for(target.ANY):
        programs = {
            "start": jax.export.export(jax.jit(start), platforms=platforms)(),
            "step": jax.export.export(jax.jit(step), platforms=platforms)(frame, ids, *jax.eval_shape(start)),
        }
    about = {"size": size, "objects": num_objects, "platforms": platforms, "jax": jax.__version__}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.json", json.dumps(about, indent=1))
        for name, program in programs.items():
            archive.writestr(name, bytes(program.serialize()))
    return out.getvalue()


UNUSED = configs.Unused(
    "export --stablehlo",
    sections=("checkpoint", "data.", "eval.", "inference.", "seed", "train."),
    keys=("model.proposals.source=file",),
)


def main(arguments: list[str]) -> None:
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.export --stablehlo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=pathlib.Path, help="file to write; ends in .zip")
    parser.add_argument("--size", default="480x854", metavar="HxW", help="of the frames, in pixels")
    parser.add_argument("--objects", type=int, default=1, help="maximum number of objects")
    parser.add_argument("--checkpoint", default="auto", metavar="auto|none|PATH")
    rest, overrides = configs.split_arguments(arguments)
    options = parser.parse_args(rest)
    if options.out.suffix != ".zip":
        raise errors.VosError(f"{options.out}: name a file that ends in .zip")
    if os.path.lexists(options.out):
        raise errors.VosError(
            f"{options.out}: exists, and is not replaced; move it away, or choose another OUT"
        )
    wanted = re.fullmatch(r"(\d{2,4})x(\d{2,4})", options.size)
    if not wanted:
        raise errors.VosError(f"--size {options.size}: write HEIGHTxWIDTH in pixels, like 480x854")
    if not 1 <= options.objects <= 64:
        raise errors.VosError(f"--objects {options.objects}: it must be in 1 to 64")
    config = configs.load("default", overrides)
    UNUSED.check(config, overrides)
    config = api.resolve(configs.replace(config, {"checkpoint": options.checkpoint}), overrides)
    model, params, label = weights.load_model(config.model, config.checkpoint)
    packed = export(model, params, (int(wanted[1]), int(wanted[2])), options.objects)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(options.out) as temporary:
            temporary.write_bytes(packed)
    except OSError as error:
        raise errors.VosError(
            f"{options.out}: cannot be written ({error.strerror}); choose another OUT"
        ) from None
    print(f"{options.out}: {label} for {options.objects} object(s) in {options.size}, {len(packed):,} bytes")
