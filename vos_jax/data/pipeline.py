"""Training batches from grain: deterministic, resumable at any step, the same for any number of workers.

References (source, video) are shuffled, repeated and mixed; a final map draws, decodes and augments the clip.
Its key is (seed, position in the global stream), so a clip does not depend on the process, worker or thread
that makes it, and the position is the whole state of the iterator. Each process takes its block of every
global batch, so N processes see the same batches as one.

Uses neither JAX nor global state, so that workers do not initialise a device.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from typing import Any

import cv2
import grain
import numpy as np

from vos_jax import checksums, errors
from vos_jax.data import augmentation as augmentation_lib
from vos_jax.data import clips, cutouts, datasets, pseudo_clips, transforms, workers
from vos_jax.data import config as config_lib
from vos_jax.data import video as video_lib

log = logging.getLogger(__name__)

Batch = dict[str, Any]  # of numpy arrays and scalars

_NOTE_BYTES = 320
_JUDGED_FROM = 3
"""Unreadable items before their share is checked: one bad file among the first ten clips is not enough."""

_TRIALS = 4
"""Number of draws of one item whose objects are outside the crop or too small."""

_MOST_IN_A_ROW = 100
"""Number of consecutive unusable items after which a source raises VosError."""


@dataclasses.dataclass(frozen=True)
class MakeClip:
    """Makes one training clip from (position in the global stream, (source, item)).

    Attributes:
      config: The settings.
      videos: Of each source with a weight.
      dataset_names: Data sets that have a lambda of their own.
      seed: Of all random draws.
    """

    config: config_lib.ClipDataConfig
    videos: tuple[tuple[video_lib.Video, ...], ...]
    dataset_names: tuple[str, ...]
    seed: int

    @property
    def sources(self) -> tuple[datasets.SourceConfig, ...]:
        """Settings of the sources of `videos`."""
        return tuple(self.config.drawn().values())

    def __call__(self, position: int, reference: np.ndarray) -> Batch:
        """Returns the clip of one position; replaces an unusable item by the next usable one."""
        number, item = int(reference[0]), int(reference[1])
        videos = self.videos[number]
        key = transforms.Key((self.seed, int(position)))
        step = int(position) // self.config.batch
        notes: list[str] = []
        lost = {"_unreadable": 0, "_unusable": 0}
        clip = None
        for attempt in range(min(len(videos), _MOST_IN_A_ROW)):
            index = (item + attempt) % len(videos)
            try:
                clip = self._try(number, index, step, key.fold(attempt))
                break
            except (errors.VosError, OSError, cv2.error) as error:
                lost["_unusable" if isinstance(error, transforms.UnusableClip) else "_unreadable"] += 1
                notes.append(f"{videos[index].name}: {' '.join(str(error).split())}")
        found = {"_found": np.bool_(clip is not None), "_note": _encode(notes)}
        counts = {name: np.int32(count) for name, count in lost.items()}
        return {**(clip or self._blank()), **found, **counts}

    def _try(self, number: int, index: int, step: int, key: transforms.Key) -> clips.ClipArrays:
        """Makes the clip; repeats a draw without objects up to `_TRIALS` times."""
        for trial in range(_TRIALS - 1):
            try:
                return self._make(number, index, step, key.fold(trial))
            except transforms.UnusableClip:
                pass
        return self._make(number, index, step, key.fold(_TRIALS - 1))

    def _make(self, number: int, index: int, step: int, key: transforms.Key) -> clips.ClipArrays:
        config, video, settings = self.config, self.videos[number][index], self.sources[number]
        augmentation = dataclasses.replace(
            config.augmentation,
            crop=dataclasses.replace(config.augmentation.crop, size=(config.crop, config.crop)),
            objects=dataclasses.replace(config.augmentation.objects, max_objects=config.max_objects),
        )
        max_gap = config.gap(step)
        pasted = key.fold("pasted").generator().random() < config.paste.prob
        if len(video) == 1 if settings.pseudo is None else settings.pseudo:
            clip = self._pseudo(number, index, augmentation, key, alone=pasted)
        else:
            view = clips.load_clip(
                video,
                length=config.clip_length,
                max_gap=max_gap,
                unannotated=settings.unannotated,
                key=key.fold("clip"),
            )
            clip = transforms.render(augmentation.place(view, key))
        # Pasted objects may be behind the clip's own objects, so every frame needs its mask.
        if pasted and all(ids is not None for ids in clip.ids):
            clip = self._pasted(clip, number, index, max_gap, key.fold("paste"))
        labelled = transforms.pad(clip, (config.crop, config.crop)).ids
        clip, num_objects = augmentation.finish(clip, key)
        return self._to_arrays(
            clip,
            num_objects=num_objects,
            dataset=self.dataset_names.index(settings.dataset_name),
            labelled=labelled,
            exhaustive=settings.is_exhaustive(video.name),
        )

    def _pseudo(
        self,
        number: int,
        index: int,
        augmentation: augmentation_lib.Augmentation,
        key: transforms.Key,
        *,
        alone: bool,
    ) -> transforms.Clip:
        """Makes a pseudo-clip of a photo; `alone`: without objects of other photos."""
        pseudo = dataclasses.replace(self.config.pseudo, max_objects=self.config.max_objects)
        videos = self.videos[number]
        photo = clips.load_photo(videos[index], key=key.fold("photo"))
        rng = key.fold("others").generator()
        num_pasted = 0 if alone else pseudo.num_pasted(photo, key)
        others = [
            clips.load_photo(videos[int(other)], key=key.fold("other").fold(place))
            for place, other in enumerate(rng.integers(len(videos), size=num_pasted))
        ]
        return pseudo_clips.of_photo(
            photo, others, pseudo, augmentation, length=self.config.clip_length, key=key
        )

    def _pasted(
        self, clip: transforms.Clip, number: int, index: int, max_gap: int, key: transforms.Key
    ) -> transforms.Clip:
        """Pastes objects of other videos over a clip of video `index` of source `number`."""
        settings = self.config.paste
        drawn = cutouts.draw(
            self.videos,
            [source.weight for source in self.sources],
            (number, index),
            settings.num_pasted(clip, key),
            length=len(clip.frames),
            max_gap=max_gap,
            min_pixels=settings.min_pixels,
            lookalike=settings.lookalike,
            key=key.fold("cutouts"),
        )
        return settings(clip, drawn, max_gap=max_gap, key=key.fold("layers"))

    def _blank(self) -> clips.ClipArrays:
        clip = transforms.Clip(
            (np.zeros((self.config.crop, self.config.crop, 3), np.uint8),),
            (None,),
            (self.config.crop, self.config.crop),
        )
        return self._to_arrays(clip, num_objects=0, dataset=0)

    def _to_arrays(self, clip: transforms.Clip, **details: Any) -> clips.ClipArrays:
        config = self.config
        sizes = {name: getattr(config, name) for name in ("max_objects", "max_instances")}
        return clips.to_arrays(clip, length=config.clip_length, **sizes, **details)


def _encode(notes: list[str]) -> np.ndarray:
    """Encodes notes as a fixed number of bytes, because batches need arrays of static shape."""
    data = "; ".join(notes).encode()[:_NOTE_BYTES]
    return np.frombuffer(data.ljust(_NOTE_BYTES, b"\0"), np.uint8)


def references(counts: Sequence[int], weights: Sequence[float], seed: int) -> grain.MapDataset:
    """Returns the infinite global stream of references int64 [2], source and video, shuffled and mixed.

    Args:
      counts: number of videos of each source.
      weights: of the sources.
      seed: of the order.
    """
    streams = [
        grain.MapDataset.range(count)
        .shuffle(seed=seed + number)
        .repeat()
        .map(functools.partial(_refer, number))
        for number, count in enumerate(counts)
    ]
    return grain.MapDataset.mix(streams, weights=list(weights))


def _refer(number: int, item: int) -> np.ndarray:
    return np.array([number, item])


_STATE = ("step", "drawn", "unreadable", "unusable")
_SUM = "checksum"


class BatchIterator(grain.DatasetIterator):
    """An infinite iterator of batches whose state is its step; orbax can save and restore it.

    Attributes:
      step: batches returned since the start of training.
      drawn: clips returned by this process since then.
      unreadable: items that were replaced because a file is damaged.
      unusable: items that were replaced because they show no object; these do not stop a run.
      problems: messages about the replaced items of this run.
    """

    def __init__(self, batches: grain.MapDataset, config: config_lib.ClipDataConfig):
        super().__init__()
        self._batches, self._config = batches, config
        self.step = self.drawn = self.unreadable = self.unusable = 0
        self.problems: dict[str, None] = {}
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
          VosError: more than `max_unreadable` of the items cannot be read, or a source has no usable item.
        """
        if self._closed:
            raise ValueError("the iterator is closed")
        if self._running is None:
            config = self._config
            running = workers.prefetched(
                self._batches[self.step :],
                num_workers=config.workers,
                num_threads=config.threads,
                prefetch=config.prefetch,
            )
            self._running = iter(running)
        assert self._running is not None
        batch = dict(next(self._running))
        if self._config.workers:
            # Copied, because JAX may keep a batch until the process ends, and with it the shared memory.
            batch = {name: np.array(value) for name, value in batch.items()}
        self.step += 1
        self.drawn += len(batch["dataset"])
        notes = [note.tobytes().rstrip(b"\0").decode(errors="replace") for note in batch.pop("_note")]
        unreadable, unusable = (batch.pop(name) for name in ("_unreadable", "_unusable"))
        self.unreadable += int(unreadable.sum())
        self.unusable += int(unusable.sum())
        for note in filter(None, notes):
            if note not in self.problems:
                log.warning("replaced by the next readable item: %s", note)
            self.problems[note] = None
        if not batch.pop("_found").all():
            raise errors.VosError(f"no usable training item, last: {[note for note in notes if note][-1]}")
        if unreadable.any():
            self._judge()
        return batch

    def _judge(self) -> None:
        log.warning("%d of %d training items unreadable so far", self.unreadable, self.drawn)
        if self.unreadable >= _JUDGED_FROM and self.unreadable > self._config.max_unreadable * self.drawn:
            named = " | ".join(list(self.problems)[:5])
            raise errors.VosError(
                f"{self.unreadable} of {self.drawn} training items could not be read, more than "
                f"{self._config.max_unreadable:.0%}; repair or exclude them: {named}"
            )

    def get_state(self) -> dict[str, Any]:
        """Returns the position in the stream, as plain numbers with a checksum."""
        position = {name: getattr(self, name) for name in _STATE}
        return position | {_SUM: checksums.of_json(position)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to a saved position, independent of the number of workers and processes that saved it.

        Raises:
          VosError: the checksum does not match; the iterator is unchanged.
        """
        position = {name: int(state[name]) for name in _STATE}
        if _SUM in state and state[_SUM] != checksums.of_json(position):
            raise errors.VosError(f"the position in the training data was altered: {position}")
        self._stop()
        for name in _STATE:
            setattr(self, name, position[name])

    async def load(self, directory: Any) -> Any:
        """Restores from a checkpoint directory, which another number of processes may have saved.

        The stream is global, so the position is the same for every process.
        """
        states = sorted(directory.glob("process_*.json"))
        if not states:
            raise errors.VosError(f"{directory}: has no position of the training data")

        async def restore() -> None:
            self.set_state(json.loads(states[0].read_text()))

        return restore()

    def close(self) -> None:
        """Stops threads and workers; the iterator cannot be used afterwards."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


def make_pipeline(
    config: config_lib.ClipDataConfig,
    *,
    dataset_names: Sequence[str],
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchIterator:
    """Opens the sources and returns this process's infinite iterator of batches.

    A batch holds `clips.ClipArrays` with a leading axis of b = `config.batch // process_count` clips.
    Process p gets rows p·b..(p+1)·b−1 of the global batch, which is the same for every number of processes.

    Args:
      config: see `config_lib.ClipDataConfig`.
      dataset_names: data sets that have a lambda of their own, in the model's order.
      seed: of all random draws.
      process_index, process_count: index of this process, and number of processes.

    Raises:
      VosError: an empty or missing source, or a batch that is not a multiple of the number of processes.
    """
    config.check(dataset_names)
    if config.batch % process_count:
        raise errors.VosError(
            f"a batch of {config.batch} clips does not divide among {process_count} processes; "
            f"make it a multiple of {process_count}"
        )
    drawn = config.drawn().values()
    videos = tuple(datasets.open_training_videos(source) for source in drawn)
    local = config.batch // process_count
    make_clip = MakeClip(config, videos, tuple(dataset_names), seed)
    mixed = references([len(of_source) for of_source in videos], [source.weight for source in drawn], seed)
    # `drop_remainder` drops nothing from an infinite stream; without it, the length would overflow an index.
    batches = mixed.map_with_index(make_clip).batch(local, drop_remainder=True)
    return BatchIterator(batches[process_index::process_count], config)
