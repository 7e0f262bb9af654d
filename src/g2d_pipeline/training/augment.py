"""Random changes of whole batches, on the device that holds them, without worker processes.

Each function takes one number from the generator of a modality in a batch, whatever its arguments, and seeds
a stream of its own with it: so noise switched on changes no crop, and where sample i is cropped or masked
depends on i alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from g2d_pipeline.config import AudioAugment, AugmentSettings, ImageAugment
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models.encoders.base import middle

AUGMENTATION = 2  # this stream's number beside those of `data.epoch_rows` (1) and `streams.stream` (letters)
TRIES = 10  # boxes drawn for a crop before the central one is taken, as in torchvision
CPU = torch.device("cpu")
Place = tuple[int, int]  # of samples in a batch that is shared out: the first one's, and how many there are


def generator(seed: int, position: int, epoch: int, batch: int) -> torch.Generator:
    """The CPU generator of the modality at `position` in a batch. Raises ValueError for negative numbers."""
    state = np.random.SeedSequence([seed, AUGMENTATION, position, epoch, batch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def changes_anything(settings: AugmentSettings | None) -> bool:
    """Whether a modality is random in training; if not, its features and teacher outputs can be stored."""
    switches = ("noise", "flip", "crop", "time_masks", "frequency_masks", "window_frames")
    return any(getattr(settings, name, None) for name in switches)


def augment(
    x: Tensor,
    settings: AugmentSettings,
    normaliser: dict[str, Any] | None,
    generator: torch.Generator,
    place: Place | None = None,
) -> Tensor:
    """Change a batch `[B, …]` as stored (bytes or floats, any device) → the same in stored units, of the same
    shape (with `window_frames`, of fewer frames): bytes where neither noise nor masks make floats of them and
    crops of bytes stay on the CPU, float32 elsewhere.

    `normaliser`: {scale, mean, std} a channel (dim 1), as `models.Normaliser` applies it; None: scale 1, mean
    0, std 1. Masks are filled with the train mean, noise is measured in train standard deviations. Images are
    cropped and flipped, then get noise (the frames of clips `[B, C, T, H, W]` each on its own); of
    spectrograms `[B, C, F, T]` a window is taken, which gets noise, then masks; sequences `[B, F + 1, T]` get
    noise, but not in the row that says which steps are real. `x` itself is left as it is. `place`: x is a
    part of a batch, and changed as it would be in the whole.

    Raises ConfigError where crops, flips or masks are asked for and x is not `[B, C, H, W]`."""
    if not changes_anything(settings):
        return x
    scaling = normaliser or {"scale": 1.0, "mean": [0.0], "std": [1.0]}
    statistics = torch.tensor([scaling["mean"], scaling["std"]], dtype=torch.float64) / scaling["scale"]
    mean, std = statistics.float().to(x.device).view(2, 1, -1, *[1] * (x.dim() - 2))  # each `[1, C, 1, …]`
    noise = settings.noise * std if settings.noise > 0 else 0.0
    if isinstance(settings, ImageAugment):
        if x.dim() == 5:  # the frames of a clip, each changed on its own (datasets.md §3.3)
            count, channels, frames = x.shape[:3]
            images = x.transpose(1, 2).flatten(0, 1)
            of_images = place and (place[0] * frames, place[1] * frames)
            changed = augment(images, settings, normaliser, generator, of_images)
            return changed.reshape(count, frames, channels, *x.shape[3:]).transpose(1, 2)
        if settings.crop is not None or settings.flip > 0:
            _check_maps(x, settings.kind, "crop and flip")
            x = random_resized_crop(x, generator, settings.crop, settings.crop_ratio, settings.flip, place)
        return add_noise(x, generator, noise, place)
    audio = settings if isinstance(settings, AudioAugment) else None
    if audio is not None and audio.window_frames is not None:
        x = random_window(x, generator, audio.window_frames, place)
    if x.dim() == 3 and isinstance(noise, Tensor):
        noise[:, -1] = 0.0
    x = add_noise(x, generator, noise, place)
    if audio is not None and (audio.time_masks or audio.frequency_masks):
        _check_maps(x, audio.kind, "time_masks and frequency_masks")
        x = mask(x, generator, 3, audio.time_masks, audio.time_width, mean, place)
        x = mask(x, generator, 2, audio.frequency_masks, audio.frequency_width, mean, place)
    return x


def without_chance(x: Tensor, settings: AugmentSettings | None) -> Tensor:
    """A batch `[B, …]` as val and test see it: of spectrograms the middle `window_frames`, else x."""
    window = settings.window_frames if isinstance(settings, AudioAugment) else None
    if window is None:
        return x
    _room(x, window)
    return middle(x, window)


def random_window(x: Tensor, generator: torch.Generator, window: int, place: Place | None = None) -> Tensor:
    """`window` frames in a row of each sample of `[B, …, T]`, from a start of its own → `[B, …, window]`."""
    drawn = _uniform((len(x),), _stream(generator), place)
    start = (drawn * _room(x, window)).long().to(x.device)
    frames = start[:, None] + torch.arange(window, device=x.device)  # [B, w]
    shape = (len(x),) + (1,) * (x.dim() - 2) + (window,)
    return x.gather(-1, frames.view(shape).expand(*x.shape[:-1], window))


def _room(x: Tensor, window: int) -> int:
    """How many starts a window of `window` frames has. Raises ConfigError where it does not fit."""
    if (room := x.shape[-1] - window + 1) < 1:
        raise ConfigError(f"augment (audio): window_frames={window}, but samples have {x.shape[-1]} frames")
    return room


def random_resized_crop(
    x: Tensor,
    generator: torch.Generator,
    area: Sequence[float] | None = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    place: Place | None = None,
) -> Tensor:
    """Crop each image of `[B, C, H, W]` to a box of its own, resize it to its old size, flip it.

    `area`: least and greatest share of the image's area, drawn uniformly; None: the whole image. `ratio`:
    least and greatest width ÷ height, drawn uniformly in its logarithm. `flip`: probability of a left-right
    flip. Bytes on the CPU stay bytes, resized bilinearly with antialiasing as torchvision's RandomResizedCrop
    resizes them; everything else becomes float32, without antialiasing (`resample`)."""
    count, _, height, width = x.shape
    # All numbers of a sample lie side by side: those of sample i do not depend on the size of the batch.
    drawn = _uniform((count, 2 * TRIES + 3), _stream(generator), place)
    flipped = drawn[:, -1] < flip
    if area is None:
        return torch.where(flipped.to(x.device).view(-1, 1, 1, 1), x.flip(3), x)
    boxes = crop_boxes(drawn[:, :-1], height, width, area, ratio)
    resized = resample_bytes if x.dtype == torch.uint8 and x.device == CPU else resample
    return resized(x, boxes, flipped, (height, width))


def crop_boxes(
    drawn: Tensor, height: int, width: int, area: Sequence[float], ratio: Sequence[float]
) -> Tensor:
    """Boxes (top, left, height, width) `[B, 4]` in whole pixels inside of the image, from uniform `[B, 22]`.

    The first of ten candidates that fits; the central box of the nearest ratio where none does."""
    share, shape = drawn[:, :TRIES], drawn[:, TRIES : 2 * TRIES]
    pixels = height * width * (area[0] + (area[1] - area[0]) * share)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * shape)
    sides = torch.stack([pixels / aspect, pixels * aspect], dim=2).sqrt().round().long()  # [B, 10, 2]
    image = torch.tensor([height, width])
    fits = ((sides > 0) & (sides <= image)).all(dim=2)
    first = fits.int().argmax(dim=1)  # of the greatest values the first, 0 where none fits
    box = sides[torch.arange(len(sides)), first]
    place = ((image - box + 1) * drawn[:, 2 * TRIES :]).long()

    image_ratio = width / height
    nearest = min(max(image_ratio, ratio[0]), ratio[1])
    central = torch.tensor(
        [max(1, round(width / nearest)) if nearest > image_ratio else height,
         max(1, round(height * nearest)) if nearest < image_ratio else width]
    )  # fmt: skip
    fitting = fits.any(dim=1, keepdim=True)
    box = torch.where(fitting, box, central)
    return torch.cat([torch.where(fitting, place, (image - central) // 2), box], dim=1)


def resample(x: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize boxes `[B, 4]` of `[B, C, H, W]` bilinearly, mirror those `flipped` `[B]` → `[B, C, *size]`:
    `interpolate` without antialiasing of each box, up to float32 rounding (1e-7 of the side)."""
    height, width = x.shape[2:]
    top, left, tall, wide = boxes.unbind(dim=1)
    rows, columns = _positions(top, tall, size[0]), _positions(left, wide, size[1])
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    # grid_sample counts from the image's first edge, -1, to its last, 1; pixel centres lie half a pixel in.
    across = ((2 * columns + 1) / width - 1).float().to(x.device)
    down = ((2 * rows + 1) / height - 1).float().to(x.device)
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=3)
    return F.grid_sample(x.float(), grid, mode="bilinear", align_corners=False)


