"""These functions read what the layers of a network hold: feature maps, filters, gradients, embeddings.

They are pure; the model is left as it was. Everything is measured in evaluation mode: no dropout, batch norms with
their running statistics.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.data.packed import Batch
from common.training.losses import label_loss
from eval.explanations.layers import Transformer, as_maps, has_channels_last, outputs_of, transformer_of

MOST_LAYERS = 6


# --- feature maps -----------------------------------------------------------------------------------------------


def map_shapes(model: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Map each layer that puts out maps to their (channels, height, width), in the order of the calls."""
    layers = {name: module for name, module in model.named_modules() if name}
    outputs = feature_maps(model, images[:1], layers)
    return {name: tuple(maps.shape[1:]) for name, maps in outputs.items() if maps.shape[2:].numel() > 1}


def telling_layers(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Choose the last block of each grid size, else the last layer; of a transformer, first, middle and last block."""
    layers = dict(model.named_modules())
    blocks_last = sorted(shapes, key=lambda name: _is_block(layers[name]))
    chosen = {shapes[name][1:]: name for name in blocks_last}
    wanted, transformer = set(chosen.values()), transformer_of(model)
    if transformer:
        blocks = _block_names(model, transformer)
        wanted -= {chosen.get(transformer.grid, "")}
        wanted |= {blocks[0], blocks[len(blocks) // 2], blocks[-1]}
    return [name for name in shapes if name in wanted][:MOST_LAYERS]


def _is_block(module: nn.Module) -> bool:
    return any(True for child in module.children() for _ in child.parameters())


def _block_names(model: nn.Module, transformer: Transformer) -> list[str]:
    names = {module: name for name, module in model.named_modules()}
    return [names[block] for block in transformer.blocks]


def feature_maps(model: nn.Module, images: Tensor, layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Map each layer that puts out maps to these (batch, channels, height, width)."""
    transformer, last = transformer_of(model), has_channels_last(model)
    in_blocks = {part for block in transformer.blocks for part in block.modules()} if transformer else set()
    maps_of = {}
    for name, output in outputs_of(model, layers, images).items():
        by_heads = layers[name] in in_blocks and output.ndim == 4  # (batch, heads, tokens, dim), not a picture
        maps = None if by_heads else as_maps(output, transformer, channels_last=last)
        if maps is not None:
            maps_of[name] = maps
    return maps_of


def liveliest(maps: np.ndarray, count: int) -> np.ndarray:
    """Choose the channels that vary most over these images and places, the liveliest first."""
    return np.argsort(-maps.var(axis=(0, 2, 3)), kind="stable")[:count]


def first_filters(model: nn.Module) -> tuple[str, np.ndarray] | None:
    """Return the first convolution's name and weights (out, in, height, width); None if there is no convolution."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module.weight.detach().cpu().numpy()
    return None


# --- gradients --------------------------------------------------------------------------------------------------


class Gradient(NamedTuple):
    layer: str
    mean: float  # of the absolute values
    largest: float


def gradient_flow(model: nn.Module, batch: Batch, *, multi_label: bool = False) -> list[Gradient]:
    """Measure how strongly a batch's loss pulls at every kernel, matrix and token; 0 if the answer does not use it."""
    # Biases and norms, which have one dimension, are left out: they follow the layer they belong to.
    weights = {
        name.removesuffix(".weight"): weight
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and weight.requires_grad
    }

    with torch.enable_grad():
        loss = label_loss(model(batch.images), batch.targets, multi_label=multi_label)
        slopes = torch.autograd.grad(loss, [*weights.values()], allow_unused=True)

    sizes = [None if slope is None else slope.abs() for slope in slopes]
    return [
        Gradient(name, 0.0, 0.0) if size is None else Gradient(name, size.mean().item(), size.max().item())
        for name, size in zip(weights, sizes, strict=True)
    ]


# --- embeddings -------------------------------------------------------------------------------------------------


@torch.no_grad()
def embed(model: nn.Module, batches: Iterable[Batch]) -> np.ndarray:  # (n, dim)
    """Return what the classifier reads of each image."""
    read = [
        model.forward_head(model.forward_features(batch.images), pre_logits=True)  # type: ignore[operator]
        for batch in batches
    ]
    return torch.cat(read).float().cpu().numpy()


def principal_plane(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 2) on the two directions of greatest variance, and each one's share of the variance."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    return pca.fit_transform(embeddings.astype(np.float64)), pca.explained_variance_ratio_


def neighbour_plane(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Return points (n, 2) by t-SNE (van der Maaten and Hinton 2008), begun from the principal plane.

    Points that are near were near; distances between groups and the size of a group mean nothing.
    """
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    return TSNE(init="pca", perplexity=perplexity, random_state=seed, n_jobs=1).fit_transform(embeddings)
