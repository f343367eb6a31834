"""Measures the cost of drift: J with ground truth in the memory or as the previous mask.

    python -m benchmarks.drift --data COMPOSITES [--rows own/own,true/own] [--out ROWS.jsonl]

COMPOSITES is a data set in the DAVIS layout in which every frame is annotated. A row `MEMORY/PREVIOUS` names
the masks that are written to the memory (`own`, `true`, or `first`: only annotated frames are written) and
the previous masks of the next frame (`own`, `true`). The gain of `true` over `own` is the cost of drift.

J is the mean over object-frames of the final masks at stride 4, without the first and the last frame; coarse
and propagated masks have columns, too. The file visibility.json in COMPOSITES gives, per sequence and frame,
object id -> [visible pixels, pixels without occlusion]. With it the table has columns by visible share, and
counts the frames in which an absent object has a mask of more than 100 pixels ("ghosts"). The columns of the
proposals measure the network's best candidate for a visible object: mean IoU, recall at IoU 0.5, and, of
these, the rank by the matching cost (0 is first).
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax import config as configs
from vos_jax import errors, geometry
from vos_jax.data import datasets
from vos_jax.data import video as video_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.models import matching as matching_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.models import vos, weights
from vos_jax.ops import masks

ROWS = ("own/own", "own/true", "true/own", "true/true", "first/own")
SHARES = {"seen > 90 %": 0.9, "60 to 90 %": 0.6, "30 to 60 %": 0.3}
# Smallest mask of an absent object that counts, in pixels of the frame.
GHOST_PIXELS = 100


def step(
    model: vos.VOS,
    params: Any,
    state: state_lib.State,
    frame: jax.Array,
    prompt: state_lib.PromptArrays,
    truth: jax.Array,
    use_true: dict[str, jax.Array],
) -> tuple[state_lib.State, dict[str, jax.Array]]:
    """Segments a frame, replaces the masks of `use_true` by the truth, and measures every object.

    Args:
      truth: [N, H/4, W/4] share of each cell that an object covers.
      use_true: whether the truth replaces the mask in the "memory" and the "previous" mask.
    """
    before = state
    state, encoded, output = step_lib.segment(model, params, state, frame, prompt)
    prob, prediction = output.prob, output.prediction
    after = step_lib.write(
        model,
        params,
        encoded,
        state,
        prob,
        prompted=prompt.given,
        slot_attention=prediction.read.slot_attention,
        memory_prob=jnp.where(use_true["memory"], truth, prob[1:]),
    )
    # "first": only the annotated frames are written.
    memory = jax.tree.map(
        lambda new, old: jnp.where(use_true["first"] & ~jnp.any(prompt.given), old, new),
        after.memory,
        before.memory,
    )
    after = after.replace(memory=memory, prev_prob=jnp.where(use_true["previous"], truth, after.prev_prob))

    final = masks.one_hot(jnp.argmax(prob, axis=0), truth.shape[0])
    stages = {"final": final} | {name: of(prediction.out) > 0.5 for name, of in vos.INTERMEDIATES.items()}
    found = {f"iou_{name}": _iou(mask, truth > 0.5) for name, mask in stages.items()}
    found["area"] = jnp.sum(final, axis=(1, 2))
    found["presence"] = prediction.presence
    found["evidence"] = jnp.max(prediction.read.prob, axis=(1, 2))

    count = truth.shape[0]
    candidates = prediction.out.proposals
    network = jnp.arange(candidates.valid.shape[0]) < candidates.valid.shape[0] - count
    overlap = matching_lib.mask_iou(truth > 0.5, candidates.masks > 0.5)
    overlap = jnp.where((network & candidates.valid)[None], overlap, 0.0)
    best = jnp.argmax(overlap, axis=1)
    own_cost = jnp.take_along_axis(prediction.out.match.cost, best[:, None], axis=1)
    found["proposal_iou"] = jnp.max(overlap, axis=1, initial=0.0)
    found["proposal_rank"] = jnp.sum((prediction.out.match.cost < own_cost) & candidates.valid[None], axis=1)
    return after, found


def _iou(a: jax.Array, b: jax.Array) -> jax.Array:
    union = jnp.sum(a | b, axis=(1, 2))
    return jnp.where(union > 0, jnp.sum(a & b, axis=(1, 2)) / jnp.maximum(union, 1), 1.0)


def measure(
    engine: engine_lib.Engine, run: Any, video: video_lib.Video, visible: list[dict] | None, row: str
) -> list[dict[str, Any]]:
    """Returns one dict per object and frame of a video, without its first and last frame."""
    memory, previous = row.split("/")
    use_true = {
        "memory": jnp.asarray(memory == "true"),
        "first": jnp.asarray(memory == "first"),
        "previous": jnp.asarray(previous == "true"),
    }
    prompts, rows = video.prompts(), []
    session = session_lib.Session(engine, video.size, prompts)
    (view,) = session.views
    for index in range(len(video)):
        inputs = session.prepare(video.frame(index), prompts.get(index))
        ((padded, prompt, _),), (state,) = inputs.arrays, inputs.states
        ids = video.mask(index)
        assert ids is not None  # checked in `main`
        one_hot = masks.one_hot(inputs.objects.slot_ids(view.see_ids(ids)), state.object_valid.size)
        truth = masks.downsample(jnp.asarray(one_hot, jnp.float32), geometry.MASK_STRIDE)
        state, found = run(session.params, state, padded, prompt, truth, use_true)
        after = dataclasses.replace(
            session.snapshot(), states=(state,), objects=inputs.objects, index=index + 1
        )
        session = session_lib.Session.restore(engine, after)
        if index in prompts or index == len(video) - 1:
            continue
        found = jax.device_get(found)
        pixels = float(np.prod(video.size)) / float(np.prod(view.size)) * geometry.MASK_STRIDE**2
        for user_id, number in inputs.objects.slots.items():
            entry: dict[str, Any] = {name: float(value[number]) for name, value in found.items()}
            entry["area"] *= pixels
            entry |= {"sequence": video.name, "frame": index, "object": user_id}
            if visible is not None:
                seen, whole = visible[index][str(user_id)]
                entry |= {"seen": seen, "share": seen / whole if whole else 0.0}
            rows.append(entry)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the table's columns from all object-frames; absent objects count in "ghosts" only."""
    shown = [row for row in rows if row.get("seen", 1) > 0]

    def mean(name: str, of: list[dict[str, Any]]) -> float:
        return float(np.mean([row[name] for row in of])) if of else float("nan")

    found = {"J": mean("iou_final", rows)}
    found |= {name: mean(f"iou_{name}", rows) for name in ("coarse", "propagated")}
    if any("share" in row for row in rows):
        by_share = collections.defaultdict(list)
        for row in shown:
            by_share[next((name for name, least in SHARES.items() if row["share"] > least), "rest")].append(
                row
            )
        found |= {name: mean("iou_final", by_share[name]) for name in SHARES}
        absent = [row for row in rows if row["seen"] == 0]
        found["ghosts"] = sum(row["area"] > GHOST_PIXELS for row in absent)
        found["absent"] = len(absent)
    found["proposal IoU"] = mean("proposal_iou", shown)
    found["recall .5"] = (
        float(np.mean([row["proposal_iou"] > 0.5 for row in shown])) if shown else float("nan")
    )
    hits = [row for row in shown if row["proposal_iou"] > 0.5]
    found["rank"] = mean("proposal_rank", hits)
    return found