def resample_bytes(x: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int]) -> Tensor:
    """As `resample`, of bytes on the CPU, but antialiased → bytes in the memory format channels_last.

    Equals torchvision's `resized_crop` of each image; at most one grey level from the same in float32. The
    kernel wants the channels of a pixel side by side: `stack` is faster than torch's change of layout."""
    resized = []
    for image, (top, left, tall, wide), mirrored in zip(x, boxes.tolist(), flipped.tolist(), strict=True):
        planes = image[:, top : top + tall, left : left + wide].unbind()
        box = torch.stack(planes, dim=2)[None].permute(0, 3, 1, 2)  # in this order: strides of channels_last
        result = F.interpolate(box, size, mode="bilinear", antialias=True)
        resized.append(result.flip(3) if mirrored else result)
    return torch.cat(resized)


def mask(
    x: Tensor,
    generator: torch.Generator,
    axis: int,
    count: int,
    width: int,
    fill: Tensor | float,
    place: Place | None = None,
) -> Tensor:
    """Fill `count` stretches along `axis` of each sample of `[B, …]`, over all its other axes → float32 (x
    where `count` is 0).

    The length of a stretch is a whole number drawn uniformly from 0 … `width` (at most the axis), its start
    from where it fits; stretches may overlap. `fill` broadcasts to x. Source: SpecAugment (Park et al. 2019),
    without warping."""
    stream = _stream(generator)
    if count == 0:
        return x
    size = x.shape[axis]
    drawn = _uniform((len(x), count, 2), stream, place)
    length = (drawn[..., :1] * (min(width, size) + 1)).long()
    start = (drawn[..., 1:] * (size - length + 1)).long()
    at = torch.arange(size)
    covered = ((at >= start) & (at < start + length)).any(dim=1)  # [B, size]
    shape = [1] * x.dim()
    shape[0], shape[axis] = len(x), size
    filling = torch.as_tensor(fill, dtype=torch.float32, device=x.device)
    return torch.where(covered.view(shape).to(x.device), filling, x.float())


