"""FastCNN: a plain network that learns small photographs in minutes on a laptop (after Jordan 2024, arXiv:2404.00498).

1. The first layer is not learned: it whitens the training images' 2x2 patches. Each of the patches' principal axes
   gives two channels, one for either sign, so that the GELU after it loses nothing.
2. Three groups of convolutions follow, with c, 4c and 4c channels. A max-pool after the first convolution of a group
   halves the grid, as long as there is something to halve. In a residual network a shortcut goes around the others.
3. Convolutions start as near the identity as they can: the first filters pass on what comes in, the others are random.
4. Batch norms shift, but do not scale. They forget quickly, for there are few steps.
5. The maximum of each map goes through one matrix without a bias, and the logits are scaled down.

The paper's first layer has a bias, which learns for three epochs; ours has none. That spares the backward pass through
the largest grid of the network.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SMALLEST_SIDE = 8
PATCH = 2  # side in pixels of what the first layer sees
WHITENING_IMAGES = 5000  # are enough: they have millions of patches
WHITENING_EPS = 5e-4  # keeps directions in which patches hardly differ from becoming noise
NORM_MOMENTUM = 0.4  # weight of the newest batch in the running statistics
LOGIT_SCALE = 1 / 9


class FastCNN(nn.Module):
    """Maps images (batch, channels, height, width) to logits (batch, classes)."""

    checkpointing = False  # compute each group's activations again in the backward pass

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        channels: int = 64,
        convolutions: int = 2,
        residual: bool = False,
    ) -> None:
        super().__init__()
        image_channels, height, width = shape
        if image_channels < 1 or min(height, width) < SMALLEST_SIDE or classes < 2:
            raise ValueError(
                f"fast_cnn: given shape (channels, height, width) = {tuple(shape)} and {classes} classes, allowed: "
                f"1 or more channels, {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels or larger, 2 or more classes"
            )

        self.whitening = Whitening(image_channels)
        widths = (2 * image_channels * PATCH**2, channels, 4 * channels, 4 * channels)

        # Small images shrink to a single cell before the last group, which then has nothing to pool.
        side = min(height, width) - PATCH + 1
        groups = []
        for width_in, width_out in pairwise(widths):
            groups.append(Group(width_in, width_out, convolutions, residual, pool=side > 1))
            side = max(side // 2, 1)
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:  # (batch, width, height, width of grid)
        features: Tensor = F.gelu(self.whitening(images))
        for group in self.groups.children():
            again = self.checkpointing and self.training
            features = checkpoint(group, features, use_reentrant=False) if again else group(features)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or with pre_logits what the head reads: the maximum of each map."""
        embedding = features.amax(dim=(2, 3))
        return embedding if pre_logits else self.head(embedding) * LOGIT_SCALE


class Whitening(nn.Module):
    """Expresses patches in coordinates of their principal axes, each of variance one, and also with the sign turned.

    The axes are those of the training images, kept among the model's weights as a buffer: they are saved and averaged
    as weights are, and no optimizer moves them. Before `learn` the coordinates are the pixels themselves.
    """

    axes: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = channels * PATCH**2
        self.register_buffer("axes", torch.eye(size).view(size, channels, PATCH, PATCH))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, torch.cat([self.axes, -self.axes]))

    @torch.no_grad()
    def learn(self, images: Tensor) -> None:
        """Take the axes from normalised training images (n, channels, height, width)."""
        size = self.axes[0].numel()
        covariance, count = torch.zeros(size, size, dtype=torch.float64), 0
        for part in images.float().cpu().split(500):
            patches = F.unfold(part, PATCH).double().transpose(0, 1).flatten(1)  # (size, n times places)
            covariance, count = covariance + patches @ patches.T, count + patches.shape[1]

        variances, axes = torch.linalg.eigh(covariance / count)
        axes = axes.T * _signs(axes)[:, None] / (variances[:, None] + WHITENING_EPS).sqrt()
        self.axes.copy_(axes.view_as(self.axes))


def _signs(axes: Tensor) -> Tensor:
    """Return the signs that make the largest entry of each axis positive: an axis has no direction of its own."""
    largest = axes.abs().argmax(dim=0)
    return axes.gather(0, largest[None])[0].sign()


class Group(nn.Module):
    """Applies a convolution, max-pool, norm and GELU, then further convolutions, each with a norm and a GELU.

    A residual network has a shortcut around the further ones, which joins before their last GELU.
    """

    def __init__(self, width_in: int, width: int, convolutions: int, residual: bool, pool: bool) -> None:
        super().__init__()
        self.residual = residual
        self.first = _convolution(width_in, width)
        self.pool: nn.Module = nn.MaxPool2d(2) if pool else nn.Identity()
        self.first_norm = ShiftNorm(width)
        self.others = nn.ModuleList(_convolution(width, width) for _ in range(convolutions - 1))
        self.norms = nn.ModuleList(ShiftNorm(width) for _ in range(convolutions - 1))

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features = F.gelu(self.first_norm(self.pool(self.first(features))))
        for place, (convolution, norm) in enumerate(zip(self.others, self.norms, strict=True), 1):
            features = norm(convolution(features))
            if self.residual and place == len(self.others):
                features = features + shortcut
            features = F.gelu(features)
        return features


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm with a shift alone: a scale before a layer that is normalised again would change little."""

    def __init__(self, width: int) -> None:
        super().__init__(width, momentum=NORM_MOMENTUM)
        self.register_parameter("weight", None)


def _convolution(width_in: int, width: int) -> nn.Conv2d:
    """Make a 3x3 convolution without a bias whose first filters are the identity, as many as there are channels."""
    convolution = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:width_in])
    return convolution