def make_run(model: vos.VOS) -> Any:
    """Returns the compiled `step`; all rows share one program."""
    return jax.jit(lambda *arguments: step(model, *arguments), donate_argnums=1)


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="DAVIS layout; every frame annotated")
    parser.add_argument("--config", default="davis17")
    parser.add_argument("--checkpoint", default="auto")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--sequences", default="", help="only these")
    parser.add_argument("--out", type=pathlib.Path, help="a JSONL file for every object-frame of every row")
    rest, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(rest)
    names = options.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise errors.VosError(f"no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    config = configs.load(options.config, overrides)
    sequences = tuple(name for name in options.sequences.split(",") if name)
    config = configs.replace(config, {"data.root": options.data, "data.sequences": sequences})
    videos = list(datasets.open_dataset(config.data))
    for video in videos:
        video.check()
        for index, name in enumerate(video.frame_names):
            if video.mask(index) is None:
                raise errors.VosError(
                    f"{video.name}: frame {name} has no mask; benchmarks.drift needs one for every frame"
                )
    listed = pathlib.Path(options.data) / "visibility.json"
    visibility = json.loads(listed.read_text()) if listed.is_file() else {}
    model, params, checkpoint = weights.load_model(config.model, options.checkpoint)
    if not isinstance(model, vos.VOS):
        raise errors.VosError("benchmarks.drift needs trained weights: --checkpoint PATH")
    still = dataclasses.replace(config.inference.adaptation, steps=0)
    inference = dataclasses.replace(config.inference, scales=(1.0,), flip=False, adaptation=still)
    engine = engine_lib.Engine(model, params, inference)
    run = make_run(model)
    print(f"{jax.devices()[0].device_kind}, {checkpoint}, {options.data}: {len(videos)} sequences\n")
    printed = False
    for name in names:
        rows = [
            row for video in videos for row in measure(engine, run, video, visibility.get(video.name), name)
        ]
        found = summary(rows)
        if not printed:
            print("| memory / previous mask | object-frames | " + " | ".join(found) + " |")
            print("|---" + "|---:" * (len(found) + 1) + "|")
            printed = True
        cells = [f"{v}" if isinstance(v, int) else f"{v:.3f}" for v in found.values()]
        print(f"| {name} | {len(rows)} | {' | '.join(cells)} |", flush=True)
        if options.out is not None:
            with options.out.open("a") as file:
                file.writelines(json.dumps({"row": name, **row}) + "\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