def add_noise(
    x: Tensor, generator: torch.Generator, std: Tensor | float, place: Place | None = None
) -> Tensor:
    """Add Gaussian noise of standard deviation `std` (broadcasts to x), drawn on x's device → float32;
    without any, x as it is."""
    stream = _stream(generator, x.device)
    if not isinstance(std, Tensor) and std == 0:
        return x
    start, total = place or (0, len(x))  # all of it is drawn: a part depends on how much is
    drawn = torch.randn((total, *x.shape[1:]), generator=stream, device=x.device)
    return x.float() + std * drawn[start : start + len(x)]


# ------------------------------------------------------------------------------------------------------ parts
def _stream(generator: torch.Generator, device: torch.device = CPU) -> torch.Generator:
    """A generator on the device, seeded by one number from the given one."""
    return torch.Generator(device).manual_seed(int(torch.randint(2**63 - 1, (1,), generator=generator)))


def _uniform(shape: tuple[int, ...], stream: torch.Generator, place: Place | None) -> Tensor:
    """Numbers in [0, 1) of each sample `[B, …]`: those that it gets in the whole batch."""
    start, total = place or (0, shape[0])
    drawn = torch.rand((total, *shape[1:]), generator=stream, dtype=torch.float64)
    return drawn[start : start + shape[0]]


def _check_maps(x: Tensor, kind: str, keys: str) -> None:
    if x.dim() != 4:
        raise ConfigError(
            f"augment ({kind}): {keys} need samples of three dimensions such as [C, H, W], not "
            f"{list(x.shape[1:])}. Leave them out (noise is possible for any shape)."
        )


def _positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where on an axis of the image, in pixels, `size` new pixels lie: float64 `[B, size]`.

    Beyond the centre of the box's outermost pixel that pixel counts alone, as if the box were the image."""
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * (length[:, None].double() / size) - 0.5
    return centre.clamp(min=0).minimum(length[:, None].double() - 1) + start[:, None]
