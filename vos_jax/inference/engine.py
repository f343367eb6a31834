"""The engine: a model on one device with its compiled programs."""

import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vos_jax import devices, errors, geometry
from vos_jax.data import overlaps
from vos_jax.data import prompts as prompts_lib
from vos_jax.data import proposals as proposal_arrays
from vos_jax.inference import adaptation, box_prompts
from vos_jax.inference import config as config_lib
from vos_jax.inference import view as view_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.models import vos, weights
from vos_jax.ops import masks, target
from vos_jax.typing import Bool, Float, UInt8

log = logging.getLogger(__name__)


Inputs = tuple[Any, state_lib.State, np.ndarray, state_lib.PromptArrays, proposals_lib.Proposals | None]
"""Parameters, state, frame, prompt and proposals of a step."""


class StepArrays(NamedTuple):
    """The result of one frame in one view; sizes are padded, objects are numbered by slot."""

    ids: UInt8[Any, "h w"]  # 1 + slot; 0 for the background
    presence: Float[Any, "N"]
    prob: Float[Any, "N+1 h w"] | None
    intermediates: dict[str, UInt8[Any, "h w"]]


class Engine:
    """Runs a model; sessions of one engine share its compiled programs.

    Args:
      model, params: the method and its parameters; they go to JAX's default device.
      config: sizes, views, object buckets and adaptation of all sessions.
      seed: of the draws of the adaptation.
      source: the parameters' file or a label, for messages.
      editable: keep the state before each frame, for `Session.edit`. Costs a copy of the memory per frame.
      intermediates: names of `vos.INTERMEDIATES` that results hold.

    Attributes:
      seconds: wall time spent so far, split into "compile", "inference" and "adaptation".
      num_proposals: places in every frame for proposals from files; 0: they are the model's own.
      runs_ahead: begin a frame before the result of the one before is fetched (`propagate.propagate`).

    Raises:
      VosError: settings that do not go together.
    """

    def __init__(
        self,
        model: state_lib.Model,
        params: Any,
        config: config_lib.InferenceConfig | None = None,
        *,
        seed: int = 0,
        source: str = "none",
        editable: bool = False,
        intermediates: Sequence[str] = (),
    ):
        self.model = model
        self.params = jax.device_put(params)
        self.config = config or config_lib.InferenceConfig()
        self.source, self.editable = source, editable
        # On a CPU, the host's work and the model's would compete for the same cores.
        self.runs_ahead = not editable and not target.is_cpu()
        self.intermediates = tuple(intermediates)
        self.num_proposals = weights.num_proposals(model.config, model)
        self._check()
        self._adapter = None
        if self.config.adaptation.steps > 0 and isinstance(model, vos.VOS) and model.config.refine:
            self._adapter = adaptation.Adapter(model, self.config.adaptation, seed)
        self.seconds = {"compile": 0.0, "inference": 0.0, "adaptation": 0.0}
        self._buckets = tuple(sorted(self.config.object_buckets))
        self._steps: dict[Any, Any] = {}
        self._jitted = jax.jit(self.step, static_argnames="soft", donate_argnums=() if editable else 1)
        self._no_prompts: dict[Any, state_lib.PromptArrays] = {}
        self._empty: dict[tuple[int, int], proposals_lib.Proposals] = {}

    def _check(self) -> None:
        augmented = self.config.flip or tuple(self.config.scales) != (1.0,)
        if unknown := [name for name in self.intermediates if name not in vos.INTERMEDIATES]:
            raise errors.VosError(
                f"no intermediate {unknown[0]!r} to show; there are: {', '.join(vos.INTERMEDIATES)}"
            )
        if self.intermediates and (augmented or not isinstance(self.model, vos.VOS)):
            raise errors.VosError(
                "eval.intermediates needs trained weights (--checkpoint), and one view of each frame"
            )
        if self.num_proposals and augmented:
            raise errors.VosError("proposals from files fit one view only: no --scales and --flip")

    @functools.cached_property
    def fingerprint(self) -> str:
        """A checksum of the model and its parameters; a saved session needs the same."""
        digest = hashlib.sha256(type(self.model).__name__.encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    @property
    def compilations(self) -> int:
        """Compilations of the step so far: one per padded size, object bucket and `soft`."""
        return len(self._steps)

    @property
    def adapts(self) -> bool:
        """The model adapts to each video: it has a RefineNet, and the settings ask for it."""
        return self._adapter is not None

    # ---------------------------------------------------------------- sizes

    def views(self, size: tuple[int, int]) -> tuple[view_lib.View, ...]:
        """Returns the views of frames of (height, width) pixels. Raises VosError for too small ones."""
        return view_lib.make_views((size[0], size[1]), self.config)

    def capacity_for(self, num_objects: int) -> int:
        """Returns the bucket for so many objects.

        Raises:
          VosError: no bucket is large enough.
        """
        for size in self._buckets:
            if num_objects <= size:
                return size
        raise errors.VosError(
            f"{num_objects} objects at once; at most {self._buckets[-1]} can be segmented "
            "(inference.object_buckets)"
        )

    @devices.in_float32
    def init_state(self, view: view_lib.View, capacity: int) -> state_lib.State:
        """Returns the state of a view before the first frame, with room for `capacity` objects."""
        return state_lib.init_state(self.model, capacity, view.padded_size, view.size)

    @devices.in_float32
    def no_prompt(self, view: view_lib.View, capacity: int) -> state_lib.PromptArrays:
        """Returns the arrays of a frame without a prompt, on the device."""
        key = view.padded_size, capacity
        if key not in self._no_prompts:
            self._no_prompts[key] = jax.device_put(state_lib.no_prompt(capacity, view.padded_size))
        return self._no_prompts[key]

    def check_proposals(
        self, view: view_lib.View, proposals: proposal_arrays.ProposalArrays | None, index: int
    ) -> proposals_lib.Proposals | None:
        """Returns the proposals of frame `index`, empty ones for None; None for a model with its own.

        Raises:
          VosError: the model makes its own, or another program would be compiled for their shapes.
        """
        if not self.num_proposals:
            if proposals is not None:
                raise errors.VosError(
                    f"frame {index} comes with proposals, but this model makes its own: "
                    "set model.proposals.source to file"
                )
            return None
        empty = self._empty_proposals(view.padded_size)
        if proposals is None:
            return empty
        if proposals.masks.shape != empty.masks.shape:
            raise errors.VosError(
                f"proposals of frame {index} have masks of shape {proposals.masks.shape}; "
                f"this video takes {empty.masks.shape}"
            )
        return proposals_lib.Proposals(*map(jax.numpy.asarray, proposals))

    @devices.in_float32
    def _empty_proposals(self, size: tuple[int, int]) -> proposals_lib.Proposals:
        if size not in self._empty:
            self._empty[size] = jax.device_put(proposals_lib.empty(self.num_proposals, size))
        return self._empty[size]

    # ---------------------------------------------------------------- one frame

    def step(
        self,
        params: Any,
        state: state_lib.State,
        frame: Any,
        prompt: state_lib.PromptArrays,
        proposals: proposals_lib.Proposals | None,
        *,
        soft: bool,
    ) -> tuple[state_lib.State, *tuple[Any, ...]]:
        """Returns the state after a frame and the fields of `StepArrays`; `run` compiles it."""
        state, output = step_lib.step(self.model, params, state, frame, prompt, proposals)
        prob, prediction = output.prob, output.prediction
        ids = masks.to_ids(prob, geometry.MASK_STRIDE)
        full = masks.upsample(prob, geometry.MASK_STRIDE) if soft else None
        early = {name: vos.INTERMEDIATES[name](prediction.out) for name in self.intermediates}
        early = {
            name: masks.to_ids(masks.aggregate(x, state.object_valid), geometry.MASK_STRIDE)
            for name, x in early.items()
        }
        return state, ids, prediction.presence, full, early

    @devices.in_float32
    def run(
        self,
        params: Any,
        state: state_lib.State,
        frame: UInt8[np.ndarray, "h w 3"],
        prompt: state_lib.PromptArrays,
        proposals: proposals_lib.Proposals | None = None,
        *,
        soft: bool,
    ) -> tuple[state_lib.State, StepArrays]:
        """Begins to segment one padded frame in one view; compiles the step where its shapes are new.

        Returns when the device has its orders; `wait` waits for the results.

        Args:
          params: the engine's, or those adapted to a video.
          state: before the frame; unusable afterwards unless the engine is editable.
          frame: RGB, of a view's padded size.
          prompt: of the same size.
          proposals: from a file, in `num_proposals` places.
          soft: return probabilities, too.
        """
        inputs = params, state, frame, prompt, proposals
        start, compiled = time.perf_counter(), self.seconds["compile"]
        state, *arrays = self._launch(inputs, soft)
        for array in jax.tree.leaves(arrays):
            array.copy_to_host_async()
        compiled = self.seconds["compile"] - compiled
        self.seconds["inference"] += time.perf_counter() - start - compiled
        return state, StepArrays(*arrays)

    def wait(self, outputs: Sequence[StepArrays]) -> None:
        """Waits until the device has computed outputs of `run`; that counts as inference, too."""
        start = time.perf_counter()
        jax.block_until_ready(outputs)
        self.seconds["inference"] += time.perf_counter() - start

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context to segment a video in; `lanes.make_lanes` says what for."""
        return contextlib.nullcontext()

    def _launch(self, inputs: Inputs, soft: bool) -> Any:
        """Starts the step and returns its outputs, which may still be computed."""
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return self.step(*inputs, soft=soft)
        return self._compiled(inputs, soft)(*inputs)

    def _compiled(self, inputs: Inputs, soft: bool) -> Any:
        """Returns the program for these shapes; compiles it where they are new."""
        _, _, frame, prompt, _ = inputs
        shapes = frame.shape, prompt.given.shape[0], soft
        if shapes not in self._steps:
            start = time.perf_counter()
            what = f"the step for frames of {frame.shape[0]}x{frame.shape[1]} and {shapes[1]} object(s)"
            log.info("compiling %s: once, and kept for later runs", what)
            # Ahead of time: such a program refuses other shapes instead of silently compiling again.
            self._steps[shapes] = self.lower(*inputs, soft=soft).compile()
            seconds = time.perf_counter() - start
            log.info("compiled %s in %.1f s", what, seconds)
            self.seconds["compile"] += seconds
        return self._steps[shapes]

    def lower(
        self,
        params: Any,
        state: Any,
        frame: Any,
        prompt: Any,
        proposals: proposals_lib.Proposals | None = None,
        *,
        soft: bool = False,
    ) -> Any:
        """Lowers the step (`jax.stages.Lowered`) for the arguments of `run`, or for their shapes."""
        return self._jitted.lower(params, state, frame, prompt, proposals, soft=soft)

    # ---------------------------------------------------------------- prompts and adaptation

    def prompt_ids(
        self, frame: UInt8[np.ndarray, "H W 3"], prompt: prompts_lib.Prompt
    ) -> UInt8[np.ndarray, "H W"] | None:
        """Returns a prompt as object ids, its boxes as masks; None where it holds neither.

        Raises:
          VosError: a box is less than 4 pixels wide or high, nothing in it stands out, or smaller ones
            cover all of it.
        """
        if not prompt.boxes:
            return prompt.ids
        layers = {object_id: self.mask_of_box(frame, box) for object_id, box in prompt.boxes.items()}
        found = overlaps.stack(layers, "the boxes of a prompt")
        return found if prompt.ids is None else geometry.overwrite(found, prompt.ids)

    @devices.in_float32
    def mask_of_box(self, frame: UInt8[np.ndarray, "H W 3"], box: prompts_lib.Box) -> Bool[np.ndarray, "H W"]:
        """Returns the mask of the object in a box (y0, x0, y1, x1); errors as `prompt_ids`."""
        return self._box_prompts(frame, box)

    @functools.cached_property
    def _box_prompts(self) -> box_prompts.BoxPrompts:
        return box_prompts.BoxPrompts(self.model, self.params)

    @devices.in_float32
    def adapt(
        self, adapted: dict[str, Any], frame: UInt8[np.ndarray, "H W 3"], ids: UInt8[np.ndarray, "H W"]
    ) -> dict[str, Any]:
        """Returns the adapted parameters after a frame with its masks, both of the frames' size."""
        if self._adapter is None:
            return adapted
        size = geometry.working_size(frame.shape[:2], self.config.min_size, self.config.max_size)
        start, compiled = time.perf_counter(), self._adapter.compile_seconds
        adapted = self._adapter(
            self.params, adapted, geometry.resize_frame(frame, size), geometry.resize_ids(ids, size)
        )
        compiled = self._adapter.compile_seconds - compiled
        self.seconds["compile"] += compiled
        self.seconds["adaptation"] += time.perf_counter() - start - compiled
        return adapted
