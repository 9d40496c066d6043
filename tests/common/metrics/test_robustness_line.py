"""The line against the seven published pairs, and against scipy's normal distribution."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics.robustness_line import CIFAR10_1_LINES, Line, effective_robustness, published_line

# Accuracies on CIFAR-10 and CIFAR-10.1 v6, and what the line expects of the first:
# scipy.stats.norm.cdf(0.9496 * norm.ppf(clean) - 0.3811). The transformers are below the range of the line.
PUBLISHED = {
    "resnet18": (0.8726, 0.7700, 0.7581219, False),
    "resnet50": (0.8640, 0.7535, 0.7460162, False),
    "densenet121": (0.9186, 0.8280, 0.8274847, False),
    "mobilenetv3_small_050": (0.8254, 0.7240, 0.6942244, False),
    "efficientnet_b0": (0.8959, 0.8015, 0.7921777, False),
    "vit_tiny_patch16_224": (0.6631, 0.5275, 0.5074291, True),
    "deit_tiny_patch16_224": (0.6662, 0.5430, 0.5106506, True),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_pairs(model: str) -> None:
    clean, shifted, expected, extrapolated = PUBLISHED[model]
    found = effective_robustness(clean, shifted, CIFAR10_1_LINES["v6"])
    assert found.expected == pytest.approx(expected, abs=1e-7)
    assert found.value == pytest.approx(shifted - expected, abs=1e-7)
    assert found.extrapolated is extrapolated


def test_the_line_of_the_fourth_version_is_another() -> None:
    found = effective_robustness(0.8726, 0.7700, CIFAR10_1_LINES["v4"])
    assert found.expected == pytest.approx(0.7533084, abs=1e-7)


@settings(max_examples=50)
@given(st.floats(0.01, 0.99))
def test_a_line_of_slope_one_through_zero_expects_no_drop(clean: float) -> None:
    found = effective_robustness(clean, clean, Line(1, 0, 0.5, 0.9, None))
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.extrapolated is not (0.5 <= clean <= 0.9)


@pytest.mark.parametrize("clean", [0.0, 1.0, 87.26, float("nan")])
def test_accuracies_without_a_probit_are_refused(clean: float) -> None:
    with pytest.raises(ValueError, match=r"clean: given accuracy .*, allowed: between 0 and 1"):
        effective_robustness(clean, 0.5, CIFAR10_1_LINES["v6"])


def test_percentages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shifted: given 77\.0, allowed: a share from 0 to 1"):
        effective_robustness(0.87, 77.0, CIFAR10_1_LINES["v6"])


def test_lines_are_of_cifar10_alone() -> None:
    assert published_line("cifar10", "cifar10_1_v4") == CIFAR10_1_LINES["v4"]
    assert published_line("cifar10", "v4") is None
    assert published_line("cifar100", "cifar10_1_v4") is None
