"""A network is seen from outside here: what its layers put out, and how a transformer's tokens lie in the image.

Hooks are removed, whatever happens while they are there.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.models.vit import ViT


@contextmanager
def hooked(modules: Mapping[str, nn.Module], hook: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Show each module's output to hook(name, output) while this is open; what it returns takes the output's place."""

    def about(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        return lambda _module, _inputs, output: hook(name, output) if isinstance(output, Tensor) else None

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(about(name)).remove)
        yield


@torch.no_grad()
def outputs_of(model: nn.Module, modules: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    """Map names to what the modules put out, in the order of the calls; the last of several calls of one counts."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output.clone()  # the next layer may work in place

    with hooked(modules, keep):
        model(images)
    return outputs


# --- transformers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transformer:
    """A plain vision transformer inside a model has blocks of one width, over prefix tokens and a grid of patches."""

    network: Any  # Any, because timm's attributes have no types
    blocks: tuple[Any, ...]
    prefix: int  # CLS, DIST and register tokens
    grid: tuple[int, int]  # rows and columns of patches

    @property
    def tokens(self) -> int:
        return self.prefix + math.prod(self.grid)

    @property
    def readers(self) -> list[int]:
        """List the tokens that the classifier reads: CLS, DIST, both, or all patches."""
        if isinstance(self.network, ViT):
            return {"cls": [0], "dist": [1], "avg": [0, 1]}[self.network.inference]
        if self.prefix and getattr(self.network, "global_pool", "token") == "token":
            return [0, 1] if hasattr(self.network, "head_dist") else [0]  # timm's distilled DeiT has a second head
        return list(range(self.prefix, self.tokens))


def transformer_of(model: nn.Module) -> Transformer | None:
    """Find the transformer, ours or timm's; None for convolutional networks and those that attend in windows."""
    network: Any
    for network in model.modules():
        if isinstance(network, ViT):
            return Transformer(network, tuple(network.blocks), network.prefix, network.grid)
        if hasattr(network, "num_prefix_tokens") and all(hasattr(network, name) for name in ("blocks", "patch_embed")):
            blocks, grid = tuple(network.blocks), tuple(network.patch_embed.grid_size)
            if blocks and all(hasattr(block, "norm1") and hasattr(block, "attn") for block in blocks):
                return Transformer(network, blocks, network.num_prefix_tokens, grid)
    return None


def as_maps(output: Tensor, transformer: Transformer | None, *, channels_last: bool = False) -> Tensor | None:
    """Return a layer's output as maps (batch, channels, height, width), without prefix tokens; None if it is no map."""
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if channels_last else output
    if output.ndim != 3:
        return None
    prefix, grid = (transformer.prefix, transformer.grid) if transformer else (0, (math.isqrt(output.shape[1]),) * 2)
    patches = output[:, output.shape[1] - math.prod(grid) :]
    if output.shape[1] not in {math.prod(grid), prefix + math.prod(grid)}:
        return None
    return patches.transpose(1, 2).unflatten(2, grid)


def has_channels_last(model: nn.Module) -> bool:
    """Say whether features come as (batch, height, width, channels), which timm says of Swin and its kin."""
    return any(getattr(module, "output_fmt", "NCHW") == "NHWC" for module in model.modules())
