"""The augmentation of a clip: geometry, choice of objects, appearance."""

import dataclasses
from collections.abc import Callable

from vos_jax.data import appearance, transforms
from vos_jax.data.transforms import Clip, Key, View


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augments a clip. The defaults are the paper's, except that the crop contains an object.

    Attributes:
      scale: Enlargement of all frames.
      horizontal_flip: Mirrored frames.
      temporal_flip: Reversed frames.
      crop: Position of the crop.
      objects: Choice of the objects of a clip.
      colour: Change of brightness, contrast, saturation and hue.
      blur: Blur by defocus or camera motion.
      drift: Light that changes from the first frame to the last.
      jpeg: Additional JPEG compression.
      upscale: Whether frames that are smaller than the crop are enlarged; else they are padded.
    """

    scale: transforms.Scale = transforms.Scale()
    horizontal_flip: transforms.HorizontalFlip = transforms.HorizontalFlip()
    temporal_flip: transforms.TemporalFlip = transforms.TemporalFlip()
    crop: transforms.Crop = transforms.Crop()
    objects: transforms.SelectObjects = transforms.SelectObjects()
    colour: appearance.ColourJitter = appearance.ColourJitter()
    blur: appearance.Blur = appearance.Blur()
    drift: appearance.Drift = appearance.Drift()
    jpeg: appearance.JpegQuality = appearance.JpegQuality()
    upscale: bool = True

    def place(self, view: View, key: Key) -> View:
        """Applies the geometric changes, in the paper's order, and returns the view of the crop."""
        if self.upscale:
            view = transforms.enlarge(view, self.crop.size)
        view = self.scale(view, key.fold("scale"))
        view = self.horizontal_flip(view, key.fold("horizontal_flip"))
        view = self.temporal_flip(view, key.fold("temporal_flip"))
        return self.crop.place(view, key.fold("crop"))

    def finish(self, clip: Clip, key: Key) -> tuple[Clip, int]:
        """Pads a clip, selects its objects and changes its appearance; also returns the object count."""
        clip, num_objects = self.objects(transforms.pad(clip, self.crop.size), key.fold("objects"))
        clip = self.colour(clip, key.fold("colour"))
        extra: tuple[Callable[[Clip, Key], Clip], ...] = (self.blur, self.drift)
        for number, transform in enumerate(extra):
            clip = transform(clip, key.fold("extra").fold(number))
        return self.jpeg(clip, key.fold("jpeg")), num_objects

    def __call__(self, view: View, key: Key) -> tuple[Clip, int]:
        return self.finish(transforms.render(self.place(view, key)), key)
