"""ViT and DeiT: a vision transformer with a small convolutional stem.

The suite's reference transformer (Dosovitskiy et al. 2021, Touvron et al. 2021), with the early convolutions of Xiao et
al. 2021. At width 192, depth 12, 3 heads it has 3,913,690 parameters for MNIST (patch 4, stem 96) and 4,338,346 for
CIFAR-10 (patch 4, stem 192).

images (batch, channels, height, width) -> stem -> tokens (batch, prefix + n, width) -> blocks -> norm -> heads
The prefix is the CLS token and, in a DeiT, the DIST token after it.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MOST_TOKENS, FEWEST_TOKENS = 64, 4
INFERENCES = ("cls", "dist", "avg")


class Outputs(NamedTuple):
    """The outputs of a forward pass that distillation reads."""

    logits: Tensor  # by the rule of inference
    cls: Tensor  # logits of the CLS token's head
    dist: Tensor | None  # and of the DIST token's, if there is one
    tokens: dict[int, Tensor]  # block -> its patch tokens (batch, n, width)


def derive_patch(shape: tuple[int, int, int]) -> int:
    """Return the smallest side of a patch that divides the image and leaves at most 64 patches."""
    _, height, width = shape
    for patch in range(1, min(height, width) + 1):
        if height % patch == 0 == width % patch and height * width <= MOST_TOKENS * patch**2:
            if height * width < FEWEST_TOKENS * patch**2:
                break
            return patch
    raise ValueError(
        f"vit: given images of {height}x{width}, which no patch divides into {FEWEST_TOKENS} to {MOST_TOKENS} squares; "
        "allowed: a patch of your choice (model.patch) that divides both sides, or images of another size"
    )


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # each (batch, heads, n, width / heads)
        batch, n, width = tokens.shape
        query, key, value = self.qkv(tokens).view(batch, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return query, key, value

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(*self._split(tokens))
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(self, tokens: Tensor) -> Tensor:  # (batch, heads, n, n), rows sum to 1
        """Compute the weights that forward mixes values by; the fused kernel never writes them down."""
        query, key, _ = self._split(tokens)
        return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)


class DropPath(nn.Module):
    """Skips the branch for a whole image, and scales what is left (Huang et al. 2016)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return branch
        keep = 1 - self.probability
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep


