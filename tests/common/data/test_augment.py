"""What is drawn for each image, in which order it is applied, and that shares of a batch come out alike."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.compute import Draws
from common.data import augment as augmentation
from common.data import image_ops
from common.data.augment import POLICIES, augment, cutout_boxes, erasing_boxes, mix
from common.settings.entries import AugmentSettings


def draws_for(total: int, rows: slice = slice(None), seed: int = 5) -> Draws:
    return Draws(seed, "augment", epoch=2, step=3, total=total, rows=rows)


def noise(n: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(n * height + width)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def colour(channels: int = 3) -> Tensor:
    return torch.tensor([125, 123, 114][:channels], dtype=torch.uint8)


def within(count: int, n: int, probability: float) -> bool:
    """Whether a count of n draws is within five standard deviations of what its probability says."""
    return abs(count - n * probability) <= 5 * math.sqrt(n * probability * (1 - probability)) + 1e-9


# --- the whole --------------------------------------------------------------------------------------------------------


def test_all_off_changes_nothing() -> None:
    images, targets = noise(6), torch.eye(6)
    assert torch.equal(augment(images, AugmentSettings(), draws_for(6), colour()), images)
    mixed, mixed_targets = mix(images.float(), targets, AugmentSettings(), draws_for(6))
    assert torch.equal(mixed, images.float())
    assert torch.equal(mixed_targets, targets)


EVERYTHING = AugmentSettings(
    crop_padding=2,
    flip=0.5,
    flip_vertical=0.5,
    rotation_deg=20,
    translation=0.2,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    policy="autoaugment",
    cutout=3,
    erasing=0.5,
    mixup=0.8,
    cutmix=1.0,
)


def test_steps_follow_the_stated_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("crop", "flip", "rotate_and_shift", "brightness", "contrast", "saturation", "hue", "fill_boxes"):
        operation = getattr(image_ops, name)
        monkeypatch.setattr(
            image_ops, name, lambda *given, n=name, op=operation, **named: (seen.append(n), op(*given, **named))[1]
        )
    monkeypatch.setattr(augmentation, "apply", lambda images, _step: (seen.append("policy"), images)[1])
    augment(noise(4), EVERYTHING, draws_for(4), colour())
    jitter, policy, holes = ["brightness", "contrast", "saturation", "hue"], ["policy"] * 2, ["fill_boxes"] * 2
    assert seen == ["crop", "flip", "flip", "rotate_and_shift", *jitter, *policy, *holes]


def test_equal_settings_give_equal_images_whatever_torchs_own_generator_says() -> None:
    images = noise(16)
    first = augment(images, EVERYTHING, draws_for(16), colour())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(augment(images, EVERYTHING, draws_for(16), colour()), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(augment(images, EVERYTHING, draws_for(16, seed=6), colour()), first)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 33, 20)])
@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "trivialaugment"])
def test_images_stay_uint8_of_their_shape_and_the_input_is_kept(policy: str, shape: tuple[int, int, int]) -> None:
    images = noise(12, *shape)
    before = images.clone()
    changed = augment(images, EVERYTHING.model_copy(update={"policy": policy}), draws_for(12), colour(shape[0]))
    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    assert torch.equal(images, before)
    assert (changed != images).flatten(1).any(1).all()


some = st.builds(
    AugmentSettings,
    crop_padding=st.integers(0, 3),
    flip=st.sampled_from([0, 0.5, 1]),
    flip_vertical=st.sampled_from([0, 0.3]),
    rotation_deg=st.sampled_from([0, 15, 180]),
    translation=st.sampled_from([0, 0.25]),
    brightness=st.sampled_from([0, 0.5]),
    contrast=st.sampled_from([0, 1]),
    saturation=st.sampled_from([0, 0.5]),
    hue=st.sampled_from([0, 0.5]),
    policy=st.sampled_from(["none", "autoaugment", "randaugment", "trivialaugment"]),
    randaugment_ops=st.integers(1, 3),
    cutout=st.sampled_from([0, 4]),
    erasing=st.sampled_from([0, 0.5]),
    mixup=st.sampled_from([0, 0.8]),
    cutmix=st.sampled_from([0, 1.0]),
    mix_probability=st.sampled_from([0.5, 1]),
)
shapes = st.sampled_from([(1, 8, 8), (3, 8, 8), (3, 9, 6)])


@settings(deadline=None, max_examples=60)
@given(wanted=some, shape=shapes, n=st.integers(1, 9), cut=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_share_of_a_batch_is_augmented_as_in_the_whole(
    wanted: AugmentSettings, shape: tuple[int, int, int], n: int, cut: int, seed: int
) -> None:
    images, fill = noise(n, *shape), colour(shape[0])
    whole = augment(images, wanted, draws_for(n, seed=seed), fill)
    for rows in (slice(0, min(cut, n)), slice(min(cut, n), n)):
        if len(images[rows]):
            assert torch.equal(augment(images[rows], wanted, draws_for(n, rows, seed), fill), whole[rows])


@settings(deadline=None, max_examples=40)
@given(wanted=some, n=st.integers(1, 9), pairs=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_share_of_whole_pairs_is_mixed_as_in_the_whole(
    wanted: AugmentSettings, n: int, pairs: int, seed: int
) -> None:
    images, targets = noise(n).float(), torch.eye(n)
    whole = mix(images, targets, wanted, draws_for(n, seed=seed))
    for rows in (slice(0, min(2 * pairs, n)), slice(2 * pairs, n)):
        if len(images[rows]):
            share = mix(images[rows], targets[rows], wanted, draws_for(n, rows, seed))
            assert torch.equal(share[0], whole[0][rows])
            assert torch.equal(share[1], whole[1][rows])


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dim"), [("flip", -1), ("flip_vertical", -2)])
def test_flips_occur_at_their_rate(name: str, dim: int) -> None:
    n = 4000
    images = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8).expand(n, 1, 2, 2)
    flipped = augment(images, AugmentSettings(**{name: 0.3}), draws_for(n), colour(1))
    turned = (flipped == images.flip(dim)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) ^ turned).all()
    assert within(int(turned.sum()), n, 0.3)


def test_every_place_is_cropped() -> None:
    """A lone white pixel in the middle of 5x5 comes to lie on each of the 25 places, equally often."""
    n = 5000
    images = torch.zeros(n, 1, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 255
    places = augment(images, AugmentSettings(crop_padding=2), draws_for(n), colour(1)).flatten(1)
    assert (places.sum(1, dtype=torch.int64) == 255).all()
    assert all(within(int(count), n, 1 / 25) for count in (places > 0).sum(0))


def test_angles_and_shifts_fill_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    monkeypatch.setattr(image_ops, "rotate_and_shift", lambda images, *given: (drawn.extend(given), images)[1])
    augment(noise(2000, 1, 4, 20), AugmentSettings(rotation_deg=10, translation=0.25), draws_for(2000), colour(1))
    degrees, right, down = drawn
    assert degrees.abs().max() <= 10
    assert degrees.min() < -9.9
    assert degrees.max() > 9.9
    assert within(int((degrees < 5).sum()), 2000, 0.75)
    assert right.unique().tolist() == list(range(-5, 6))
    assert down.unique().tolist() == [-1, 0, 1]


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_factors_fill_their_range(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    drawn: list[Tensor] = []
    monkeypatch.setattr(image_ops, name, lambda images, factor: (drawn.append(factor), images)[1])
    augment(noise(2000), AugmentSettings(**{name: 0.4}), draws_for(2000), colour())
    centred = drawn[0] - (0 if name == "hue" else 1)
    assert centred.abs().max() <= 0.4 + 1e-6
    assert centred.min() < -0.39
    assert centred.max() > 0.39
    assert within(int((centred < 0.2).sum()), 2000, 0.75)


def test_cutout_is_clipped_at_the_borders() -> None:
    """A square of 4 with any centre of 8x8: 2, 3 or 4 of its rows, and of its columns, lie inside."""
    n = 4000
    images = torch.zeros(n, 3, 8, 8, dtype=torch.uint8)
    cut = augment(images, AugmentSettings(cutout=4), draws_for(n), colour())
    holes = (cut == colour()[:, None, None]).all(1)
    areas = holes.sum((1, 2))
    assert areas.unique().tolist() == [4, 6, 8, 9, 12, 16]
    assert within(int((areas == 16).sum()), n, (5 / 8) ** 2)
    assert (cut.sum((1, 2, 3), dtype=torch.int64) == areas * int(colour().sum())).all()


def test_cutout_has_its_side_when_odd() -> None:
    boxes = cutout_boxes(5, draws_for(50), 32, 32)
    assert (boxes[:, 2:] - boxes[:, :2] == 5).all()


@pytest.mark.parametrize(("height", "width"), [(100, 100), (80, 150), (8, 8)])
def test_erased_rectangles_have_the_stated_area_shape_and_rate(height: int, width: int) -> None:
    n = 3000
    boxes = erasing_boxes(0.4, draws_for(n), height, width)
    sides = boxes[:, 2:] - boxes[:, :2]
    chosen = boxes[sides.prod(1) > 0]
    assert within(len(chosen), n, 0.4)
    assert (chosen[:, :2] >= 0).all()
    assert (chosen[:, 2:] <= torch.tensor([height, width])).all()
    rows, columns = (chosen[:, 2:] - chosen[:, :2]).double().unbind(1)
    assert ((rows - 0.5) * (columns - 0.5) <= 0.33 * height * width).all()  # sides are rounded, by at most a half
    assert ((rows + 0.5) * (columns + 0.5) >= 0.02 * height * width).all()
    assert ((rows + 0.5) / (columns - 0.5) >= 0.3).all()
    assert ((rows - 0.5) / (columns + 0.5) <= 3.3).all()
    assert within(int((rows * columns < 0.175 * height * width).sum()), len(chosen), 0.5) or height == 8
    assert chosen[:, 0].min() == 0
    assert chosen[:, 2].max() == height


# --- mixing -----------------------------------------------------------------------------------------------------------


def numbered(n: int, height: int = 16, width: int = 12) -> tuple[Tensor, Tensor]:
    """Images whose pixels are all their row number, and as many classes."""
    return torch.arange(n).float()[:, None, None, None].expand(n, 3, height, width).clone(), torch.eye(n)


PARTNER = torch.arange(64) ^ 1


def test_mixup_by_its_formula() -> None:
    images, targets = noise(64).float(), torch.eye(64)
    mixed, mixed_targets = mix(images, targets, AugmentSettings(mixup=0.4), draws_for(64))
    own = mixed_targets.diagonal()
    expected = own[:, None, None, None] * images + (1 - own[:, None, None, None]) * images[PARTNER]
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(mixed_targets[torch.arange(64), PARTNER], 1 - own)
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(64))
    assert len(own.unique()) > 60  # every image has its own


def test_mixups_lambda_is_beta_distributed() -> None:
    """Beta(a, a) has mean 1/2 and variance 1 / (8 a + 4)."""
    n = 4000
    own = mix(torch.zeros(n, 1, 2, 2), torch.eye(2).repeat(n // 2, 1), AugmentSettings(mixup=0.4), draws_for(n))[1]
    shares = own[torch.arange(n), torch.arange(n) % 2]
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (8 * 0.4 + 4)) < 0.01


def test_cutmixs_target_is_the_share_of_own_pixels() -> None:
    images, targets = numbered(64)
    mixed, mixed_targets = mix(images, targets, AugmentSettings(cutmix=1.0), draws_for(64))
    own = mixed == images
    assert (own | (mixed == images[PARTNER])).all()
    torch.testing.assert_close(mixed_targets.diagonal(), own.float().mean((1, 2, 3)))
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(64))
    pasted = ~own[:, 0]
    boxes = pasted.any(2).sum(1) * pasted.any(1).sum(1)
    assert torch.equal(boxes, pasted.sum((1, 2)))  # one rectangle each
    assert len(boxes.unique()) > 20


def test_cutmix_boxes_follow_torchvisions_arithmetic() -> None:
    n, height, width = 200, 33, 20
    boxes = augmentation.cutmix_boxes(0.7, draws_for(n), height, width)
    draws = draws_for(n)
    kept, rows, columns = draws.beta(0.7).tolist(), draws.integers(height).tolist(), draws.integers(width).tolist()
    for box, own, y, x in zip(boxes.tolist(), kept, rows, columns, strict=True):
        half = 0.5 * math.sqrt(1 - own)
        half_height, half_width = int(half * height), int(half * width)
        top, left = max(y - half_height, 0), max(x - half_width, 0)
        assert box == [top, left, min(y + half_height, height), min(x + half_width, width)]


def test_with_both_each_image_gets_one_of_them() -> None:
    n = 1000
    images = torch.tensor([0.0, 1.0]).repeat(n // 2)[:, None, None, None].expand(n, 1, 16, 16)
    mixed, _ = mix(images, torch.eye(2).repeat(n // 2, 1), AugmentSettings(mixup=1.0, cutmix=1.0), draws_for(n))
    even = (mixed == mixed[:, :, :1, :1]).flatten(1).all(1) & (mixed[:, 0, 0, 0] != images[:, 0, 0, 0])
    pasted = ((mixed == 0) | (mixed == 1)).flatten(1).all(1)
    assert (even ^ pasted).all()
    assert within(int(even.sum()), n, 0.5)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mix_probability_leaves_the_others_alone(name: str) -> None:
    n = 2000
    images = torch.tensor([0.0, 1.0]).repeat(n // 2)[:, None, None, None].expand(n, 1, 32, 32)
    wanted = AugmentSettings(**{name: 1.0}, mix_probability=0.3)
    mixed, targets = mix(images, torch.eye(2).repeat(n // 2, 1), wanted, draws_for(n))
    untouched = (mixed == images).flatten(1).all(1)
    assert within(n - int(untouched.sum()), n, 0.3)
    assert torch.equal((targets == torch.eye(2).repeat(n // 2, 1)).all(1), untouched)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_an_odd_last_row_is_its_own_partner(name: str) -> None:
    images, targets = noise(5).float(), torch.eye(5)
    mixed, mixed_targets = mix(images, targets, AugmentSettings(**{name: 1.0}), draws_for(5))
    torch.testing.assert_close(mixed[4], images[4])
    torch.testing.assert_close(mixed_targets[4], targets[4])


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", ["none", *POLICIES])
def test_a_gpu_agrees_and_is_never_waited_for(policy: str) -> None:
    images, targets = noise(64, 3, 32, 32), torch.eye(64)
    wanted = EVERYTHING.model_copy(update={"policy": policy})
    here = augment(images, wanted, draws_for(64), colour())
    mixed_here = mix(here.float(), targets, wanted, draws_for(64))
    there, float_there, fill, targets = images.cuda(), here.float().cuda(), colour().cuda(), targets.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = augment(there, wanted, draws_for(64), fill)
        mixed_there = mix(float_there, targets, wanted, draws_for(64))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert there.is_cuda
    assert ((there.cpu().int() - here.int()).abs() > 1).float().mean() <= 0.005  # ties of nearest neighbours
    for ours, theirs in zip(mixed_here, mixed_there, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours)
