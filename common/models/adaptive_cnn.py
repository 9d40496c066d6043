"""AdaptiveCNN: a residual network with squeeze-and-excitation whose layers follow from the data set's shape.

The suite's reference network. It has exactly 709,034 parameters for MNIST and 17,629,514 for CIFAR-10.

`derive_plan` is the whole rule:
1. Grey images of at most 32x32 pixels and 32 classes get a narrow network (first width 32), all others a wide one (64).
2. The stem halves the image until the first stage works on at most 16x16 cells (narrow) or 56x56 (wide).
3. Each further stage halves the grid and doubles the width, until at most 4x4 cells are left or there are four stages.
4. A stage has two residual blocks; in a wide network all but the first have three.
5. Average pooling, then a classifier whose hidden layer is half as wide as the last stage.

Pixels and cells are counted by area, so an oblong image gets as deep a network as a square one of the same area.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SMALLEST_SIDE = 8
LAST_CELLS = 4 * 4
MOST_STAGES = 4


@dataclass(frozen=True)
class Stage:
    width: int
    blocks: int
    grid: tuple[int, int]  # (height, width) of its output


@dataclass(frozen=True)
class Plan:
    """The layers of a network, as they follow from a data set."""

    stem_width: int
    stem_stride: int
    stem_pool: bool  # 2x2 max-pool after the stem's convolution
    stages: tuple[Stage, ...]
    hidden: int  # width of the classifier's hidden layer


def derive_plan(shape: tuple[int, int, int], classes: int) -> Plan:
    """Derive the layers for images of shape (channels, height, width), by the rule at the top of this file."""
    channels, height, width = shape
    if channels < 1 or min(height, width) < SMALLEST_SIDE or classes < 2:
        raise ValueError(
            f"adaptive_cnn: given shape (channels, height, width) = {tuple(shape)} and {classes} classes, allowed: "
            f"1 or more channels, {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels or larger, 2 or more classes"
        )
    narrow = channels == 1 and height * width <= 32 * 32 and classes <= 32
    first_width, first_cells = (32, 16 * 16) if narrow else (64, 56 * 56)

    # Large images shrink in the stem: features of full size would cost memory.
    grid, halvings = (height, width), 0
    while _cells(grid) > first_cells:
        grid, halvings = _halved(grid), halvings + 1

    stages = [Stage(first_width, 2, grid)]
    while _cells(grid) > LAST_CELLS and len(stages) < MOST_STAGES:
        grid = _halved(grid)
        stages.append(Stage(stages[-1].width * 2, 2 if narrow else 3, grid))

    # The pool does the last of the halvings, the stem's convolution those before it.
    return Plan(
        stem_width=first_width,
        stem_stride=2 ** max(halvings - 1, 0),
        stem_pool=halvings > 0,
        stages=tuple(stages),
        hidden=stages[-1].width // 2,
    )


def _cells(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]


def _halved(grid: tuple[int, int]) -> tuple[int, int]:
    """Halve the sides of a grid; odd ones are rounded up, as by a padded 3x3 convolution of stride 2."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means (Hu et al. 2018), without biases."""

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(width, width // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(width // reduction, width, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:  # (batch, width, height, width of grid), shape kept
        gate: Tensor = self.gate(features.mean(dim=(2, 3)))
        return features * gate[:, :, None, None]


class ResidualBlock(nn.Module):
    """Computes relu(x + SE(BN(conv(relu(BN(conv(x))))))); where the shape changes, x goes through a 1x1 conv and BN."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            SqueezeExcite(width),
        )

        # Two tensors can only be added if they have the same shape.
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.shortcut(features) + self.residual(features))


class AdaptiveCNN(nn.Module):
    """Maps images (batch, channels, height, width) to logits (batch, classes).

    Initial weights depend on torch's global seed alone. Convolutions start as He et al. 2015 have it (normal, by
    fan-out), batch norms as the identity, linear layers as torch has them. The last norm of a block is no exception:
    starting it at 0 is common, but the reference results were made without that.
    """

    checkpointing = False  # compute each stage's activations again in the backward pass

    def __init__(self, shape: tuple[int, int, int], classes: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.plan = derive_plan(shape, classes)
        self.stem = _stem(shape[0], self.plan)
        self.stages = _stages(self.plan)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(self.plan.stages[-1].width, self.plan.hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(self.plan.hidden, classes),
        )

        # By fan-out, gradients keep their size from layer to layer; by fan-in, features would.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:  # (batch, width, height, width of grid)
        features: Tensor = self.stem(images)
        for stage in self.stages.children():
            again = self.checkpointing and self.training
            features = checkpoint(stage, features, use_reentrant=False) if again else stage(features)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or with pre_logits what the classifier reads: the mean of each map."""
        embedding = self.pool(features).flatten(1)
        return embedding if pre_logits else self.classifier(embedding)


def _stem(channels: int, plan: Plan) -> nn.Sequential:
    stride = plan.stem_stride
    return nn.Sequential(
        # 3x3 at stride 1; a strided kernel grows so that neighbours overlap and no pixel is skipped.
        nn.Conv2d(channels, plan.stem_width, 2 * stride + 1, stride=stride, padding=stride, bias=False),
        nn.BatchNorm2d(plan.stem_width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2, ceil_mode=True) if plan.stem_pool else nn.Identity(),
    )


def _stages(plan: Plan) -> nn.Sequential:
    widths_in = [plan.stem_width] + [stage.width for stage in plan.stages]
    stages = []
    for index, (width_in, stage) in enumerate(zip(widths_in, plan.stages, strict=False)):
        first = ResidualBlock(width_in, stage.width, stride=1 if index == 0 else 2)
        others = [ResidualBlock(stage.width, stage.width, stride=1) for _ in range(stage.blocks - 1)]
        stages.append(nn.Sequential(first, *others))
    return nn.Sequential(*stages)
