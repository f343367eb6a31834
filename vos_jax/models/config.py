"""The settings of the method, and its variants."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vos_jax import checks, errors
from vos_jax.models import alignment as alignment_lib
from vos_jax.models import backbones, templates
from vos_jax.models import matching as matching_lib
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import read as read_lib

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFreeConfig:
    """Label propagation, the model of `--checkpoint none`.

    Attributes:
      features: Backbone stages whose unit vectors are the keys, with equal weight: c2, c3, c4, c5.
      stride: Pixels per cell: 16, 8 or 4. 8 is finer and about 10 times as slow (use a window of 15 and a
        capacity of 4), 4 is slower still. Finer stages are averaged onto the grid, coarser ones upsampled.
      centred: Whether each frame's mean feature is subtracted.
      temperature: Softmax temperature of cosine similarity.
      topk: Memory pixels that each pixel reads.
      window: Radius, in cells around its own position, in which a pixel reads unpinned slots; 0 = everywhere.
      previous: Whether the previous frame has a slot, in place of model.memory.previous.

    Raises:
      VosError: a value out of range.
    """

    features: tuple[str, ...] = ("c3", "c4")
    temperature: float = 0.1
    topk: int = 10
    stride: int = 16
    centred: bool = True
    window: int = 8
    previous: bool = True

    @property
    def read(self) -> read_lib.ReadConfig:
        """The settings of the read: cosine similarity, `topk` memory pixels."""
        return read_lib.ReadConfig(
            affinity="dot",
            weight="none",
            scale=1.0 / self.temperature,
            topk=self.topk,
            window=self.window,
            search_radius=0.0,
        )

    def __post_init__(self):
        checks.not_empty(self, "features")
        checks.one_of(self, "features", backbones.STRIDES)
        checks.at_least(self, 1, "topk")
        checks.at_least(self, 0, "window")
        checks.at_least(self, 1e-6, "temperature")
        if self.stride not in (4, 8, 16):
            raise errors.VosError(f"stride is {self.stride}; it is 4, 8 or 16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The settings of the method. `template`, `alignment` and `matching` may also be callables.

    Attributes:
      variant: Backbone and widths: "lite0" (small, its weights ship) or "resnet50" (the paper's).
      dtype: Type of the network's computation: "float32" or "bfloat16". Parameters, softmax and losses stay
        float32.
      dataset: Data set whose similarity/IoU balance (lambda) the matching uses: one that the weights were
        trained on, or "default".
      backbone: A name in `backbones.BACKBONES`, or a callable `(dtype=...) -> flax module`.
      key_size: Channels of the keys, Ck.
      embed_size: Channels of the embeddings, Ce.
      value_size: Channels of the values, Cv.
      match_size: Channels in which templates and proposals are compared.
      refine: Whether RefineNet refines the coarse masks.
      refine_channels: RefineNet's channels at strides 16, 8, 4.
      template: Source of each object's template: "dynamic" (memory read), "first", "previous", "mean".
      template_size: Cells per side of templates and proposals.
      alignment: Alignment of a template and a proposal: "adaptive", "none", "pooled", "topk", "transport".
      matching: Layer that assigns proposals to objects: "pgd" (the paper's), "hungarian", "sinkhorn",
        "greedy".
      iou_with: The mask that proposals are compared with: "previous" or "propagated".
      matching_options: Settings of the matching layers.
      memory: Settings of the memory.
      read: Settings of the memory read.
      proposals: Settings of the proposals.
      training_free: Settings of the model of `--checkpoint none`.

    Raises:
      VosError: a value out of range.
    """

    variant: str = "lite0"
    dtype: str = "float32"
    dataset: str = "default"
    backbone: str | Callable = "efficientnet_lite0"
    key_size: int = 64
    embed_size: int = 128
    value_size: int = 128
    match_size: int = 64
    refine: bool = True
    refine_channels: tuple[int, int, int] = (128, 64, 32)
    template: str | Callable = "dynamic"
    template_size: int = 14
    alignment: str | Callable = "adaptive"
    matching: str | Callable = "pgd"
    iou_with: str = "previous"
    matching_options: matching_lib.MatchingConfig = matching_lib.MatchingConfig()
    memory: memory_lib.MemoryConfig = memory_lib.MemoryConfig()
    read: read_lib.ReadConfig = read_lib.ReadConfig()
    proposals: proposals_lib.ProposalConfig = proposals_lib.ProposalConfig()
    training_free: TrainingFreeConfig = TrainingFreeConfig()

    def __post_init__(self):
        checks.one_of(self, "variant", VARIANTS)
        checks.one_of(self, "dtype", DTYPES)
        checks.known_name(self, "backbone", backbones.BACKBONES)
        checks.known_name(self, "template", templates.TEMPLATES)
        checks.known_name(self, "alignment", alignment_lib.ALIGNMENTS)
        checks.known_name(self, "matching", matching_lib.MATCHINGS)
        checks.at_least(self, 1, "refine_channels")
        checks.one_of(self, "iou_with", ("previous", "propagated"))
        checks.at_least(self, 1, "key_size", "embed_size", "value_size", "match_size", "template_size")

    @property
    def uses_network(self) -> bool:
        """True if there is a proposal network."""
        return self.proposals.source == "network"

    @property
    def compute_dtype(self) -> Any:
        """`dtype` as a JAX type."""
        return jnp.dtype(self.dtype)


VARIANTS: dict[str, Mapping[str, Any]] = {
    "lite0": {},
    "resnet50": {
        "backbone": "resnet50",
        "key_size": 128,
        "embed_size": 256,
        "value_size": 512,
        "match_size": 128,
        "refine_channels": (256, 128, 64),
        "proposals": {"channels": 128},
    },
}
"""Changes of `ModelConfig` by variant; sections as mappings."""


def change_variant(config: ModelConfig, name: str) -> ModelConfig:
    """Returns the settings of another variant; values that differ from the old variant's are kept.

    Raises:
      VosError: no such variant.
    """
    if name not in VARIANTS:
        raise errors.VosError(f"model.variant is {name!r}; there are {', '.join(sorted(VARIANTS))}")
    old, new = (_changed(ModelConfig(), VARIANTS[variant]) for variant in (config.variant, name))
    return dataclasses.replace(_moved(config, old, new), variant=name)


def _changed(section: Any, changes: Mapping[str, Any]) -> Any:
    inner = {
        key: _changed(getattr(section, key), value) if isinstance(value, Mapping) else value
        for key, value in changes.items()
    }
    return dataclasses.replace(section, **inner)


def _moved(section: Any, old: Any, new: Any) -> Any:
    """Returns `section` with each value that equals `old`'s replaced by `new`'s."""
    values = {}
    for field in dataclasses.fields(section):
        mine, before, after = (getattr(x, field.name) for x in (section, old, new))
        if dataclasses.is_dataclass(before) and not isinstance(before, type):
            values[field.name] = _moved(mine, before, after)
        elif before != after and mine == before:
            values[field.name] = after
    return dataclasses.replace(section, **values)
