"""Published models lie on a line, which predicts a model's accuracy under shift from that on clean images.

This module needs the standard library only.
"""

from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Line:
    """probit(shifted accuracy) = slope * probit(clean accuracy) + intercept, as fitted over published models."""

    slope: float
    intercept: float
    lowest: float  # clean accuracies that it was fitted on
    highest: float
    residual_sd: float | None  # in accuracy: how far models scatter about the line; None if it was not published

    def expected(self, clean: float) -> float:
        if not 0 < clean < 1:
            raise ValueError(f"clean: given accuracy {clean}, allowed: between 0 and 1, where the probit is finite")
        normal = NormalDist()
        return normal.cdf(self.slope * normal.inv_cdf(clean) + self.intercept)


# From CIFAR-10 to CIFAR-10.1 (Recht et al. 2018), fitted over the published predictions of 30 models.
CIFAR10_1_LINES = {
    "v4": Line(0.9515, -0.3986, 0.82, 0.97, None),
    "v6": Line(0.9496, -0.3811, 0.82, 0.97, 0.0080),
}


def published_line(data: str, images: str) -> Line | None:
    """Return the line of models of one data set on the images of another; None if none was published."""
    lines = {f"cifar10_1_{version}": line for version, line in CIFAR10_1_LINES.items()}
    return lines.get(images) if data == "cifar10" else None


@dataclass(frozen=True)
class EffectiveRobustness:
    """The accuracy under shift beyond that of published models of equal clean accuracy (Taori et al. 2020)."""

    expected: float  # by the line
    value: float  # measured less expected
    extrapolated: bool  # the clean accuracy is outside the range that the line was fitted on: do not rely on it


def effective_robustness(clean: float, shifted: float, line: Line) -> EffectiveRobustness:
    """Compare a model's accuracies on the clean and on the shifted set with the line."""
    if not 0 <= shifted <= 1:
        raise ValueError(f"shifted: given {shifted}, allowed: a share from 0 to 1")
    expected = line.expected(clean)
    return EffectiveRobustness(expected, shifted - expected, not line.lowest <= clean <= line.highest)
