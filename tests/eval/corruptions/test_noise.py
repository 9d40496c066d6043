"""Draws against the published numbers of SplitMix64 and against distributions; noise against its formulas."""

import numpy as np
import pytest
import torch
from scipy import stats

from eval.corruptions import noise
from eval.corruptions.draws import GAMMA, ImageDraws, hashed


def draws(count: int = 1, seed: int = 0, name: str = "a", severity: int = 1) -> ImageDraws:
    return ImageDraws(seed, name, severity, torch.arange(count))


def test_the_hash_is_splitmix64() -> None:
    # the first five outputs from seed 1234567, as in the test vectors of several implementations
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    states = np.array([(1234567 + place * GAMMA) % 2**64 for place in range(1, 6)], dtype=np.uint64)
    assert hashed(torch.from_numpy(states.view(np.int64))).numpy().view(np.uint64).tolist() == known


def test_uniform_numbers_are_uniform_and_do_not_repeat() -> None:
    numbers = draws(50).uniform(2000)
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
    assert numbers.unique().numel() == numbers.numel()
    across = draws(50).uniform(2000, low=-3, high=5)
    assert torch.allclose(across, numbers * 8 - 3)


@pytest.mark.parametrize("size", [2000, 2001])
def test_normal_numbers_are_normal_and_independent(size: int) -> None:
    numbers = draws(50).normal(size)
    assert numbers.shape == (50, size)
    assert stats.kstest(numbers.flatten().numpy(), "norm").pvalue > 0.01
    between_images = np.corrcoef(numbers.numpy())[np.triu_indices(50, 1)]
    assert np.abs(between_images).max() < 5 / size**0.5
    halves = np.corrcoef(numbers[:, : size // 2].flatten(), numbers[:, -(size // 2) :].flatten())[0, 1]
    assert abs(halves) < 5 / (25 * size) ** 0.5  # the two of a pair


def test_whole_numbers_are_equally_likely() -> None:
    numbers = draws(50).integers(-2, 3, 1000)
    values, counts = numbers.unique(return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2]
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_every_part_of_the_key_and_every_call_gives_other_numbers() -> None:
    going_on = draws(2)
    streams = [
        going_on.uniform(4),
        going_on.uniform(4),
        draws(2, seed=1).uniform(4),
        draws(2, name="b").uniform(4),
        draws(2, severity=2).uniform(4),
        draws(2, seed=2**63 + 5).uniform(4),
        draws(2, seed=-1).uniform(4),
    ]
    assert torch.cat(streams).unique().numel() == 4 * 2 * len(streams)


GREY = torch.full((20, 3, 32, 32), 100 / 255, dtype=torch.float64)


def test_gaussian_noise_has_the_given_deviation_at_every_brightness() -> None:
    for images in (GREY, 2 * GREY):
        difference = noise.gaussian_noise(images, draws(20), 0.08) - images
        assert stats.kstest(difference.flatten().numpy() / 0.08, "norm").pvalue > 0.01


def test_speckle_noise_grows_with_brightness() -> None:
    for images in (GREY, 2 * GREY):
        share = noise.speckle_noise(images, draws(20), 0.2) / images - 1
        assert stats.kstest(share.flatten().numpy() / 0.2, "norm").pvalue > 0.01


def test_impulse_noise_is_half_salt_and_half_pepper_and_leaves_the_rest() -> None:
    result = noise.impulse_noise(GREY, draws(20), 0.07)
    values, counts = result.unique(return_counts=True)
    assert values.tolist() == [0, 100 / 255, 1]
    expected = np.array([0.035, 0.93, 0.035]) * GREY.numel()
    assert stats.chisquare(counts.numpy(), expected).pvalue > 0.01
    one_channel, another = (result != GREY)[:, 0], (result != GREY)[:, 1]
    assert 0 < (one_channel & another).double().mean() < 2 * 0.07**2  # each by itself


@pytest.mark.parametrize("photons", [500, 50])
def test_shot_noise_is_the_quantile_of_a_poisson_distribution(photons: int) -> None:
    levels = torch.arange(256, dtype=torch.float64).repeat(12).view(1, 3, 32, 32)
    result = noise.shot_noise(levels / 255, draws(), photons)
    uniform = draws().uniform(3, 32, 32)
    expected = stats.poisson.ppf(uniform.numpy(), levels.numpy() / 255 * photons)
    expected[levels.numpy() == 0] = 0
    assert np.array_equal((result * photons).round().numpy(), expected)


def test_shot_noise_has_mean_and_variance_of_its_photons() -> None:
    counts = noise.shot_noise(GREY, draws(20), 100) * 100
    mean = 100 * 100 / 255
    standard_error = (mean / counts.numel()) ** 0.5
    assert abs(float(counts.mean()) - mean) < 4 * standard_error
    assert float(counts.var()) == pytest.approx(mean, rel=0.03)
