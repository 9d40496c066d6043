"""FastCNN: a plain network that learns small photographs in minutes on a laptop (after Jordan 2024, arXiv:2404.00498).

1. The first layer is not learned: it whitens the training images' 2x2 patches. Each of the patches' principal axes
   gives two channels, one for either sign, so that the GELU after it loses nothing.
2. Three groups of convolutions follow, with c, 4c and 4c channels. The first convolution of a group halves the grid by
   a max-pool, as long as there is something to halve; of a residual network, the others are added to what it gives.
3. Convolutions start as near the identity as they can: what comes in, goes through, and other channels look around.
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
    """Images (batch, channels, height, width) to logits (batch, classes)."""

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

        # Each axis of the patches makes two channels.
        self.whitening = Whitening(image_channels)
        widths = (2 * image_channels * PATCH**2, channels, 4 * channels, 4 * channels)

        # The whitening takes a pixel off the side, and what is odd is rounded down: 32 become 31, 15, 7 and 3.
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
        """Logits, or what the head reads: the maximum of each map."""
        embedding = features.amax(dim=(2, 3))
        return embedding if pre_logits else self.head(embedding) * LOGIT_SCALE


class Whitening(nn.Module):
    """Patches in the coordinates of their principal axes, each of variance one, and the same with the sign turned.

    The axes are those of the training images, kept among the model's weights as a buffer: they are saved and averaged
    as weights are, and no optimizer moves them. Before `learn` they are the pixels themselves.
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
    """An axis has no direction of its own: it is given the one in which its largest entry is positive."""
    largest = axes.abs().argmax(dim=0)
    return axes.gather(0, largest[None])[0].sign()


class Group(nn.Module):
    """A convolution, max-pool, norm and GELU come first, then further convolutions, each with a norm and a GELU.

    Around these a residual network has a shortcut, which joins before the last GELU.
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
    """3x3 without a bias; the first filters, as many as there are channels to pass on, are the identity."""
    convolution = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:width_in])
    return convolution
