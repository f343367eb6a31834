"""Training batches from grain: deterministic, resumable at any step, the same for any number of workers.

Light references (which source, which sequence) are shuffled, repeated and mixed; one map at the end draws,
decodes and augments the clip. Its key is (seed, position in the global stream), so an example is the same
whatever process, worker or thread makes it, and the position alone is the iterator's state. Each process
takes its block of every global batch: N processes see exactly the batches that one would see.

No JAX and no global state here: workers never touch a device.
"""

import dataclasses
import functools
import json
import logging
from typing import Any

import cv2
import grain
import numpy as np

from vos_jax import checksums, errors
from vos_jax.data import clips, cutouts, paste, pseudo_clips, sequences, transforms, workers

log = logging.getLogger(__name__)

SourceConfig = sequences.SourceConfig
Batch = dict[str, Any]  # of numpy arrays and scalars

_NOTE_BYTES = 320
_JUDGED_FROM = 3
"""Replacements needed before their share is judged: one bad file among the first ten clips proves nothing."""

_TRIALS = 4
"""Draws of one item before it is given up because its objects are out of the crop or too small."""

_MOST_IN_A_ROW = 100
"""Unreadable items tried one after another before a source is given up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Everything that decides what a training run sees.

    Args:
      sources: what to draw from, mixed by their weights.
      clip_length: frames of a clip, T.
      crop: height and width of a clip, or one number for both (DESIGN §8: 352).
      batch: clips per step over all processes.
      seed: of everything random.
      max_objects: N.
      max_instances: K, labelled instances for the proposal network; pixels of further ones count nowhere.
      dataset_names: index -> name of the λ of the matching cost; every source's `dataset_name` is among them.
      gap: frames skipped within a clip, by step.
      augmentation: its crop's size and its number of objects are set from `crop` and `max_objects`.
      pseudo: how clips are made from single images; its number of objects likewise.
      copy_paste: how objects of other sequences and photos are laid over clips.
      max_unreadable: share of unreadable items above which a run stops.
      num_workers: worker processes; 0 decodes in threads of this process.
      num_threads: threads per worker, or of this process.
      prefetch: batches made ahead, per worker.
    """

    sources: tuple[SourceConfig, ...]
    clip_length: int = 3
    crop: int | tuple[int, int] = 352
    batch: int = 8
    seed: int = 0
    max_objects: int = 4
    max_instances: int = 8
    dataset_names: tuple[str, ...] = ("default",)
    gap: clips.GapSchedule = clips.GapSchedule()
    augmentation: transforms.Augmentation = transforms.Augmentation()
    pseudo: pseudo_clips.PseudoClip = pseudo_clips.PseudoClip()
    copy_paste: paste.Paste = paste.Paste()
    max_unreadable: float = 0.01
    num_workers: int = 0
    num_threads: int = 2
    prefetch: int = 2

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of a clip."""
        height, width = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        return height, width

    def check(self) -> None:
        """Raises VosError for values that cannot work together."""
        if not self.sources:
            raise errors.VosError("no training data: `sources` is empty")
        for name, value, least in (
            ("clip_length", self.clip_length, 2),
            ("crop", min(self.crop_size), 1),
            ("batch", self.batch, 1),
            ("max_objects", self.max_objects, 1),
            ("max_instances", self.max_instances, 1),
            ("seed", self.seed, 0),
            ("num_workers", self.num_workers, 0),
            ("num_threads", self.num_threads, 1),
            ("prefetch", self.prefetch, 1),
        ):
            if value < least:
                raise errors.VosError(f"{name} is {value}; it must be at least {least}")
        for source in self.sources:
            if source.weight <= 0:
                raise errors.VosError(
                    f"{source.root}: weight {source.weight}; leave a source out rather than give it no weight"
                )
            if source.dataset_name not in self.dataset_names:
                raise errors.VosError(
                    f"{source.root}: dataset_name '{source.dataset_name}' is not in dataset_names "
                    f"({', '.join(self.dataset_names)})"
                )


@dataclasses.dataclass(frozen=True)
class MakeExample:
    """Turns (position in the global stream, (source, item)) into one training example."""

    config: PipelineConfig
    opened: tuple[sequences.Sequences, ...]

    def __call__(self, position: int, reference: np.ndarray) -> Batch:
        """Returns the example of one position; an item that cannot be used gives way to the next that can."""
        number, item = int(reference[0]), int(reference[1])
        source = self.opened[number]
        key = transforms.Key((self.config.seed, int(position)))
        step = int(position) // self.config.batch
        notes: list[str] = []
        lost = {"_unreadable": 0, "_unusable": 0}
        example = None
        for attempt in range(min(len(source.names), _MOST_IN_A_ROW)):
            index = (item + attempt) % len(source.names)
            try:
                example = self._try(number, index, step, key.fold(attempt))
                break
            except (errors.VosError, OSError, cv2.error) as error:
                lost["_unusable" if isinstance(error, transforms.UnusableClip) else "_unreadable"] += 1
                notes.append(f"{source.names[index]}: {' '.join(str(error).split())}")
        found = {"_found": np.bool_(example is not None), "_note": _encode(notes)}
        return (example or self._blank()) | found | {name: np.int32(count) for name, count in lost.items()}

    def _try(self, number: int, index: int, step: int, key: transforms.Key) -> Batch:
        """Makes the example; a draw that loses all objects is drawn again before the item is given up."""
        for trial in range(_TRIALS - 1):
            try:
                return self._example(number, index, step, key.fold(trial))
            except transforms.UnusableClip:
                pass
        return self._example(number, index, step, key.fold(_TRIALS - 1))

    def _example(self, number: int, index: int, step: int, key: transforms.Key) -> Batch:
        config, source, settings = self.config, self.opened[number], self.config.sources[number]
        augmentation = dataclasses.replace(
            config.augmentation,
            crop=dataclasses.replace(config.augmentation.crop, size=config.crop_size),
            objects=dataclasses.replace(config.augmentation.objects, max_objects=config.max_objects),
        )
        max_gap = config.gap(step)
        pasted = key.fold("pasted").generator().random() < config.copy_paste.prob
        if source.static if settings.pseudo is None else settings.pseudo:
            clip = self._pseudo(source, index, augmentation, key, alone=pasted)
        else:
            view = clips.load_clip(
                source,
                index,
                length=config.clip_length,
                max_gap=max_gap,
                unannotated=settings.unannotated,
                key=key.fold("clip"),
            )
            clip = transforms.render(augmentation.place(view, key))
        # Objects need a clip whose every frame says what is in front of them.
        if pasted and all(ids is not None for ids in clip.ids):
            clip = self._pasted(clip, number, index, max_gap, key.fold("paste"))
        labelled = transforms.pad(clip, config.crop_size).ids
        clip, num_objects = augmentation.finish(clip, key)
        return self._pack(
            clip,
            num_objects=num_objects,
            dataset=config.dataset_names.index(settings.dataset_name),
            labelled=labelled,
            exhaustive=sequences.is_exhaustive(source.names[index], settings),
        )

    def _pseudo(
        self,
        source: sequences.Sequences,
        index: int,
        augmentation: transforms.Augmentation,
        key: transforms.Key,
        *,
        alone: bool,
    ) -> transforms.Clip:
        """Makes a pseudo-clip of a photo, without objects of other photos where `alone`."""
        pseudo = dataclasses.replace(self.config.pseudo, max_objects=self.config.max_objects)
        photo = clips.load_picture(source, index, key=key.fold("photo"))
        rng = key.fold("others").generator()
        wanted = 0 if alone else pseudo.wanted(photo, key)
        others = [
            clips.load_picture(source, int(other), key=key.fold("other").fold(number))
            for number, other in enumerate(rng.integers(len(source.names), size=wanted))
        ]
        return pseudo_clips.of_picture(
            photo, others, pseudo, augmentation, length=self.config.clip_length, key=key
        )

    def _pasted(
        self, clip: transforms.Clip, number: int, index: int, max_gap: int, key: transforms.Key
    ) -> transforms.Clip:
        """Lays objects of other sequences over a clip of sequence `index`."""
        settings = self.config.copy_paste
        drawn = cutouts.draw(
            self.opened,
            [source.weight for source in self.config.sources],
            (number, index),
            settings.wanted(clip, key),
            length=len(clip.frames),
            max_gap=max_gap,
            min_pixels=settings.min_pixels,
            lookalike=settings.lookalike,
            key=key.fold("cutouts"),
        )
        return settings(clip, drawn, max_gap=max_gap, key=key.fold("layers"))

    def _blank(self) -> Batch:
        clip = transforms.Clip(
            (np.zeros((*self.config.crop_size, 3), np.uint8),), (None,), self.config.crop_size
        )
        return self._pack(clip, num_objects=0, dataset=0)

    def _pack(self, clip: transforms.Clip, **details: Any) -> Batch:
        config = self.config
        sizes = {name: getattr(config, name) for name in ("max_objects", "max_instances")}
        return clips.pack(clip, length=config.clip_length, **sizes, **details)


def _encode(notes: list[str]) -> np.ndarray:
    """Returns notes as a fixed number of bytes: text does not travel in arrays of static shape."""
    data = "; ".join(notes).encode()[:_NOTE_BYTES]
    return np.frombuffer(data.ljust(_NOTE_BYTES, b"\0"), np.uint8)


def references(opened: tuple[sequences.Sequences, ...], config: PipelineConfig) -> grain.MapDataset:
    """Returns the endless global stream of references int64 [2]: source and sequence, shuffled and mixed."""
    streams = [
        grain.MapDataset.range(len(source.names))
        .shuffle(seed=config.seed + number)
        .repeat()
        .map(functools.partial(_refer, number))
        for number, source in enumerate(opened)
    ]
    return grain.MapDataset.mix(streams, weights=[source.weight for source in config.sources])


def _refer(number: int, item: int) -> np.ndarray:
    return np.array([number, item])


_STATE = ("step", "drawn", "unreadable", "unusable")
_SUM = "checksum"


class BatchIterator(grain.DatasetIterator):
    """An endless iterator of batches whose state is its step; saves and restores itself through orbax.

    Attributes:
      step: batches handed out since the beginning of training.
      drawn: examples handed out by this process since then.
      unreadable: items given up for them because a file is broken.
      unusable: items given up for them because they show no object; these do not stop a run.
      problems: what was wrong with the items given up, by name; this run's only.
    """

    def __init__(self, batches: grain.MapDataset, config: PipelineConfig):
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
                num_workers=config.num_workers,
                num_threads=config.num_threads,
                prefetch=config.prefetch,
            )
            self._running = iter(running)
        assert self._running is not None
        batch = dict(next(self._running))
        if self._config.num_workers:
            # Copied: JAX may hold a batch until the process ends, too late to free its shared memory.
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
        """Returns the position in the stream: plain numbers, and their checksum."""
        position = {name: getattr(self, name) for name in _STATE}
        return position | {_SUM: checksums.of_json(position)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved position, however many workers and processes saved it.

        Raises:
          VosError: the position is not what was saved; nothing has changed.
        """
        position = {name: int(state[name]) for name in _STATE}
        if _SUM in state and state[_SUM] != checksums.of_json(position):
            raise errors.VosError(f"the position in the training data was altered: {position}")
        self._stop()
        for name in _STATE:
            setattr(self, name, position[name])

    async def load(self, directory: Any) -> Any:
        """Restores from a checkpoint directory; one saved by another number of processes will do.

        The stream is global, so any process's position is everybody's.
        """
        states = sorted(directory.glob("process_*.json"))
        if not states:
            raise errors.VosError(f"{directory}: holds no position of the training data")

        async def restore() -> None:
            self.set_state(json.loads(states[0].read_text()))

        return restore()

    def close(self) -> None:
        """Stops threads and workers; no batch can be had afterwards."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


def make_pipeline(config: PipelineConfig, *, process_index: int = 0, process_count: int = 1) -> BatchIterator:
    """Opens the sources and returns this process's endless iterator of batches.

    A batch holds `clips.pack`'s arrays with a leading axis of b = `config.batch // process_count` clips.
    Process p gets rows p·b..(p+1)·b−1 of the global batch, which is the same for every number of processes.

    Raises:
      VosError: a bad value, an empty or missing source, a batch that does not divide among the processes.
    """
    config.check()
    if config.batch % process_count:
        raise errors.VosError(
            f"a batch of {config.batch} clips does not divide among {process_count} processes; "
            f"make it a multiple of {process_count}"
        )
    opened = tuple(clips.open_sequences(source) for source in config.sources)
    local = config.batch // process_count
    examples = references(opened, config).map_with_index(MakeExample(config, opened))
    # Nothing is dropped from an endless stream; but its length, rounded up, would not fit an index.
    batches = examples.batch(local, drop_remainder=True)
    return BatchIterator(batches[process_index::process_count], config)
