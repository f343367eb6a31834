"""The session: one video being segmented, one frame after the other, under the user's own object ids.

>>> import numpy as np
>>> import vos_jax
>>> frames = np.full((4, 64, 96, 3), 60, np.uint8)          # a grey video ...
>>> for t in range(4):
...     frames[t, 16:48, 8 + 8 * t : 40 + 8 * t] = 250, 40, 40   # ... in which a red square moves
>>> first = np.zeros((64, 96), np.uint8)
>>> first[16:48, 8:40] = 5                                  # object 5, painted in frame 0

>>> engine = vos_jax.load("training_free")                  # "lite0" where its weights are
>>> for result in vos_jax.Session(engine).run(frames, {0: first}):
...     ids, t = result.ids, result.index
...     print(ids.shape, ids.dtype, np.unique(ids), ids[32, 24 + 8 * t])
(64, 96) uint8 [0 5] 5
(64, 96) uint8 [0 5] 5
(64, 96) uint8 [0 5] 5
(64, 96) uint8 [0 5] 5

Frame by frame, with probabilities, a second object and a correction on the way:

>>> session = vos_jax.Session(engine)
>>> result = session.step(frames[0], first)
>>> result = session.step(frames[1])
>>> {i: p.shape for i, p in session.probabilities().items()}
{0: (64, 96), 5: (64, 96)}
>>> corner = np.zeros((64, 96), np.uint8)
>>> corner[:16, 80:] = 9
>>> np.unique(session.edit(corner).ids).tolist()            # it lies in the frame segmented last
[0, 5, 9]
>>> better = np.zeros((64, 96), np.uint8)
>>> better[16:48, 16:48] = 5
>>> ids = session.edit(better).ids
>>> bool(np.all((ids == 5) == (better == 5)))
True
>>> np.unique(session.edit(vos_jax.Prompt(remove={9})).ids).tolist()
[0, 5]
>>> session.objects
(5,)
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vos_jax import devices, errors, geometry
from vos_jax.data import prompts as prompts_lib
from vos_jax.data import proposals as proposal_arrays
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import frame_result, inspection
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import view as view_lib
from vos_jax.inference.snapshot import Snapshot, Taken
from vos_jax.models import state as state_lib
from vos_jax.ops import masks as mask_lib
from vos_jax.typing import Float, UInt8


class Inputs(NamedTuple):
    """The arguments of a step: states with room for all objects, the new table, and each view's arrays."""

    states: tuple[state_lib.State, ...]
    objects: objects_lib.ObjectTable
    arrays: tuple[inspection.Inputs, ...]


