"""The Python API: masks in, masks out, one frame after the other, under the user's own object ids.

>>> import numpy as np
>>> from vos_jax import Segmenter
>>> frames = np.full((4, 64, 96, 3), 60, np.uint8)          # a grey video ...
>>> for t in range(4):
...     frames[t, 16:48, 8 + 8 * t : 40 + 8 * t] = 250, 40, 40   # ... in which a red square moves
>>> first = np.zeros((64, 96), np.uint8)
>>> first[16:48, 8:40] = 5                                  # object 5, painted in frame 0

>>> seg = Segmenter.from_pretrained("training_free")        # "lite0" where its weights are
>>> for t, ids in enumerate(seg.track(frames, {0: first})):
...     print(ids.shape, ids.dtype, np.unique(ids), ids[32, 24 + 8 * t])
(64, 96) uint8 [0 5] 5
(64, 96) uint8 [0 5] 5
(64, 96) uint8 [0 5] 5
(64, 96) uint8 [0 5] 5

Frame by frame, with soft masks, a second object and a correction on the way:

>>> seg.reset()
>>> ids = seg.step(frames[0], first)
>>> ids = seg.step(frames[1])
>>> {i: p.shape for i, p in seg.probabilities().items()}
{0: (64, 96), 5: (64, 96)}
>>> corner = np.zeros((64, 96), bool)
>>> corner[:16, 80:] = True
>>> np.unique(seg.add_object(corner, 9)).tolist()           # it lies in the frame segmented last
[0, 5, 9]
>>> better = np.zeros((64, 96), np.uint8)
>>> better[16:48, 16:48] = 5
>>> ids = seg.correct(better)
>>> bool(np.all((ids == 5) == (better == 5)))
True
>>> np.unique(seg.remove_object(9)).tolist()
[0, 5]
>>> seg.objects
(5,)
"""

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vos_jax import config as configs
from vos_jax import errors, geometry
from vos_jax.inference import annotations as annotations_lib
from vos_jax.inference import box_masks, followers, snapshots, tracked, tracker
from vos_jax.models import config as model_config
from vos_jax.models import masks as mask_lib
from vos_jax.models import state as state_lib
from vos_jax.models import weights
from vos_jax.models.backbones import pretrained
from vos_jax.typing import Bool, Float, UInt8

TRAINING_FREE = "training_free"
UNUSED = configs.Unused(
    "Segmenter",
    sections=("checkpoint", "data.", "eval.", "train."),
    keys=(*configs.MERGED, "model.proposals.source=file"),
)
MAX_ID = 254
"""Largest object id; 255 means "void" in mask files."""


