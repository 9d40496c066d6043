"""The automatic policies of augment.py against torchvision's own, given the same choices, and how often they choose."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from common.compute import Draws
from common.data.augment import NAMES, OPERATIONS, POLICIES, SUB_POLICIES, augment
from common.settings.entries import AugmentSettings

NEAREST = v2.InterpolationMode.NEAREST
TORCHVISION_POLICIES = {
    "autoaugment": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "randaugment": v2.RandAugment(),
    "trivialaugment": v2.TrivialAugmentWide(),
}


def draws_for(total: int) -> Draws:
    return Draws(5, "augment", epoch=2, step=3, total=total)


def within(count: int, n: int, probability: float) -> bool:
    """Whether a count of n draws is within five standard deviations of what its probability says."""
    return abs(count - n * probability) <= 5 * math.sqrt(n * probability * (1 - probability)) + 1e-9


def noise(n: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(n * height + width)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def test_sub_policies_are_the_published_ones() -> None:
    published = TORCHVISION_POLICIES["autoaugment"]._get_policies(v2.AutoAugmentPolicy.CIFAR10)
    theirs = tuple(tuple((name.lower(), p, level or 0) for name, p, level in pair) for pair in published)
    ours = tuple(tuple((name.replace("_", ""), p, level) for name, p, level in pair) for pair in SUB_POLICIES)
    assert ours == theirs


def choices_of(policy: str, wanted: AugmentSettings, draws: Draws) -> list[list[tuple[str, int | None, bool]]]:
    """For each image (torchvision's name, level, negative) of each step, from the same draws in the same order."""
    names = list(TORCHVISION_POLICIES[policy]._AUGMENTATION_SPACE)
    if policy == "autoaugment":
        sub_policies = [TORCHVISION_POLICIES[policy]._policies[i] for i in draws.integers(25)]
        chances, signs = draws.uniform(shape=(2,)).tolist(), draws.integers(2, shape=(2,)).tolist()
        return [
            [
                (name, level, bool(sign))
                for (name, p, level), chance, sign in zip(pair, *row, strict=True)
                if chance < torch.tensor(p)  # single precision, like the drawn number
            ]
            for pair, *row in zip(sub_policies, chances, signs, strict=True)
        ]
    steps = wanted.randaugment_ops if policy == "randaugment" else 1
    operations = draws.integers(14, shape=(steps,))
    levels = torch.full_like(operations, wanted.randaugment_magnitude)
    if policy == "trivialaugment":
        levels = draws.integers(31, shape=(1,))
    signs = draws.integers(2, shape=(steps,)).bool()
    rows = zip(operations.tolist(), levels.tolist(), signs.tolist(), strict=True)
    return [[(names[o], level, sign) for o, level, sign in zip(*row, strict=True)] for row in rows]


def changed_by_torchvision(policy: str, image: Tensor, choices: list[tuple[str, int | None, bool]]) -> Tensor:
    transform = TORCHVISION_POLICIES[policy]
    bins = 10 if policy == "autoaugment" else 31
    for name, level, negative in choices:
        magnitudes_of, signed = transform._AUGMENTATION_SPACE[name]
        magnitudes = magnitudes_of(bins, *image.shape[-2:])
        magnitude = 0.0 if magnitudes is None else float(magnitudes[level])
        magnitude = -magnitude if signed and negative else magnitude
        image = transform._apply_image_or_video_transform(image, name, magnitude, interpolation=NEAREST, fill={})
    return image


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 32, 32), (3, 32, 32), (3, 33, 20)])
@pytest.mark.parametrize("policy", POLICIES)
def test_policies_do_what_torchvision_does_with_the_same_choices(policy: str, shape: tuple[int, int, int]) -> None:
    n = 150
    images = noise(n, *shape)
    wanted = AugmentSettings(policy=policy, randaugment_ops=3, randaugment_magnitude=17)
    ours = augment(images, wanted, draws_for(n), fill=torch.zeros(shape[0]))
    choices = choices_of(policy, wanted, draws_for(n))
    theirs = torch.stack([changed_by_torchvision(policy, *pair) for pair in zip(images, choices, strict=True)])
    apart = ((ours.int() - theirs.int()).abs() > 1).float().mean((1, 2, 3))
    assert apart.max() <= 0.05  # of the pixels of any image: ties of nearest neighbours


def test_every_sub_policy_occurs_and_its_operations_at_their_rates() -> None:
    n = 20_000
    first, second = POLICIES["autoaugment"](AugmentSettings(), draws_for(n), 32, 32)
    expected = torch.zeros(2, len(NAMES))
    for pair in TORCHVISION_POLICIES["autoaugment"]._policies:
        for place, (name, probability, _) in enumerate(pair):
            expected[place, [own.replace("_", "") for own in NAMES].index(name.lower())] += probability / 25
    for place, step in enumerate((first, second)):
        counts = step.operations.bincount(minlength=len(NAMES))
        assert all(within(int(counts[i]), n, float(expected[place, i])) for i in range(1, len(NAMES)))
    drawn = draws_for(n).integers(25).bincount(minlength=25)
    assert all(within(int(count), n, 1 / 25) for count in drawn)


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_all_fourteen_operations_are_equally_likely_and_signs_even(policy: str) -> None:
    n = 10_000
    steps = POLICIES[policy](AugmentSettings(randaugment_ops=1), draws_for(n), 32, 32)
    counts = steps[0].operations.bincount(minlength=len(NAMES)).tolist()
    assert all(within(count, n, 1 / 14) for count in counts[:14])
    assert counts[NAMES.index("invert")] == 0
    for i, operation in enumerate(OPERATIONS.values()):
        magnitudes = steps[0].magnitudes[steps[0].operations == i]
        nonzero = magnitudes[magnitudes != 0]
        share = 0.5 if operation.signed else 0
        assert within(int((nonzero < 0).sum()), len(nonzero), share)


def test_a_policy_leaves_the_colour_of_grey_images_alone() -> None:
    images = noise(4, 1, 8, 8)
    assert torch.equal(OPERATIONS["color"].change(images, torch.full((4,), 0.9, dtype=torch.float64)), images)
