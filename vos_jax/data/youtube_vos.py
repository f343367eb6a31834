"""The YouTube-VOS layout: meta.json lists each video's objects, their categories and their frames."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence

from vos_jax import errors, files
from vos_jax.data import videos


@dataclasses.dataclass(frozen=True)
class Listed:
    """One object in meta.json.

    Attributes:
      category: what it is, or None where it is not told.
      frames: names of the frames that show it (training) or in which its mask is required (validation).
    """

    category: str | None
    frames: tuple[str, ...]


def split_folder(root: str | os.PathLike, split: str) -> pathlib.Path:
    """ROOT/SPLIT where there is one, else ROOT: the folder of meta.json, JPEGImages and Annotations."""
    root = pathlib.Path(root)
    return root / split if (root / split).is_dir() else root


def read_meta(path: pathlib.Path) -> dict[str, dict[int, Listed]]:
    """Video name -> object id -> what meta.json says of it.

    Raises:
      VosError: the file is missing or of another form, or a name is no plain one.
    """
    try:
        entries = files.read_json(path)["videos"]
        meta = {
            name: {
                int(object_id): Listed(listed.get("category"), tuple(map(str, listed.get("frames", ()))))
                for object_id, listed in entry["objects"].items()
            }
            for name, entry in entries.items()
        }
    except OSError as error:
        raise errors.VosError(f"{path}: cannot read it: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise errors.VosError(
            f"{path}: not a YouTube-VOS meta.json ({type(error).__name__}: {error}); expected "
            '{"videos": {NAME: {"objects": {ID: {"frames": [...]}}}}}'
        ) from error
    for name in meta:
        files.safe_name(name, f"{path}: sequence")
    return meta


class YouTubeVOSSource:
    """YouTube-VOS for evaluation: objects come late, and only the frames in meta.json are results.

    ROOT/[SPLIT/]meta.json, JPEGImages/VIDEO/*.jpg, Annotations/VIDEO/*.png. Each object is given in the first
    mask that holds it; masks after that, where there are any, are truth.

    Args:
      root: the folder holding meta.json, or the one above it.
      year: 2018 or 2019; only names the results.
      split: the folder below `root`, if there is one.
      all_frames: the folder with every frame (valid_all_frames, or its JPEGImages), so that those between the
        required ones are seen; empty: the frames beside meta.json.
      sequences: the ones wanted, in this order; empty for all in meta.json.
      seen: categories that were trained on; empty: those of ../train/meta.json, where it is there.
      given: which masks are input, one of `videos.GIVEN`.

    Raises:
      VosError: no or another meta.json, no such folder of all frames, an unknown sequence.
    """

    archive = "Annotations"

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        year: int = 2019,
        split: str = "valid",
        all_frames: str | os.PathLike = "",
        sequences: Sequence[str] = (),
        seen: Sequence[str] = (),
        given: str = "first",
    ):
        files.safe_name(split, "split")
        self.name, self.split = f"ytvos{year}", split
        self._folder = split_folder(root, split)
        if not (self._folder / "meta.json").is_file():
            raise errors.VosError(
                f"no YouTube-VOS at {root} (missing: meta.json in it or in {split}/); get it at "
                f"https://youtube-vos.org, unzip {split}.zip and name the folder with --data"
            )
        self._meta = read_meta(self._folder / "meta.json")
        self._frames = self._folder / "JPEGImages"
        if all_frames:
            self._frames = pathlib.Path(all_frames)
            if (self._frames / "JPEGImages").is_dir():
                self._frames = self._frames / "JPEGImages"
            if not self._frames.is_dir():
                raise errors.VosError(f"{all_frames}: no such folder (data.all_frames: that of every frame)")
        if not self._meta:
            raise errors.VosError(f"{self._folder / 'meta.json'}: lists no video")
        self._sequences = files.select_names(sequences, sorted(self._meta), str(self._folder / "meta.json"))
        self._seen_categories = frozenset(seen)
        self._given = given

    def sequences(self) -> list[str]:
        """Names of the chosen sequences, in order."""
        return list(self._sequences)

    def video(self, sequence: str) -> videos.FolderVideo:
        """Opens one video; VosError if it is unknown, or a required frame or a mask's frame is missing."""
        files.select_names([sequence], self._sequences, f"{self.name} {self.split}")
        folder = self._frames / sequence
        video = videos.open_video(
            sequence, folder, self._folder / "Annotations" / sequence, given=self._given
        )
        index_of = {name: index for index, name in enumerate(video.frame_names)}
        listed = {o: entry.frames for o, entry in self._meta[sequence].items() if entry.frames}
        required = {name for frames in listed.values() for name in frames}
        if not required:
            beside = files.list_files(self._folder / "JPEGImages" / sequence)
            required = {path.stem for path in beside if videos.is_frame(path)}
        for name in sorted(required - index_of.keys()):
            raise errors.VosError(
                f"{folder / name}.jpg: missing; {self._folder / 'meta.json'} requires it of '{sequence}'"
            )
        return dataclasses.replace(
            video,
            required=tuple(sorted(index_of[name] for name in required)),
            required_of={o: frozenset(index_of[name] for name in frames) for o, frames in listed.items()}
            or None,
        )

    @functools.cached_property
    def seen(self) -> Mapping[tuple[str, int], bool] | None:
        """(sequence, object id) -> whether its category was trained on; None where that is not known."""
        trained = self._seen_categories
        listing = self._folder.parent / "train" / "meta.json"
        if not trained and listing.is_file():
            entries = (entry for objects in read_meta(listing).values() for entry in objects.values())
            trained = frozenset(entry.category for entry in entries if entry.category)
        categories = {
            (name, object_id): entry.category
            for name, objects in self._meta.items()
            for object_id, entry in objects.items()
        }
        if not trained or None in categories.values():
            return None
        return {key: category in trained for key, category in categories.items()}
