"""Numbers that the golden scripts and the tests both make, from a name and a shape alone."""

import zlib

import numpy as np


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 numbers in [-1, 1) that look random: a hash (splitmix64) of position and name."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) + (
        np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
    )
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(40)).astype(np.float32) / 2**23 - 1).reshape(shape)


def frame(height: int, width: int) -> np.ndarray:
    """A uint8 RGB picture with ramps, a disc, stripes and noise."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ramp = np.stack([x / width, y / height, 1 - x / width], axis=-1)
    disc = ((y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 4) ** 2)[..., None]
    stripes = (np.sin(x / 3 + y / 7) > 0)[..., None] & (x > width * 0.6)[..., None]
    picture = np.where(disc, [0.9, 0.5, 0.1], np.where(stripes, [0.1, 0.2, 0.7], ramp))
    return np.clip(picture * 230 + 12 + 12 * uniform("frame", picture.shape), 0, 255).astype(np.uint8)


def resnet_state(blocks: tuple[int, ...], bottleneck: bool) -> dict[str, np.ndarray]:
    """A state dict in torchvision's ResNet layout, without its classifier; activations stay near 1."""
    state = {}

    def layer(conv: str, norm: str, inputs: int, outputs: int, size: int) -> None:
        deviation = np.float32(np.sqrt(2 * 3 / (inputs * size * size)))  # He; a uniform's variance is 1/3
        state[f"{conv}.weight"] = deviation * uniform(conv, (outputs, inputs, size, size))
        state[f"{norm}.weight"] = 0.7 + 0.2 * uniform(f"{norm}.weight", (outputs,))
        state[f"{norm}.bias"] = 0.2 * uniform(f"{norm}.bias", (outputs,))
        state[f"{norm}.running_mean"] = 0.2 * uniform(f"{norm}.mean", (outputs,))
        state[f"{norm}.running_var"] = 1 + 0.5 * uniform(f"{norm}.var", (outputs,))
        state[f"{norm}.num_batches_tracked"] = np.array(1000)

    layer("conv1", "bn1", 3, 64, 7)
    inputs = 64
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        outputs = width * 4 if bottleneck else width
        for block in range(count):
            at = f"layer{stage}.{block}"
            if bottleneck:
                sizes = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
            else:
                sizes = [(inputs, width, 3), (width, width, 3)]
            for index, size in enumerate(sizes, start=1):
                layer(f"{at}.conv{index}", f"{at}.bn{index}", *size)
            if block == 0 and (stage > 1 or inputs != outputs):
                layer(f"{at}.downsample.0", f"{at}.downsample.1", inputs, outputs, 1)
            inputs = outputs
    return state