class Segmenter:
    """Follows objects through one video at a time.

    Masks are arrays [H, W] of object ids: 0 is background, 1 to 254 are whatever the user calls the objects;
    a boolean mask is object 1. Frames are uint8 RGB [H, W, 3] of any size, one size per video.

    Every edit (`add_object`, `correct`, `remove_object`) is about the frame segmented last: that frame is
    segmented again from what was known before it, so a wrong mask leaves no trace in the memory.

    Args:
      model, params: any `state.Model` and its parameters; `from_pretrained` finds them by name.
      buckets: capacities for objects; see `Tracker`.
      min_size, max_size: limits of the working size; see `geometry.working_size`. 0: none.
      adapter: learns from the masks that are given (`followers.make_adapter`); default: nothing does.
    """

    def __init__(
        self,
        model: state_lib.Model,
        params: Any,
        *,
        buckets: Sequence[int] = tracker.DEFAULT_BUCKETS,
        min_size: int = 0,
        max_size: int = 0,
        adapter: tracker.Adapter | None = None,
    ):
        self._tracker = tracker.Tracker(
            model,
            params,
            buckets=buckets,
            keep_states=True,
            min_size=min_size,
            max_size=max_size,
            adapter=adapter,
        )
        self._fingerprint = snapshots.fingerprint(model, params)
        self._mask_of_box = box_masks.BoxMasks(model, self._tracker.params)
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        name: str = "lite0",
        *,
        checkpoint: str | os.PathLike | None = None,
        dtype: str = "float32",
        overrides: Sequence[str] = (),
    ) -> "Segmenter":
        """Returns a segmenter with trained weights.

        Args:
          name: "lite0" or "resnet50"; "training_free" needs no trained weights and always works.
          checkpoint: exported weights (`python -m vos_jax.export`); None takes those that ship.
          dtype: "float32" or "bfloat16", what the network computes in.
          overrides: keys of docs/configuration.md to change, as "model.memory.every=3".

        Raises:
          VosError: an unknown name; no weights ship under it (says how to get them); a wrong checkpoint.
        """
        if name != TRAINING_FREE and name not in model_config.VARIANTS:
            known = ", ".join((*sorted(model_config.VARIANTS), TRAINING_FREE))
            raise errors.VosError(f"no model {name!r}; there are {known}")
        if name == TRAINING_FREE and checkpoint is not None:
            raise errors.VosError(f"{TRAINING_FREE} takes no checkpoint; name the model {checkpoint} is of")
        # The overrides last: they have the last word on what the variant says, too.
        variant = "lite0" if name == TRAINING_FREE else name
        config = configs.load("default", [f"model.variant={variant}", f"model.dtype={dtype}", *overrides])
        UNUSED.check(config, overrides)
        if name == TRAINING_FREE:
            source = "none"
        else:
            source = str(shipped_weights(name) if checkpoint is None else checkpoint)
        model, params, _ = weights.load_model(config.model, source)
        return cls(
            model,
            params,
            buckets=config.inference.object_buckets,
            min_size=config.inference.min_size,
            max_size=config.inference.max_size,
            adapter=followers.make_adapter(config, model),
        )

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of the objects being followed, in the order in which they came."""
        return () if self._track is None else tuple(self._track.objects)

    @property
    def presence(self) -> dict[int, float]:
        """Per object, how sure the model is that it is in the frame segmented last, in [0, 1]."""
        return {} if self._result is None else dict(self._result.presence)

    @property
    def frame_index(self) -> int:
        """How many frames of this video were segmented."""
        return 0 if self._track is None else self._track.index

    def reset(self) -> None:
        """Forgets the video; what is compiled stays."""
        self._track: tracker.Track | None = None
        self._result: tracked.TrackedFrame | None = None
        # What the last frame was made from, for edits: the state before it, its pixels, what was said of it.
        self._before: tracked.Snapshot | None = None
        self._frame: np.ndarray | None = None
        self._given: np.ndarray | None = None
        self._removed: set[int] = set()

    def track(
        self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], annotations: Mapping[int, np.ndarray]
    ) -> Iterator[UInt8[np.ndarray, "H W"]]:
        """Starts a new video and yields every frame's ids, in order and in bounded memory.

        Args:
          frames: any iterable; taken one by one.
          annotations: frame index -> ids of the objects that appear or are corrected there.

        Raises:
          VosError: no object at all, too many of them, or too many frames in which objects first appear; and
            while frames come, a frame or mask of a wrong size or type.
        """
        given = {index: _as_ids(ids, f"the mask for frame {index}") for index, ids in annotations.items()}
        annotations_lib.check(given, self._tracker)
        self.reset()
        # A generator of its own: mistakes surface here, not at the first frame.
        return (self.step(frame, given.get(index)) for index, frame in enumerate(frames))

    def step(
        self, frame: UInt8[np.ndarray, "H W 3"], ids: np.ndarray | None = None
    ) -> UInt8[np.ndarray, "H W"]:
        """Segments the next frame of the video and returns its ids.

        Args:
          frame: the frame; the first one fixes the video's size.
          ids: objects that appear in this frame, or that the user knows better; 0 elsewhere.

        Raises:
          VosError: a frame or mask of a wrong size or type, or too many objects. Nothing has changed then.
        """
        frame = _as_frame(frame, self.frame_index)
        if ids is not None:
            ids = _as_ids(ids, f"the mask for frame {self.frame_index}")
        track = self._track or self._tracker.start(frame.shape[:2])
        before = track.snapshot()
        self._result = track.step(frame, ids)
        self._track, self._before, self._frame = track, before, frame.copy()
        self._given, self._removed = ids, set()
        return self._result.ids

    def correct(self, ids: np.ndarray) -> UInt8[np.ndarray, "H W"]:
        """Takes the user's word for objects in the frame segmented last and returns its new ids.

        Args:
          ids: the corrected objects; objects that are not in it are segmented again.

        Raises:
          VosError: no frame yet, a wrong size, no object in it, or one that is not followed.
        """
        ids = _as_ids(ids, "the correction")
        present = _objects(ids)
        strangers = [i for i in present if i not in self.objects]
        if not present:
            raise errors.VosError("the correction holds no object; remove_object stops following one")
        if strangers:
            raise errors.VosError(
                f"object {strangers[0]} is not followed ({_listed(self.objects)}); add_object adds it"
            )
        return self._redo(ids)

    def add_object(self, mask: np.ndarray, object_id: int | None = None) -> UInt8[np.ndarray, "H W"]:
        """Follows one more object from the frame segmented last on and returns that frame's new ids.

        Args:
          mask: where the object is: boolean, or anything that is not 0.
          object_id: its id; None takes the lowest free one, which is the last of `objects` then.

        Raises:
          VosError: no frame yet, a wrong size, an empty mask, an id that is taken or not in 1 to 254.
        """
        where = _as_plane(mask, "the object's mask") != 0
        if object_id is None:
            object_id = min(set(range(1, MAX_ID + 2)) - set(self.objects))
        if not 1 <= object_id <= MAX_ID:
            raise errors.VosError(f"object id {object_id}: ids are 1 to {MAX_ID}")
        if object_id in self.objects:
            raise errors.VosError(f"object {object_id} is followed already; correct() changes its mask")
        if not where.any():
            raise errors.VosError(f"the mask of object {object_id} is empty")
        return self._redo(where.astype(np.uint8) * np.uint8(object_id))

    def remove_object(self, object_id: int) -> UInt8[np.ndarray, "H W"]:
        """Stops following an object and returns the last frame's ids without it.

        Raises:
          VosError: no frame yet, or the object is not followed.
        """
        if object_id not in self.objects:
            raise errors.VosError(
                f"object {object_id} cannot be removed: it is not followed ({_listed(self.objects)})"
            )
        return self._redo(None, remove=object_id)

    def mask_of_box(
        self, frame: UInt8[np.ndarray, "H W 3"], box: tuple[float, float, float, float]
    ) -> Bool[np.ndarray, "H W"]:
        """Returns the mask of the object in a box, to be handed to `step`, `add_object` or `correct`.

        Args:
          frame: RGB.
          box: (x0, y0, x1, y1) in pixels.

        Raises:
          VosError: the box is less than 4 pixels wide or high, or nothing in it stands out.
        """
        return self._mask_of_box(frame, box[:2], box[2:])

    def probabilities(self) -> dict[int, Float[np.ndarray, "H W"]]:
        """Soft masks of the frame segmented last: id -> probability, 0 being the background; they sum to 1.

        Raises:
          VosError: no frame yet.
        """
        if self._track is None:
            raise errors.VosError("no frame was segmented yet; step() or track() does it")
        track = self._track
        full = np.asarray(mask_lib.upsample(track.state.prev_prob, geometry.MASK_STRIDE))
        probs = {user_id: track.full_size(full[index]) for user_id, index in track.objects.items()}
        return {0: np.clip(1.0 - sum(probs.values(), np.zeros(track.size, np.float32)), 0.0, 1.0), **probs}

    def save(self, path: str | os.PathLike) -> None:
        """Writes where the video stands to a safetensors file; `load` goes on from there, bit for bit.

        Raises:
          VosError: no frame yet, or the file cannot be written.
        """
        if self._track is None:
            raise errors.VosError("there is no state to save: no frame was segmented yet")
        snapshots.save(path, self._track.snapshot(), self._fingerprint)

    def load(self, path: str | os.PathLike) -> None:
        """Goes on where `save` was called: the next `step` is the frame after.

        Raises:
          VosError: no such file, a damaged one, or one of another model. Nothing has changed then.
        """
        track = snapshots.load(path, self._tracker, self._fingerprint)
        self.reset()
        self._track = track

    def _redo(self, ids: np.ndarray | None, remove: int | None = None) -> UInt8[np.ndarray, "H W"]:
        """Segments the last frame again with what was said of it before and now."""
        if self._before is None:
            raise errors.VosError("there is no frame to edit: segment one first, with step() or track()")
        assert self._frame is not None  # kept together with the state before it
        given, removed = self._given, set(self._removed)
        if ids is not None:
            if ids.shape != self._frame.shape[:2]:
                raise errors.VosError(
                    f"the mask is {ids.shape[1]}x{ids.shape[0]}, the frame "
                    f"{self._frame.shape[1]}x{self._frame.shape[0]} (width x height)"
                )
            given = ids if given is None else geometry.overwrite(given, ids)
        if remove is not None:
            if given is not None:
                given = np.where(given == remove, np.uint8(0), given)
            if remove in self._before.objects:
                removed.add(remove)
        track = self._tracker.resume(self._before)
        self._result = track.step(self._frame, given, remove=sorted(removed))
        self._track, self._given, self._removed = track, given, removed
        return self._result.ids


def shipped_weights(name: str) -> pathlib.Path:
    """The trained weights that ship under a name.

    Raises:
      VosError: there are none; says how to make them.
    """
    path = pretrained.WEIGHTS / f"{name}.safetensors"
    if path.is_file():
        return path
    backbone = model_config.change_variant(model_config.ModelConfig(), name).backbone
    convert = ""
    if not (pretrained.WEIGHTS / f"{backbone}.safetensors").is_file():
        convert = f"`python -m vos_jax.convert {backbone} FILE.pth` for the backbone, "
    raise errors.VosError(
        f"no trained weights for {name!r} come with this version; train them ({convert}`python train.py "
        f"--config train_davis --config.model.variant={name} --workdir RUN`, `python -m vos_jax.export RUN "
        f"{name}.safetensors`) and say checkpoint={name + '.safetensors'!r}, or take {TRAINING_FREE!r}"
    )


def _as_frame(frame: Any, index: int) -> np.ndarray:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise errors.VosError(
            f"frame {index} is {frame.dtype} {list(frame.shape)}; frames are uint8 RGB [height, width, 3]"
        )
    return frame


def _as_plane(mask: Any, what: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or not (mask.dtype == bool or np.issubdtype(mask.dtype, np.integer)):
        raise errors.VosError(
            f"{what} is {mask.dtype} {list(mask.shape)}; masks are integer ids or booleans [height, width]"
        )
    return mask


def _as_ids(ids: Any, what: str) -> np.ndarray:
    ids = _as_plane(ids, what)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= MAX_ID:
        raise errors.VosError(f"{what} holds ids from {ids.min()} to {ids.max()}; ids are 0 to {MAX_ID}")
    # A copy: the caller may go on painting in it.
    return np.array(ids, np.uint8)


def _objects(ids: np.ndarray) -> list[int]:
    return [int(i) for i in np.unique(ids) if i]


def _listed(objects: Sequence[int]) -> str:
    return f"followed: {', '.join(map(str, objects))}" if objects else "none is followed"