class Block(nn.Module):
    """Computes x + attention(norm(x)), then x + mlp(norm(x)): norms come first."""

    def __init__(self, width: int, heads: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def with_attention(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the block without dropping anything; return its tokens and its attention."""
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed)
        return tokens + self.mlp(self.norm2(tokens)), self.attention.weights(normed)


class ViT(nn.Module):
    """Maps images (batch, channels, height, width) to logits (batch, classes), by the rule `inference`.

    The rules: cls reads the CLS token's head, dist the DIST token's, and avg takes the mean of both.

    CLS dropout: in training, with this probability for each image, the CLS head reads the mean of the patch tokens in
    place of the CLS token. So the patches carry the class too, which distillation of tokens builds on.

    A loss on the logits alone trains only the heads that `inference` reads. A DIST token with inference=cls is allowed
    nevertheless: a distillation reads both heads from `outputs` and trains them whatever the rule.
    """

    checkpointing = False  # compute each block's activations again in the backward pass

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        patch: int,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 2.0,
        stem_width: int = 192,
        dist_token: bool = False,
        drop_path: float = 0.1,
        cls_dropout: float = 0.1,
        inference: str = "cls",
    ) -> None:
        super().__init__()
        _check_images(shape, classes, patch)
        _check_layers(width, depth, heads, mlp_ratio, stem_width)
        _check_rules(drop_path, cls_dropout, dist_token, inference)

        self.patch, self.grid = patch, (shape[1] // patch, shape[2] // patch)
        self.prefix = 2 if dist_token else 1
        self.inference, self.cls_dropout = inference, cls_dropout
        self.stem = _stem(shape[0], stem_width)
        self.project = nn.Conv2d(stem_width or shape[0], width, patch, stride=patch)
        self.prefix_tokens = nn.Parameter(torch.empty(1, self.prefix, width))
        self.positions = nn.Parameter(torch.empty(1, self.prefix + self.grid[0] * self.grid[1], width))

        # Late blocks are skipped more often: the first ones find what all others build on (Huang et al. 2016).
        rates = [drop_path * block / max(depth - 1, 1) for block in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, int(width * mlp_ratio), rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)

        self.cls_head = nn.Linear(width, classes)
        self.dist_head = nn.Linear(width, classes) if dist_token else None
        _initialise(self)

    def forward(self, images: Tensor, layers: Sequence[int] | None = None) -> Tensor | Outputs:
        """Return logits or, with `layers`, even none of them, what `outputs` returns.

        `outputs` is called through forward, because DistributedDataParallel synchronises the gradients of nothing else.
        """
        if layers is None:
            return self.forward_head(self.forward_features(images))
        return self.outputs(images, layers)

    def outputs(self, images: Tensor, layers: Sequence[int] = ()) -> Outputs:
        """Return the logits of every head, and the patch tokens after some blocks, before the last norm.

        layers: those blocks; negative numbers count from the end.
        """
        blocks = {layer: self._block(layer) for layer in layers}
        features, kept = self._encode(images, keep=blocks.values())
        cls, dist = self._logits(*self._representations(features))
        tokens = {layer: kept[block][:, self.prefix :] for layer, block in blocks.items()}
        return Outputs(self._choose(cls, dist), cls, dist, tokens)

    def forward_features(self, images: Tensor) -> Tensor:  # (batch, prefix + n, width)
        features, _ = self._encode(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or with pre_logits the representation that they are read from; of both tokens their mean."""
        cls, dist = self._representations(features)
        return self._choose(cls, dist) if pre_logits else self._choose(*self._logits(cls, dist))

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> list[Tensor]:
        """Return the attention of every block (batch, heads, prefix + n, prefix + n): row i says what token i looks at.

        It is that of evaluation, whatever mode the model is in: nothing is dropped, and no batch norm learns.
        """
        with _evaluating(self.stem):
            tokens = self._embed(images)
        maps = []
        for block in self.blocks:
            tokens, weights = cast(Block, block).with_attention(tokens)
            maps.append(weights)
        return maps

    # --- parts of the way -----------------------------------------------------------------------------------------

    def _encode(self, images: Tensor, keep: Collection[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """Return all tokens after the last norm, and after each block of `keep`."""
        tokens, kept = self._embed(images), {}
        for index, block in enumerate(self.blocks):
            again = self.checkpointing and self.training
            tokens = checkpoint(block, tokens, use_reentrant=False) if again else block(tokens)
            if index in keep:
                kept[index] = tokens
        return self.norm(tokens), kept

    def _embed(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"vit: given images of {height}x{width}, allowed: sides that {self.patch} divides")
        grid = height // self.patch, width // self.patch
        patches = self.project(self.stem(images)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix_tokens.expand(len(images), -1, -1), patches], dim=1)
        return tokens + self._positions_for(grid)

    def _positions_for(self, grid: tuple[int, int]) -> Tensor:
        """Return the learned positions, stretched over another grid as a picture would be."""
        if grid == self.grid:
            return self.positions
        prefix, patches = self.positions[:, : self.prefix], self.positions[:, self.prefix :]
        picture = patches.transpose(1, 2).unflatten(2, self.grid).float()
        stretched = F.interpolate(picture, size=grid, mode="bicubic", antialias=True)
        return torch.cat([prefix, stretched.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)

    def _representations(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the inputs of the CLS head and of the DIST head, each (batch, width)."""
        cls = features[:, 0]
        if self.training and self.cls_dropout:
            drop = torch.rand(len(features), 1, device=features.device) < self.cls_dropout
            cls = torch.where(drop, features[:, self.prefix :].mean(dim=1), cls)
        return cls, features[:, 1] if self.prefix == 2 else None

    def _logits(self, cls: Tensor, dist: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.cls_head(cls), None if self.dist_head is None else self.dist_head(dist)

    def _choose(self, cls: Tensor, dist: Tensor | None) -> Tensor:
        if dist is None or self.inference == "cls":
            return cls
        return dist if self.inference == "dist" else (cls + dist) / 2

    def _block(self, layer: int) -> int:
        depth = len(self.blocks)
        if not -depth <= layer < depth:
            raise ValueError(f"vit: given layer {layer}, allowed: 0 to {depth - 1}, or -{depth} to -1 from the end")
        return layer % depth


def _stem(channels: int, width: int) -> nn.Module:
    """Make two 3x3 convolutions at full resolution; none with width 0."""
    if width == 0:
        return nn.Identity()
    half = max(width // 2, 1)
    layers: list[nn.Module] = []
    for width_in, width_out in ((channels, half), (half, width)):
        layers += [nn.Conv2d(width_in, width_out, 3, padding=1, bias=False), nn.BatchNorm2d(width_out), nn.ReLU()]
    return nn.Sequential(*layers)


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while, and each part back into its own mode after it."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _check_images(shape: tuple[int, int, int], classes: int, patch: int) -> None:
    channels, height, width = shape
    _require(
        min(shape) >= 1 and classes >= 2,
        f"shape (channels, height, width) = ({channels}, {height}, {width}) and {classes} classes",
        "1 or more channels and pixels, 2 or more classes",
    )
    _require(
        patch >= 1 and height % patch == 0 == width % patch,
        f"patch={patch} for images of {height}x{width}",
        "a side that divides both",
    )


def _check_layers(width: int, depth: int, heads: int, mlp_ratio: float, stem_width: int) -> None:
    _require(
        width >= 1 and heads >= 1 and width % heads == 0,
        f"width={width} and heads={heads}",
        "heads that divide the width",
    )
    _require(depth >= 1, f"depth={depth}", "1 or more blocks")
    _require(width * mlp_ratio >= 1, f"mlp_ratio={mlp_ratio} of width={width}", "a ratio that leaves the MLP 1 or more")
    _require(stem_width >= 0, f"stem_width={stem_width}", "1 or more, or 0 for no convolutions")


def _check_rules(drop_path: float, cls_dropout: float, dist_token: bool, inference: str) -> None:
    _require(0 <= drop_path < 1, f"drop_path={drop_path}", "from 0 to below 1")
    _require(0 <= cls_dropout <= 1, f"cls_dropout={cls_dropout}", "from 0 to 1")
    allowed = INFERENCES if dist_token else INFERENCES[:1]
    without = "" if dist_token else " without dist_token"
    _require(inference in allowed, f"inference={inference}{without}", ", ".join(allowed))


def _require(fits: bool, choice: str, allowed: str) -> None:
    if not fits:
        raise ValueError(f"vit: given {choice}, allowed: {allowed}")


def _initialise(model: ViT) -> None:
    """Draw weights from a truncated normal of deviation 0.02, those of the stem as He et al. 2015; biases are zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    # The projection of patches is a convolution in form alone: it is a matrix product for each patch.
    for weight in (model.prefix_tokens, model.positions, model.project.weight):
        nn.init.trunc_normal_(weight, std=0.02)
    assert model.project.bias is not None
    nn.init.zeros_(model.project.bias)

    for module in model.stem.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