class Session:
    """Segments one video; holds a state per view, and which of the user's ids is which object.

    Frames are RGB [H, W, 3] of any size, one size per video. Wherever a prompt is taken, an array of ids
    (0 background, 1 to 254 objects) or of booleans (object 1) is one.

    Args:
      engine: the model. Sessions of one engine are independent.
      size: (height, width) of the frames in pixels; None: the first frame's.
      prompts: those known ahead, by frame index. They are checked, and room is made for their objects; each
        is still given to `step`.

    Raises:
      VosError: prompts that would fail later.
    """

    def __init__(
        self,
        engine: engine_lib.Engine,
        size: tuple[int, int] | None = None,
        prompts: prompts_lib.Prompts | None = None,
    ):
        self.engine = engine
        self._pending: frame_result.Pending | None = None
        self._room = objects_lib.check(prompts_lib.as_prompts(prompts), engine) if prompts else 1
        self._now: Snapshot | None = None if size is None else self._start((size[0], size[1]))
        self._last: Taken | None = None
        self._run: object | None = None

    @classmethod
    def restore(cls, engine: engine_lib.Engine, snapshot: Snapshot) -> "Session":
        """Returns a session that continues from a snapshot."""
        session = cls(engine)
        session._now = snapshot
        return session

    @property
    def index(self) -> int:
        """Frames segmented so far; the index of the next one."""
        return 0 if self._now is None else self._now.index

    @property
    def result(self) -> frame_result.FrameResult | None:
        """The result of the frame segmented last; None before the first one."""
        return None if self._pending is None else self._pending.result()

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of the objects, in the order in which they appeared."""
        return () if self._now is None else tuple(self._now.objects.slots)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the frames in pixels; None before the first one."""
        return None if self._now is None else self._now.size

    @property
    def views(self) -> tuple[view_lib.View, ...]:
        """The views of the frames; none before the size is known."""
        return () if self._now is None else self.engine.views(self._now.size)

    @property
    def params(self) -> Any:
        """The parameters of the next frame: the engine's, some of them adapted to the video."""
        adapted = {} if self._now is None else self._now.adapted
        return {**self.engine.params, **adapted} if adapted else self.engine.params

    def snapshot(self) -> Snapshot:
        """Returns the state of the session; the next step invalidates it unless the engine is editable.

        Raises:
          VosError: no frame was segmented and no size is known.
        """
        if self._now is None:
            raise errors.VosError("there is no state yet: no frame was segmented")
        return self._now

    @devices.in_float32
    def probabilities(self) -> dict[int, Float[np.ndarray, "H W"]]:
        """Returns object id -> probabilities in the frame segmented last; 0 is the background; sum 1.

        Raises:
          VosError: no frame yet.
        """
        now = self.snapshot()
        found: dict[int, np.ndarray] = {}
        for view, state in zip(self.views, now.states, strict=True):
            full = np.asarray(mask_lib.upsample(state.prev_prob, geometry.MASK_STRIDE))
            for user_id, slot in now.objects.slots.items():
                share = view.full_size(full[slot]) / np.float32(len(now.states))
                found[user_id] = found[user_id] + share if user_id in found else share
        rest = 1.0 - sum(found.values(), np.zeros(now.size, np.float32))
        return {0: np.clip(rest, 0.0, 1.0), **found}

    # ---------------------------------------------------------------- frames

    def run(
        self,
        frames: Iterable[UInt8[np.ndarray, "H W 3"]],
        prompts: prompts_lib.Prompts | None = None,
        *,
        soft: bool = False,
    ) -> Iterator[frame_result.FrameResult]:
        """Yields every frame's result, in order and in bounded memory.

        Args:
          frames: any iterable; taken one by one.
          prompts: frame index -> objects that appear, are corrected or go there.
          soft: return probabilities, too.

        Raises:
          VosError: at once, prompts that would fail later or, where no object is known yet, none; while
            frames come, as `step`; after the last one, a prompt for a frame that never came.
        """
        given = prompts_lib.as_prompts(prompts or {})
        if early := [index for index in given if index < self.index]:
            raise errors.VosError(f"a prompt is for frame {early[0]}; the next frame is {self.index}")
        if not self.objects:
            self._room = objects_lib.check(given, self.engine)
            if self._now is not None and self._now.index == 0:
                self._now = self._start(self._now.size)
        self._run = run = object()
        # A generator of its own: mistakes surface here, not at the first frame.
        return self._results(run, frames, given, soft)

    def _results(
        self, run: object, frames: Iterable[np.ndarray], given: Mapping[int, prompts_lib.Prompt], soft: bool
    ) -> Iterator[frame_result.FrameResult]:
        for frame in frames:
            if self._run is not run:
                raise errors.VosError("this session began another run(); make a Session for each video")
            yield self.step(frame, given.get(self.index), soft=soft)
        if late := [index for index in given if index >= self.index]:
            raise errors.VosError(
                f"a prompt is for frame {late[0]}, which never came: the frames are 0 to {self.index - 1}"
            )

    def step(
        self,
        frame: UInt8[np.ndarray, "H W 3"],
        prompt: prompts_lib.PromptLike | None = None,
        *,
        proposals: proposal_arrays.ProposalArrays | None = None,
        soft: bool = False,
    ) -> frame_result.FrameResult:
        """Segments the next frame of the video.

        Args:
          frame: uint8 RGB.
          prompt: objects that appear in this frame, are corrected, or go.
          proposals: from a file, in the engine's `num_proposals` places; None: there are none.
          soft: return probabilities, too.

        Raises:
          VosError: a frame, mask or proposals of a wrong size or type, too many objects, or an unknown one to
            remove. Nothing has changed then.
        """
        return self.dispatch(frame, prompt, proposals=proposals, soft=soft).result()

    def dispatch(
        self,
        frame: UInt8[np.ndarray, "H W 3"],
        prompt: prompts_lib.PromptLike | None = None,
        *,
        proposals: proposal_arrays.ProposalArrays | None = None,
        soft: bool = False,
    ) -> frame_result.Pending:
        """Begins the next frame and does not wait for the device; arguments and errors as `step`.

        The session is at the frame after it at once, and the next one may be dispatched before the result is
        asked for. `frame` must not change until then.
        """
        frame = view_lib.as_frame(frame, self.index)
        before = self._now or self._start(frame.shape[:2])
        said = prompts_lib.as_prompt(prompt, before.index)
        said = self._resolve(before, frame, said)
        self._now, self._pending = self._advance(before, frame, said, proposals, soft)
        if self.engine.editable:
            self._last = Taken(before, frame.copy(), said, proposals, soft)
        return self._pending

    def edit(self, prompt: prompts_lib.PromptLike) -> frame_result.FrameResult:
        """Segments the last frame again, with this prompt on top of those it had.

        It starts from the state before the frame, so a wrong mask leaves no trace in the memory.

        Args:
          prompt: objects that are corrected, appear or go; others are segmented again.

        Raises:
          VosError: no frame to edit, an empty prompt, an object that another one's mask would cover whole, or
            as `step`. Nothing has changed then.
        """
        if not self.engine.editable:
            raise errors.VosError("this engine keeps no state to edit; make it with editable=True")
        if self._last is None:
            raise errors.VosError("there is no frame to edit: segment one first, with step() or run()")
        before, frame, earlier, proposals, soft = self._last
        said = prompts_lib.as_prompt(prompt, before.index)
        if not said.objects and not said.absent and not said.remove:
            raise errors.VosError(
                "the prompt is empty: it holds no object, and removes none; Prompt(absent={1}) says that "
                "object 1 is not in the frame"
            )
        if unknown := sorted(said.remove - set(self.objects)):
            raise errors.VosError(
                f"object {unknown[0]} cannot be removed; the objects are {sorted(self.objects) or 'none'}"
            )
        said = prompts_lib.edit(earlier, self._resolve(before, frame, said), before.index)
        said = dataclasses.replace(said, remove=said.remove & set(before.objects.slots))
        self._now, self._pending = self._advance(before, frame, said, proposals, soft)
        self._last = Taken(before, frame, said, proposals, soft)
        return self._pending.result()

    def prepare(
        self,
        frame: UInt8[np.ndarray, "H W 3"],
        prompt: prompts_lib.PromptLike | None = None,
        *,
        proposals: proposal_arrays.ProposalArrays | None = None,
    ) -> Inputs:
        """Returns the arguments of the next step without taking it; arguments and errors as `step`."""
        frame = view_lib.as_frame(frame, self.index)
        before = self._now or self._start(frame.shape[:2])
        said = prompts_lib.as_prompt(prompt, before.index)
        return self._prepare(before, frame, self._resolve(before, frame, said), proposals)

    @devices.in_float32
    def inspect(
        self, frame: UInt8[np.ndarray, "H W 3"], prompt: prompts_lib.PromptLike | None = None
    ) -> inspection.Inspection:
        """Returns all that the model computes for the next frame in the first view, without taking the step.

        Arguments and errors as `step`.
        """
        inputs = self.prepare(frame, prompt)
        return inspection.inspect(
            self.engine.model,
            self.params,
            inputs.states[0],
            inputs.arrays[0],
            index=self.index,
            objects=inputs.objects,
            view=self.engine.views(frame.shape[:2])[0],
        )

    # ---------------------------------------------------------------- one step

    def _start(self, size: tuple[int, int]) -> Snapshot:
        capacity = self.engine.capacity_for(self._room)
        states = tuple(self.engine.init_state(view, capacity) for view in self.engine.views(size))
        return Snapshot(states=states, objects=objects_lib.ObjectTable(), index=0, size=size)

    def _resolve(self, before: Snapshot, frame: np.ndarray, prompt: prompts_lib.Prompt) -> prompts_lib.Prompt:
        """Returns a prompt with masks in place of its boxes; checks the sizes of frame and prompt."""
        view_lib.check_sizes(frame, prompt.ids, before.size, before.index)
        return dataclasses.replace(prompt, ids=self.engine.prompt_ids(frame, prompt), boxes={})

    @devices.in_float32
    def _prepare(
        self,
        before: Snapshot,
        frame: np.ndarray,
        prompt: prompts_lib.Prompt,
        proposals: proposal_arrays.ProposalArrays | None,
    ) -> Inputs:
        engine, states, views = self.engine, before.states, self.engine.views(before.size)
        table = before.objects.updated(before.index, prompt, engine.model.memory_spec.config.max_pins)
        capacity = max(engine.capacity_for(max(len(table.slots), 1)), states[0].object_valid.shape[0])
        if capacity > states[0].object_valid.shape[0]:
            states = tuple(state_lib.grow(state, capacity) for state in states)
        removed = [before.objects.slots[user_id] for user_id in prompt.remove]
        arrays = tuple(
            (
                view.see(frame),
                table.prompt_arrays(view, prompt, removed, engine.no_prompt(view, capacity)),
                engine.check_proposals(view, proposals, before.index),
            )
            for view in views
        )
        return Inputs(states, table, arrays)

    def _advance(
        self,
        before: Snapshot,
        frame: np.ndarray,
        prompt: prompts_lib.Prompt,
        proposals: proposal_arrays.ProposalArrays | None,
        soft: bool,
    ) -> tuple[Snapshot, frame_result.Pending]:
        engine, views, ids = self.engine, self.engine.views(before.size), prompt.ids
        inputs = self._prepare(before, frame, prompt, proposals)
        if not inputs.objects.slots and not before.objects.slots:
            # An object that is in the frame but not yet known would be remembered as background.
            after = dataclasses.replace(before, index=before.index + 1)
            nothing = frame_result.nothing(before.index, before.size, soft, engine.intermediates)
            return after, frame_result.Pending(nothing)
        params = {**engine.params, **before.adapted} if before.adapted else engine.params
        merged = len(views) > 1
        states: list[state_lib.State] = []
        found: list[frame_result.ViewResult] = []
        for view, state, arrays in zip(views, inputs.states, inputs.arrays, strict=True):
            wanted = soft or merged or view.size != view.frame_size
            state, output = engine.run(params, state, *arrays, soft=wanted)
            states.append(state)
            found.append(frame_result.ViewResult(view, inputs.objects, output))

        def finish() -> frame_result.FrameResult:
            engine.wait([view.output for view in found])
            return frame_result.merge(found, before.index, prompt, soft)

        pending, adapted = frame_result.Pending(finish), before.adapted
        if engine.adapts and ids is not None and ids.any():
            shown = pending.result().ids
            shown = geometry.overwrite(found[0].ids(), ids) if merged else shown
            adapted = engine.adapt(dict(adapted), frame, shown)
        after = dataclasses.replace(
            before, states=tuple(states), objects=inputs.objects, index=before.index + 1, adapted=adapted
        )
        return after, pending
