"""Following objects through a video, frame by frame: numpy in, numpy out, the user's own ids."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax import errors, geometry
from vos_jax.inference import annotations as annotations_lib
from vos_jax.inference import tracked
from vos_jax.models import masks, vos
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib

DEFAULT_BUCKETS = (1, 2, 3, 5, 8, 13, 21, 34, 64)


class Adapter(Protocol):
    """What makes parameters of a video's own: `train.adaptation.Adapter`."""

    @property
    def compile_seconds(self) -> float: ...  # so far

    def __call__(
        self, params: Any, learned: dict[str, Any], frame: np.ndarray, ids: np.ndarray
    ) -> dict[str, Any]: ...


class Tracker:
    """Runs a model over videos; holds what is compiled, so that videos of one size share it.

    Args:
      model, params: the method and its parameters.
      buckets: capacities for objects; each is compiled once.
      with_prob: whether results carry soft masks.
      keep_states: whether earlier snapshots stay usable as a track goes on: a copy of the memory per frame.
      num_proposals: places in every frame for proposals from elsewhere; 0: they are the model's own.
      min_size, max_size: limits of the working size (`geometry.working_size`). Masks have the frames' size.
      adapter: learns from every frame in which masks are given; None: nothing does.

    Attributes:
      seconds: wall time spent so far, split into "compile", "inference" and "adaptation".
      frames: how many frames were segmented.
      compilations: how often the step was compiled: once per (padded size, object bucket).
    """

    def __init__(
        self,
        model: state_lib.Model,
        params: Any,
        *,
        buckets: Sequence[int] = DEFAULT_BUCKETS,
        with_prob: bool = False,
        stages: Sequence[str] = (),
        keep_states: bool = False,
        num_proposals: int = 0,
        min_size: int = 0,
        max_size: int = 0,
        adapter: Adapter | None = None,
    ):
        self.model = model
        self.params = jax.device_put(params)
        self.buckets = tuple(sorted(buckets))
        self.with_prob = with_prob
        self.stages = tuple(stages)
        if unknown := [name for name in stages if name not in vos.INTERMEDIATES]:
            raise errors.VosError(
                f"no stage {unknown[0]!r} to show; there are: {', '.join(vos.INTERMEDIATES)}"
            )
        self.num_proposals = num_proposals
        self.min_size, self.max_size = min_size, max_size
        self.adapter = adapter
        self.seconds = {"compile": 0.0, "inference": 0.0, "adaptation": 0.0}
        self.frames = 0
        self._steps = {}
        self._jitted = jax.jit(self._step, static_argnames="soft", donate_argnums=() if keep_states else 1)

    @property
    def compilations(self) -> int:
        """How often the step was compiled."""
        return len(self._steps)

    def _step(
        self,
        params: Any,
        state: state_lib.State,
        frame: jax.Array,
        prompt: state_lib.PromptArrays,
        proposals: proposals_lib.Proposals | None,
        *,
        soft: bool,
    ):
        state, output = step_lib.step(self.model, params, state, frame, prompt, proposals)
        prob, prediction = output.prob, output.prediction
        ids = masks.to_ids(prob, geometry.MASK_STRIDE)
        full = masks.upsample(prob, geometry.MASK_STRIDE) if soft else None
        stages = {name: vos.INTERMEDIATES[name](prediction.out) for name in self.stages}
        stages = {
            name: masks.to_ids(masks.aggregate(x, state.object_valid), geometry.MASK_STRIDE)
            for name, x in stages.items()
        }
        return state, ids, prediction.presence, full, stages

    def step(
        self,
        params: Any,
        state: state_lib.State,
        frame: np.ndarray,
        prompt: state_lib.PromptArrays,
        proposals: proposals_lib.Proposals | None = None,
        *,
        soft: bool,
    ):
        """Runs the compiled step for these shapes, compiling it first where that is new.

        Args:
          params: the tracker's, or a track's.
          soft: whether probabilities are returned at the frame's size, too.
        """
        shapes = frame.shape, prompt.given.shape[0], soft
        if shapes not in self._steps:
            start = time.perf_counter()
            # Ahead of time: such a program refuses other shapes instead of silently compiling again.
            lowered = self._jitted.lower(params, state, frame, prompt, proposals, soft=soft)
            self._steps[shapes] = lowered.compile()
            self.seconds["compile"] += time.perf_counter() - start
        start = time.perf_counter()
        outputs = jax.block_until_ready(self._steps[shapes](params, state, frame, prompt, proposals))
        self.seconds["inference"] += time.perf_counter() - start
        self.frames += 1
        return outputs

    def working_size(self, size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """Returns the (height, width) at which the model sees frames; see `geometry.working_size`."""
        return geometry.working_size(size, self.min_size, self.max_size, scale)

    def adapt(self, learned: dict[str, Any], frame: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
        """Returns a track's own parameters after a frame with its masks, both of the frames' size."""
        if self.adapter is None:
            return learned
        seen = self.working_size(frame.shape[:2])
        start, compiled = time.perf_counter(), self.adapter.compile_seconds
        learned = self.adapter(
            self.params, learned, geometry.resize_frame(frame, seen), geometry.resize_ids(ids, seen)
        )
        compiled = self.adapter.compile_seconds - compiled
        self.seconds["compile"] += compiled
        self.seconds["adaptation"] += time.perf_counter() - start - compiled
        return learned

    def bucket(self, num_objects: int) -> int:
        """Returns the capacity used for so many objects.

        Raises:
          VosError: no bucket is large enough.
        """
        for size in self.buckets:
            if num_objects <= size:
                return size
        raise errors.VosError(
            f"{num_objects} objects at once; at most {self.buckets[-1]} can be followed "
            "(inference.object_buckets)"
        )

    def start(self, size: tuple[int, int], num_objects: int = 1, *, scale: float = 1.0) -> "Track":
        """Returns a new track for frames of (height, width) pixels, with room for `num_objects`.

        Args:
          scale: of the size at which they are followed.
        """
        return Track(self, size, self.bucket(max(num_objects, 1)), self.working_size(size, scale))

    def resume(self, snapshot: tracked.Snapshot) -> "Track":
        """Returns a track that goes on where the snapshot was taken."""
        seen = self.working_size(snapshot.size)
        track = Track(self, snapshot.size, snapshot.state.object_valid.shape[0], seen, state=snapshot.state)
        track.objects, track.index = dict(snapshot.objects), snapshot.index
        track._first_frames = dict(snapshot.first_frames)
        track.learned = dict(snapshot.learned)
        return track

    def track(
        self,
        frames: Iterable[np.ndarray | tuple[np.ndarray, proposals_lib.Proposals]],
        annotations: Mapping[int, np.ndarray],
    ) -> Iterator[tracked.TrackedFrame]:
        """Yields every frame's result, in order and in bounded memory.

        Args:
          frames: uint8 RGB [H, W, 3], all of one size; where proposals come from elsewhere, pairs of one and
            its proposals.
          annotations: per frame index, ids uint8 [H, W] of objects that appear or are corrected there.

        Raises:
          VosError: an annotation has another size than the frames, there are more objects than the largest
            bucket, or objects appear in more different frames than the memory can pin.
        """
        annotations_lib.check(annotations, self)
        count = len({int(i) for ids in annotations.values() for i in np.unique(ids) if i})
        track = None
        for index, item in enumerate(frames):
            frame, proposals = item if isinstance(item, tuple) else (item, None)
            if track is None:
                track = self.start(frame.shape[:2], count)
            yield track.step(frame, annotations.get(index), proposals=proposals)


class Track:
    """One video being followed: the model's state, and which of its objects is which of the user's ids.

    Attributes:
      size: (height, width) of frames and masks; seen: of what the model sees; padded: of what it computes.
      index: how many frames were segmented; the next one's number.
      learned: parameters of this video's own, by name; `params`: with the tracker's for all others.
      adapts: whether it learns by itself where the tracker can; else `learned` comes from elsewhere.
    """

    def __init__(
        self,
        tracker: Tracker,
        size: tuple[int, int],
        capacity: int,
        seen: tuple[int, int],
        *,
        state: state_lib.State | None = None,
    ):
        self.tracker = tracker
        self.size = size
        self.seen = seen
        self.padded = geometry.padded_size(seen)
        if state is None:
            state = state_lib.init_state(tracker.model, capacity, self.padded, seen)
        self.state = state
        self.objects: dict[int, int] = {}  # user's id -> index in the state
        self._first_frames: dict[int, int] = {}  # user's id -> frame of its first annotation
        self.index = 0
        self.learned: dict[str, Any] = {}
        self.adapts = True
        self._no_proposals = None
        if tracker.num_proposals:
            self._no_proposals = jax.device_put(proposals_lib.empty(tracker.num_proposals, self.padded))
        self._nothing = self._no_prompt(capacity)

    @property
    def capacity(self) -> int:
        """How many objects the state has room for."""
        return self.state.object_valid.shape[0]

    @property
    def params(self) -> Any:
        """What the next frame is segmented with."""
        return {**self.tracker.params, **self.learned} if self.learned else self.tracker.params

    def snapshot(self) -> tracked.Snapshot:
        """Returns where the track stands; the next step invalidates it unless the tracker keeps states."""
        return tracked.Snapshot(
            self.state,
            dict(self.objects),
            dict(self._first_frames),
            self.index,
            self.size,
            dict(self.learned),
        )

    def step(
        self,
        frame: np.ndarray,
        ids: np.ndarray | None = None,
        remove: Iterable[int] = (),
        proposals: proposals_lib.Proposals | None = None,
    ) -> tracked.TrackedFrame:
        """Segments the next frame.

        Args:
          frame: uint8 RGB [H, W, 3].
          ids: uint8 [H, W]: masks of objects that appear in this frame or are corrected; 0 elsewhere.
          remove: the user's ids of objects to stop following.
          proposals: of this frame, in the tracker's `num_proposals` places, masks of
            `geometry.padded_size` over `MASK_STRIDE`; None: there are none.

        Raises:
          VosError: wrong size, too many objects, an unknown id to remove, or proposals that have no places.
            The track stays as it was.
        """
        inputs = self.prepare(frame, ids, remove, proposals)
        soft = self.tracker.with_prob or self.seen != self.size
        outputs = self.tracker.step(self.params, self.state, *inputs, soft=soft)
        self.state, seen_ids, presence, prob, stages = outputs
        self.index += 1
        table = np.zeros(256, np.uint8)
        for user_id, index in self.objects.items():
            table[index + 1] = user_id
        planes = []
        if prob is not None:
            prob = np.asarray(prob)
            planes = [self._unpad(prob[index]) for index in (0, *(i + 1 for i in self.objects.values()))]
        if self.seen == self.size:
            result = table[self._unpad(seen_ids)]
        else:
            user_ids = np.array([0, *self.objects], np.uint8)
            result = user_ids[geometry.argmax_resized(planes, self.size)]
        # For looking at only: of ids the larger share wins, not the larger probability.
        stages = {name: geometry.resize_ids(table[self._unpad(x)], self.size) for name, x in stages.items()}
        if ids is not None:
            result = geometry.overwrite(result, ids)
        presence = np.nan_to_num(np.asarray(presence))
        present = {
            user_id: 1.0 if ids is not None and np.any(ids == user_id) else float(presence[index])
            for user_id, index in self.objects.items()
        }
        if self.adapts and ids is not None and ids.any():
            self.learned = self.tracker.adapt(self.learned, frame, result)
        full = None
        if self.tracker.with_prob:
            full = np.stack([geometry.resize_prob(plane, self.size) for plane in planes])
        return tracked.TrackedFrame(ids=result, presence=present, prob=full, stages=stages)

    def full_size(self, plane: Any) -> np.ndarray:
        """From a plane of the padded size to one of the frames' [H, W]."""
        return geometry.resize_prob(self._unpad(plane), self.size)

    def _unpad(self, plane: Any) -> np.ndarray:
        return np.asarray(plane)[: self.seen[0], : self.seen[1]]

    def prepare(
        self,
        frame: np.ndarray,
        ids: np.ndarray | None = None,
        remove: Iterable[int] = (),
        proposals: proposals_lib.Proposals | None = None,
    ) -> tuple[np.ndarray, state_lib.PromptArrays, proposals_lib.Proposals | None]:
        """Returns the frame, prompt and proposals for `step.step`; new objects get their indices here.

        Arguments and errors as `step`.
        """
        if frame.shape[:2] != self.size:
            raise errors.VosError(
                f"frame {self.index} is {frame.shape[1]}x{frame.shape[0]}, "
                f"the video's first one is {self.size[1]}x{self.size[0]}"
            )
        if proposals is not None:
            self._check_proposals(proposals)
        prompt = self._prompt(ids, tuple(remove))
        padded = geometry.pad(geometry.resize_frame(frame, self.seen), self.padded)
        return padded, prompt, self._no_proposals if proposals is None else proposals

    def _prompt(self, ids: np.ndarray | None, remove: tuple[int, ...]) -> state_lib.PromptArrays:
        """Turns the user's ids into the model's indices; changes this track only when all is well."""
        if ids is None and not remove:
            return self._nothing
        if unknown := [i for i in remove if i not in self.objects]:
            raise errors.VosError(
                f"object {unknown[0]} cannot be removed; followed are {sorted(self.objects)}"
            )
        if ids is not None and ids.shape != self.size:
            raise errors.VosError(
                f"the mask for frame {self.index} is {ids.shape[1]}x{ids.shape[0]}, "
                f"the frame is {self.size[1]}x{self.size[0]}"
            )
        present = [int(i) for i in np.unique(ids) if i] if ids is not None else []
        objects = {user_id: index for user_id, index in self.objects.items() if user_id not in remove}
        first_frames = {i: f for i, f in self._first_frames.items() if i in objects}
        for user_id in present:
            if user_id not in objects:
                objects[user_id] = min(set(range(len(objects) + 1)) - set(objects.values()))
                first_frames[user_id] = self.index
        max_pins = self.tracker.model.memory_spec.config.max_pins
        annotations_lib.check_pins(first_frames, max_pins)
        capacity = self.tracker.bucket(max(len(objects), 1))
        if present and set(present) <= set(self.objects) - set(remove):
            annotations_lib.check_correction(int(self.state.frame_index), first_frames, max_pins)
        if capacity > self.capacity:
            self.state = state_lib.grow(self.state, capacity)
            self._nothing = self._no_prompt(capacity)
        prompt = self._nothing
        given, removed = np.array(prompt.given), np.array(prompt.removed)
        for user_id in remove:
            removed[self.objects[user_id]] = True
        if ids is not None:
            slots = np.zeros(256, np.uint8)  # user's id -> 1 + index in the state
            for user_id in present:
                slots[user_id] = 1 + objects[user_id]
                given[objects[user_id]] = True
            slot_ids = geometry.pad(slots[geometry.resize_ids(ids, self.seen)], self.padded, mode="constant")
            prob = masks.one_hot(slot_ids, self.capacity).astype(np.float32)
            prompt = prompt.replace(mask=jnp.asarray(prob))
        self.objects, self._first_frames = objects, first_frames
        return prompt.replace(given=jnp.asarray(given), removed=jnp.asarray(removed))

    def _no_prompt(self, capacity: int) -> state_lib.PromptArrays:
        return jax.device_put(state_lib.no_prompt(capacity, self.padded))

    def _check_proposals(self, proposals: proposals_lib.Proposals) -> None:
        """Raises VosError where another program would have to be compiled for these."""
        if self._no_proposals is None:
            raise errors.VosError(
                f"frame {self.index} comes with proposals, but this model makes its own: "
                "set model.proposals to file"
            )
        found, wanted = proposals.masks.shape, self._no_proposals.masks.shape
        if found != wanted:
            raise errors.VosError(
                f"proposals of frame {self.index} have masks of shape {found}; this video takes {wanted}"
            )
