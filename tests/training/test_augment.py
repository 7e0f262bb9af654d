"""Augmentation of whole batches: the same as cropping, resizing and masking each sample, from streams of its
own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop

from g2d_pipeline.config import AudioAugment, AugmentSettings, ImageAugment, TabularAugment
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.training.augment import (
    add_noise,
    augment,
    changes_anything,
    crop_boxes,
    generator,
    mask,
    random_resized_crop,
    resample,
    resample_bytes,
)

SHAPES = {"image": (3, 12, 9), "audio": (1, 11, 14), "tabular": (5,)}
BUSY: list[AugmentSettings] = [
    ImageAugment(crop=[0.1, 1.0], flip=0.5, noise=0.1),
    AudioAugment(time_masks=2, time_width=4, frequency_masks=1, frequency_width=3, noise=0.1),
    TabularAugment(noise=0.1),
]
STILL: list[AugmentSettings] = [ImageAugment(), AudioAugment(), TabularAugment()]
CROP = 1e-4 * 255  # float32 rounds positions up to 224 to 1e-5, and two pixels differ by at most 255


def stream(number: int = 0) -> torch.Generator:
    return generator(3, 1, 2, number)


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def batch_for(of: AugmentSettings, count: int = 6) -> tuple[torch.Tensor, dict[str, Any]]:
    """A batch in bytes and a normaliser with another mean and std in each channel."""
    x = pixels(count, *SHAPES[of.kind])
    c = x.shape[1]
    return x, {
        "scale": 1 / 255,
        "mean": [0.3 + 0.1 * i for i in range(c)],
        "std": [0.2 + 0.1 * i for i in range(c)],
    }


def numbers(count: int, of: torch.Generator) -> torch.Tensor:
    return torch.rand(count, 22, dtype=torch.float64, generator=of)


def one_by_one(
    x: torch.Tensor, boxes: torch.Tensor, flipped: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """What the batched resampling has to equal: crop, interpolate, flip."""
    done = []
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        box = x[i : i + 1, :, top : top + height, left : left + width].float()
        box = F.interpolate(box, size=size, mode="bilinear", align_corners=False, antialias=False)
        done.append(box.flip(3) if flipped[i] else box)
    return torch.cat(done)


# ---------------------------------------------------------------------------------------------------- streams
@pytest.mark.parametrize("of", BUSY, ids=lambda s: s.kind)
def test_the_same_four_numbers_give_the_same_bits_and_any_other_number_others(of: AugmentSettings) -> None:
    x, normaliser = batch_for(of)
    once = augment(x, of, normaliser, generator(3, 1, 2, 5))
    assert torch.equal(once, augment(x, of, normaliser, generator(3, 1, 2, 5)))
    for other in [(4, 1, 2, 5), (3, 0, 2, 5), (3, 1, 3, 5), (3, 1, 2, 6), (3, 2, 1, 5), (3, 1, 5, 2)]:
        assert not torch.equal(once, augment(x, of, normaliser, generator(*other))), other


def test_streams_do_not_meet() -> None:
    seeds = {
        generator(s, p, e, b).initial_seed()
        for s in range(3)
        for p in range(3)
        for e in range(9)
        for b in range(9)
    }
    assert len(seeds) == 3 * 3 * 9 * 9
    with pytest.raises(ValueError, match="negative"):
        generator(-1, 0, 1, 0)


@pytest.mark.parametrize("of", BUSY, ids=lambda s: s.kind)
def test_torchs_own_generator_is_left_alone(of: AugmentSettings) -> None:
    x, normaliser = batch_for(of)
    before = torch.get_rng_state()
    augment(x, of, normaliser, stream())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("of", [s.model_copy(update={"noise": 0.0}) for s in BUSY[:2]], ids=lambda s: s.kind)
def test_what_happens_to_a_sample_depends_on_its_place_in_the_batch_alone(of: AugmentSettings) -> None:
    x, normaliser = batch_for(of, count=40)
    whole = augment(x, of, normaliser, stream())
    for count in (1, 7, 33):  # fewer samples behind it
        assert torch.equal(augment(x[:count], of, normaliser, stream()), whole[:count])
    others = x.clone()
    others[:3], others[4:] = 255 - x[:3], 255 - x[4:]  # other samples around it
    assert torch.equal(augment(others, of, normaliser, stream())[3], whole[3])
    alike = augment(x[:1].expand_as(x), of, normaliser, stream())
    assert len({sample.numpy().tobytes() for sample in alike}) > 20  # and no two places are treated alike


def test_noise_switched_on_moves_no_crop_and_no_mask() -> None:
    for of in BUSY[:2]:
        x, normaliser = batch_for(of)
        quiet = augment(x, of.model_copy(update={"noise": 0.0}), normaliser, stream())
        faint = augment(x, of.model_copy(update={"noise": 1e-6}), normaliser, stream())
        torch.testing.assert_close(faint, quiet.float(), rtol=0, atol=0.01)
        assert not torch.equal(faint, quiet)


def test_one_kind_of_mask_switched_on_moves_not_the_other() -> None:
    x = torch.zeros(9, 1, 11, 14)
    bins = mask(x, stream(), 2, 2, 4, fill=1.0)
    after_none, after_some = stream(), stream()
    mask(x, after_none, 3, 0, 4, fill=1.0)
    mask(x, after_some, 3, 3, 4, fill=1.0)
    both = [mask(x, after, 2, 2, 4, fill=1.0) for after in (after_none, after_some)]
    assert torch.equal(both[0], both[1])
    assert not torch.equal(both[0], bins)  # a stream of its own


# ------------------------------------------------------------------------------------------- what it is given
@pytest.mark.parametrize("of", STILL, ids=lambda s: s.kind)
def test_untouched_settings_return_the_numbers_as_they_are(of: AugmentSettings) -> None:
    x, normaliser = batch_for(of)
    assert not changes_anything(of)
    assert augment(x, of, normaliser, stream()) is x


@pytest.mark.parametrize(
    "of",
    [
        ImageAugment(crop=[0.5, 1.0]), ImageAugment(flip=0.5), ImageAugment(noise=0.1),
        AudioAugment(time_masks=1),
        AudioAugment(frequency_masks=1), AudioAugment(noise=0.1), TabularAugment(noise=0.1),
    ],
    ids=lambda s: "-".join(map(str, s.model_dump(exclude_defaults=True))),
)  # fmt: skip
def test_every_single_setting_counts_as_a_change_and_changes_something(of: AugmentSettings) -> None:
    x, normaliser = batch_for(of)
    assert changes_anything(of)
    assert not torch.equal(augment(x, of, normaliser, stream()), x.float())
    assert not changes_anything(None)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("of", BUSY, ids=lambda s: s.kind)
def test_bytes_and_floats_agree_and_the_batch_itself_stays(of: AugmentSettings, normalised: bool) -> None:
    x, normaliser = batch_for(of)
    floats = x.float()
    if isinstance(of, ImageAugment):  # crops of bytes are antialiased
        of = of.model_copy(update={"crop": None})
    from_bytes = augment(x, of, normaliser if normalised else None, stream())
    assert torch.equal(from_bytes, augment(floats, of, normaliser if normalised else None, stream()))
    assert torch.equal(x, batch_for(of)[0])
    assert torch.equal(floats, x.float())
    assert from_bytes.dtype == torch.float32
    assert from_bytes.shape == x.shape
    assert from_bytes.isfinite().all()


@pytest.mark.parametrize("of", [BUSY[0], ImageAugment(flip=0.5), BUSY[1], AudioAugment(frequency_masks=1)])
def test_a_table_can_be_neither_cropped_nor_masked(of: AugmentSettings) -> None:
    with pytest.raises(ConfigError, match=r"three dimensions .* not \[5\]"):
        augment(torch.zeros(4, 5), of, None, stream())
    noise = type(of)(noise=0.5)
    assert augment(torch.zeros(4, 5), noise, None, stream()).std() > 0


# -------------------------------------------------------------------------------------------- crops and flips
@pytest.mark.parametrize("size", [(224, 224), (64, 48), (300, 260)], ids=str)
@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 57, 131)], ids=str)
def test_a_crop_equals_cropping_and_interpolating_each_image(
    shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    x = pixels(12, *shape)
    boxes = crop_boxes(numbers(12, stream()), *shape[1:], (0.02, 1.0), (0.5, 2.0))
    boxes[0] = torch.tensor([0, 0, *shape[1:]])
    boxes[1] = torch.tensor([shape[1] - 1, shape[2] - 1, 1, 1])  # the last pixel alone
    boxes[2] = torch.tensor([7, 0, 1, shape[2]])
    boxes[3] = torch.tensor([0, 7, shape[1], 1])
    flipped = torch.arange(12) % 2 == 1
    done = resample(x, boxes, flipped, size)
    torch.testing.assert_close(done, one_by_one(x, boxes, flipped, size), rtol=0, atol=CROP)
    assert done.shape == (12, shape[0], *size)


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 57, 131), (4, 40, 33), (9, 20, 30)], ids=str)
def test_bytes_are_cropped_as_torchvision_crops_them_and_stay_within_a_grey_level_of_floats(
    shape: tuple[int, ...],
) -> None:
    x = pixels(24, *shape)
    boxes = crop_boxes(numbers(24, stream()), *shape[1:], (0.02, 1.0), (0.5, 2.0))
    boxes[0] = torch.tensor([0, 0, *shape[1:]])
    boxes[1] = torch.tensor([shape[1] - 1, shape[2] - 1, 1, 1])  # the last pixel alone
    flipped = torch.arange(24) % 2 == 1
    for size in [shape[1:], (31, 64)]:
        done = resample_bytes(x, boxes, flipped, size)
        assert done.dtype == torch.uint8
        assert done.is_contiguous(memory_format=torch.channels_last)
        off = []
        for i, box in enumerate(boxes.tolist()):
            there = done[i].flip(2) if flipped[i] else done[i]
            assert torch.equal(there, resized_crop(x[i], *box, list(size), antialias=True))
            floats = resized_crop(x[i].float(), *box, list(size), antialias=True)
            off.append((there - floats).abs())
        difference = torch.stack(off)  # one rounding after each axis
        assert difference.max() < 1.05
        assert difference.mean() < 0.35


@pytest.mark.parametrize("of", [ImageAugment(crop=[0.08, 1.0], flip=0.5), ImageAugment(flip=0.5)], ids=str)
def test_bytes_stay_bytes_the_same_ones_with_any_number_of_threads(of: ImageAugment) -> None:
    x, before = pixels(8, 3, 61, 47), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(augment(x, of, None, stream()))
    finally:
        torch.set_num_threads(before)
    assert found[0].dtype == torch.uint8
    assert all(torch.equal(found[0], other) for other in found[1:])
    clip = augment(x[:, :, None].expand(-1, -1, 2, -1, -1), of, None, stream())
    assert clip.dtype == torch.uint8
    assert clip.shape == (8, 3, 2, 61, 47)


def test_crops_of_bytes_and_of_floats_show_the_same_boxes() -> None:
    """Enlarging boxes, antialiasing changes nothing: one grey level is left."""
    x = pixels(20, 3, 40, 40)
    settings = ImageAugment(crop=[0.1, 0.5], crop_ratio=[0.9, 1.1], flip=0.5)
    bytes_, floats = (augment(of, settings, None, stream()) for of in (x, x.float()))
    assert (bytes_ - floats).abs().max() < 1.05


def test_nothing_outside_of_the_box_is_seen() -> None:
    """A box of zeros amid the greatest pixels stays zero up to its edge: a tenth of a pixel's width would
    give 25."""
    x = torch.full((1, 2, 20, 30), 255.0)
    x[:, :, 5:9, 11:18] = 0
    box = torch.tensor([[5, 11, 4, 7]])
    for size in [(41, 53), (4, 7), (3, 2)]:
        assert resample(x, box, torch.tensor([True]), size).max() < 1e-3


def test_nothing_outside_of_the_image_is_seen() -> None:
    x = torch.full((1, 1, 20, 30), 255.0)
    torch.testing.assert_close(
        random_resized_crop(x.expand(50, 1, 20, 30), stream()), x.expand(50, 1, 20, 30), rtol=0, atol=1e-3
    )


def test_the_whole_image_and_its_mirror_stay_what_they_are() -> None:
    x = pixels(2, 3, 31, 17)
    whole = torch.tensor([[0, 0, 31, 17]]).expand(2, 4)
    done = resample(x, whole, torch.tensor([False, True]), (31, 17))
    torch.testing.assert_close(done, torch.stack([x[0], x[1].flip(2)]).float(), rtol=0, atol=CROP)


def test_flips_alone_are_exact_and_as_frequent_as_asked_for() -> None:
    x = pixels(2000, 1, 2, 5)
    done = random_resized_crop(x, stream(), area=None, flip=0.3)
    flipped = (done == x.flip(3).float()).flatten(1).all(dim=1)
    assert ((done == x.float()).flatten(1).all(dim=1) | flipped).all()
    assert abs(flipped.float().mean().item() - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5  # four standard errors
    assert torch.equal(random_resized_crop(x, stream(), area=None, flip=0.0), x.float())
    assert torch.equal(random_resized_crop(x, stream(), area=None, flip=1.0), x.flip(3).float())


def test_a_flip_mirrors_the_crop_that_there_is_without_it() -> None:
    x = pixels(8, 3, 20, 24)
    plain = random_resized_crop(x, stream(), flip=0.0)
    assert torch.equal(random_resized_crop(x, stream(), flip=1.0), plain.flip(3))


def test_an_images_settings_are_those_of_its_crop() -> None:
    x = pixels(30, 3, 20, 24)
    for of in (
        ImageAugment(crop=[0.2, 0.4], crop_ratio=[0.3, 0.5], flip=0.1),
        ImageAugment(crop=[0.2, 0.4], crop_ratio=[0.3, 0.5]),
        ImageAugment(flip=0.9),
    ):
        wanted = random_resized_crop(x, stream(), of.crop, of.crop_ratio, of.flip)
        assert torch.equal(augment(x, of, None, stream()), wanted)


def test_the_box_of_the_whole_image_is_resized_as_the_image() -> None:
    x = pixels(3, 3, 20, 24)
    resized = F.interpolate(x.float(), size=(30, 11), mode="bilinear", align_corners=False)
    whole = torch.tensor([[0, 0, 20, 24]]).expand(3, 4)
    done = resample(x, whole, torch.zeros(3, dtype=torch.bool), (30, 11))
    torch.testing.assert_close(done, resized, rtol=0, atol=CROP)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    area=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=150)
def test_boxes_lie_inside_of_images_of_any_size(
    height: int, width: int, area: list[float], ratio: list[float], seed: int
) -> None:
    drawn = numbers(20, torch.Generator().manual_seed(seed))
    drawn[0], drawn[1] = 0.0, 1 - 2**-53  # the least and the greatest numbers that can be drawn
    top, left, tall, wide = crop_boxes(drawn, height, width, area, ratio).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert ((tall >= 1) & (top + tall <= height)).all()
    assert ((wide >= 1) & (left + wide <= width)).all()
    # Sides are rounded by up to half a pixel: the area and the ratio that were drawn lie among what that can
    # make.
    central = (top == (height - tall) // 2) & (left == (width - wide) // 2)
    least, greatest = (tall - 0.5) * (wide - 0.5), (tall + 0.5) * (wide + 0.5)
    fits = (greatest >= area[0] * height * width * 0.999) & (least <= area[1] * height * width * 1.001)
    fits &= (wide + 0.5) / (tall - 0.5) >= ratio[0] * 0.999
    fits &= (wide - 0.5) / (tall + 0.5) <= ratio[1] * 1.001
    assert (fits | central).all()


def test_boxes_reach_both_edges_of_the_image() -> None:
    drawn = numbers(3, stream())
    drawn[:, :20] = 0.5
    drawn[:, 20:] = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1 - 2**-53, 1 - 2**-53]], dtype=torch.float64)
    boxes = crop_boxes(drawn, 30, 40, (0.25, 0.25), (0.75, 0.75))  # 300 pixels in the ratio 3 : 4 are 15 × 20
    assert boxes.tolist() == [[0, 0, 20, 15], [5, 13, 20, 15], [10, 25, 20, 15]]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((10, 100), [0, 43, 10, 13]),  # wider than 4/3: the full height
        ((100, 10), [43, 0, 13, 10]),  # narrower than 3/4: the full width
        ((40, 40), [0, 0, 40, 40]),
    ],
)
def test_where_no_candidate_fits_the_central_box_of_the_nearest_ratio_is_taken(
    shape: tuple[int, int], box: list[int]
) -> None:
    drawn = numbers(3, stream())
    assert crop_boxes(drawn, *shape, (4.0, 4.0), (3 / 4, 4 / 3)).tolist() == [box] * 3
    image = torch.zeros(1, *shape)  # torchvision agrees
    assert list(RandomResizedCrop.get_params(image, [4.0, 4.0], [3 / 4, 4 / 3])) == box


@pytest.mark.parametrize(
    ("shape", "area", "ratio"),
    [
        ((224, 224), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((96, 160), (0.5, 1.0), (0.5, 2.0)),
        ((60, 300), (0.4, 1.0), (3 / 4, 4 / 3)),  # few candidates fit: the central box is common
    ],
    ids=str,
)
def test_boxes_are_distributed_as_torchvisions(
    shape: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float]
) -> None:
    """Two-sample Kolmogorov-Smirnov on each side, place, area and ratio, at fixed seeds; 6 numbers × 3
    cases."""
    count = 3000
    ours = crop_boxes(numbers(count, stream()), *shape, area, ratio).double().numpy()
    image = torch.zeros(1, *shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, list(area), list(ratio)) for _ in range(count)], float
        )
    for name, of in {
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "height": lambda b: b[:, 2],
        "width": lambda b: b[:, 3],
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
    }.items():
        assert ks_2samp(of(ours), of(theirs)).pvalue > 1e-3, name


# ------------------------------------------------------------------------------------------------------ masks
@given(
    count=st.integers(0, 4),
    width=st.integers(1, 40),
    axis=st.sampled_from([2, 3, -1]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=80)
def test_masks_are_few_and_narrow_and_leave_the_rest_alone(
    count: int, width: int, axis: int, seed: int
) -> None:
    x = torch.randn(5, 2, 13, 17, generator=torch.Generator().manual_seed(seed))
    fill = torch.tensor([[[[7.0]], [[-7.0]]]])
    done = mask(x, generator(seed, 0, 0, 0), axis, count, width, fill)
    filled = done == fill
    assert torch.equal(done[~filled], x[~filled])
    other = 3 if axis == 2 else 2
    lines = filled.any(dim=other).any(dim=1)  # [B, size]: over all other axes…
    assert torch.equal(lines, filled.all(dim=other).all(dim=1))  # …or nowhere
    lines = F.pad(lines, (1, 1)).int()
    assert (lines.diff(dim=1) == 1).sum(dim=1).max() <= count
    assert lines.sum(dim=1).max() <= count * min(width, x.shape[axis])
    if count == 1:
        assert lines.sum(dim=1).max() <= width


def test_all_lengths_and_places_of_a_mask_are_drawn_evenly() -> None:
    done = mask(torch.zeros(8000, 1, 1, 6), stream(), 3, count=1, width=3, fill=1.0)[:, 0, 0]
    lengths = done.sum(dim=1).long().bincount(minlength=4)
    assert len(lengths) == 4
    bound = 4 * (8000 * 0.25 * 0.75) ** 0.5  # four standard errors
    assert (lengths - 2000).abs().max() < bound
    starts = done[done.sum(dim=1) == 3].argmax(dim=1).bincount(minlength=4)
    assert len(starts) == 4
    assert (starts - starts.sum() / 4).abs().max() < 4 * (starts.sum() * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("normalised", [True, False])
def test_masks_become_zero_for_the_encoder_along_both_axes(normalised: bool) -> None:
    """The fill is the train mean in stored units, also where there is noise; without statistics it is 0."""
    of = AudioAugment(time_masks=2, time_width=5, frequency_masks=2, frequency_width=4, noise=0.3)
    x = torch.randn(20, 2, 11, 14, generator=torch.Generator().manual_seed(0)) * 9 + 300
    normaliser = {"scale": 0.01, "mean": [3.0, 5.0], "std": [0.5, 2.0]} if normalised else None
    done = augment(x, of, normaliser, stream())
    fill = torch.tensor([300.0, 500.0] if normalised else [0.0, 0.0]).view(1, 2, 1, 1)
    filled = done == fill
    assert filled.all(dim=2).any()  # whole frames
    assert filled.all(dim=3).any()  # whole bins
    assert torch.equal(filled[:, 0], filled[:, 1])
    assert 0.1 < filled.float().mean() < 0.7


def test_a_spectrograms_settings_are_those_of_its_masks() -> None:
    of = AudioAugment(time_masks=2, time_width=9, frequency_masks=3, frequency_width=2)
    x = torch.randn(20, 1, 11, 14, generator=torch.Generator().manual_seed(0)) + 5
    own = stream()
    wanted = mask(mask(add_noise(x, own, 0.0), own, 3, 2, 9, 0.0), own, 2, 3, 2, 0.0)
    assert torch.equal(augment(x, of, None, stream()), wanted)


# ------------------------------------------------------------------------------------------------------ noise
@pytest.mark.parametrize("kind", ["image", "audio", "tabular"])
def test_noise_has_the_standard_deviation_of_its_channel(kind: str) -> None:
    """0.2 × std / scale a channel. The error of an estimate from n normal numbers is std / √(2n): five of
    these."""
    of = {
        "image": ImageAugment(noise=0.2),
        "audio": AudioAugment(noise=0.2),
        "tabular": TabularAugment(noise=0.2),
    }[kind]
    x = torch.full((20_000, 3) if kind == "tabular" else (50, 3, 20, 20), 100.0)
    std = [0.5, 1.0, 4.0]
    noise = augment(x, of, {"scale": 0.1, "mean": [1.0, 2.0, 3.0], "std": std}, stream()) - x
    for channel in range(3):
        values, wanted = noise[:, channel].double().flatten(), 0.2 * std[channel] / 0.1
        assert abs(values.std().item() / wanted - 1) < 5 / (2 * len(values)) ** 0.5
        assert abs(values.mean().item() / wanted) < 5 / len(values) ** 0.5
    first, second = noise[:, 0].flatten(), noise[:, 1].flatten()
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 5 / len(first) ** 0.5


def test_no_noise_is_no_change() -> None:
    x = pixels(4, 5)
    assert torch.equal(add_noise(x, stream(), 0.0), x.float())


# ------------------------------------------------------------------------------------------------------- CUDA
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("of", BUSY, ids=lambda s: s.kind)
def test_on_a_gpu_crops_and_masks_are_those_of_the_cpu(of: AugmentSettings) -> None:
    x, normaliser = batch_for(of)
    still = of.model_copy(update={"noise": 0.0})
    there = augment(x.cuda(), still, normaliser, stream())
    assert there.device.type == "cuda"
    on_cpu = augment(x.float(), still, normaliser, stream())  # of bytes it would be antialiased
    torch.testing.assert_close(there.cpu().float(), on_cpu, rtol=0, atol=CROP)
    noisy = augment(x.cuda(), of, normaliser, stream())
    assert torch.equal(noisy, augment(x.cuda(), of, normaliser, stream()))
    assert not torch.equal(noisy, there)


def test_the_pictures_of_a_clip_are_changed_each_on_its_own() -> None:
    clips = torch.rand(4, 3, 5, 12, 10)
    settings = ImageAugment(crop=[0.2, 0.8], flip=0.5)
    changed = augment(clips, settings, None, generator(0, 0, 1, 0))
    assert changed.shape == clips.shape
    pictures = clips.transpose(1, 2).reshape(20, 3, 12, 10)
    alone = augment(pictures, settings, None, generator(0, 0, 1, 0)).reshape(4, 5, 3, 12, 10)
    assert torch.equal(changed, alone.transpose(1, 2))
    still = clips[:, :, :1].expand(-1, -1, 5, -1, -1)  # five times the same picture
    moved = augment(still, settings, None, generator(0, 0, 1, 0))
    assert not torch.allclose(moved[:, :, 0], moved[:, :, 1])


def test_noise_leaves_the_mask_row_of_a_sequence_alone() -> None:
    sequence = torch.rand(4, 6, 9)
    normaliser = {"scale": 1.0, "mean": [0.0] * 6, "std": [1.0] * 6}
    changed = augment(sequence, TabularAugment(noise=0.5), normaliser, generator(0, 0, 1, 0))
    assert torch.equal(changed[:, -1], sequence[:, -1])
    assert not torch.equal(changed[:, :-1], sequence[:, :-1])
