"""Attribution shows what parts of an image an answer rests on: GradCAM for most networks, attention for transformers.

Functions are pure, of (model, images): weights, their gradients, mode and the kind of attention are left as they were.
Neither kind of map is a proof. GradCAM is as coarse as the last grid; attention says where values were fetched from,
not what they were used for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.models.vit import ViT
from eval.explanations.layers import Transformer, as_maps, has_channels_last, hooked, transformer_of


def gradcam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:  # (batch, rows, columns) of the last grid
    """Return relu(sum_k w_k A_k), w_k = mean over the map A_k of the class logit's gradient (Selvaraju et al. 2017).

    For a CNN, A are its last maps. For a transformer, they are the patches as the last attention reads them. After that
    block, a classifier that reads the CLS token alone gives patches no gradient; and before the block's norm, a token's
    gradient stands at right angles to the token, because a norm does not see its length.
    """
    with torch.enable_grad():
        features, logits = _cut(model, images)
        chosen = logits.gather(1, classes[:, None]).sum()  # images do not mix in evaluation mode
        (gradient,) = torch.autograd.grad(chosen, features)

    transformer, last = transformer_of(model), has_channels_last(model)
    maps = as_maps(features.detach(), transformer, channels_last=last)
    slopes = as_maps(gradient, transformer, channels_last=last)
    assert maps is not None
    assert slopes is not None
    return (slopes.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).relu()


def _cut(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the layer that GradCAM reads, as the start of the graph, and the logits that follow from it."""
    transformer = transformer_of(model)
    if transformer is None:
        # Maps of a CNN come out between its two halves, so that no hook is needed.
        with torch.no_grad():
            features = model.forward_features(images)  # type: ignore[operator]
        features = features.requires_grad_()
        return features, model.forward_head(features.clone())  # type: ignore[operator] # a head may work in place

    starts: list[Tensor] = []

    def begin_here(_name: str, output: Tensor) -> Tensor:
        starts.append(output.detach().requires_grad_())
        return starts[-1]

    with hooked({"norm1": transformer.blocks[-1].norm1}, begin_here):
        logits = model(images)
    return starts[-1], logits


def has_maps(model: nn.Module, images: Tensor) -> bool:
    """Say whether there is something for GradCAM to show."""
    return not why_no_maps(model, images)


def why_no_maps(model: nn.Module, images: Tensor) -> str:
    """Say why GradCAM has nothing to show: features must lie on a grid of several cells; the text is empty if so."""
    with torch.no_grad():
        features = model.forward_features(images[:1])  # type: ignore[operator]
    maps = as_maps(features, transformer_of(model), channels_last=has_channels_last(model))
    if maps is None:
        return "its last features lie on no grid"
    alone = maps.shape[2] * maps.shape[3] == 1
    return "for these images its last grid is 1x1, where one cell is the whole image" if alone else ""


# --- attention --------------------------------------------------------------------------------------------------


def has_attention(model: nn.Module) -> bool:
    """Say whether a model attends over all tokens at once, and in a way that can be read."""
    transformer = transformer_of(model)
    if transformer is None:
        return False
    if isinstance(transformer.network, ViT):
        return True
    return all(hasattr(block.attn, "attn_drop") and hasattr(block.attn, "fused_attn") for block in transformer.blocks)


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the attention of each block (batch, heads, tokens, tokens); row i is what token i reads, and sums to 1."""
    transformer = transformer_of(model)
    assert transformer is not None
    if isinstance(transformer.network, ViT):
        return transformer.network.attention_maps(images)
    maps: dict[str, Tensor] = {}
    drops = {str(index): block.attn.attn_drop for index, block in enumerate(transformer.blocks)}
    with _written_down(transformer), hooked(drops, lambda name, weights: maps.update({name: weights})):
        model(images)
    return [maps[name] for name in drops]


@contextmanager
def _written_down(transformer: Transformer) -> Iterator[None]:
    """Make timm attend step by step while this is open: the fused kernel never writes its weights down."""
    attentions = [block.attn for block in transformer.blocks]
    before = [attention.fused_attn for attention in attentions]
    try:
        for attention in attentions:
            attention.fused_attn = False
        yield
    finally:
        for attention, fused in zip(attentions, before, strict=True):
            attention.fused_attn = fused


def rollout(maps: Sequence[Tensor]) -> Tensor:  # (batch, tokens, tokens)
    """Compute how much of each input token has reached each output token (Abnar and Zuidema 2020).

    Heads are averaged, the residual path counts as an attention to oneself, and the blocks' matrices are multiplied.
    """
    flow = torch.eye(maps[0].shape[-1], device=maps[0].device).expand(len(maps[0]), -1, -1)
    for weights in maps:
        mixed = weights.mean(dim=1) + torch.eye(weights.shape[-1], device=weights.device)
        flow = mixed / mixed.sum(dim=-1, keepdim=True) @ flow
    return flow


def seen_by_readers(weights: Tensor, transformer: Transformer) -> Tensor:  # (..., rows, columns) of patches
    """Take the rows that the classifier reads, over the patches, from weights (..., tokens, tokens)."""
    rows = weights[..., transformer.readers, :].mean(dim=-2)
    return rows[..., transformer.prefix :].unflatten(-1, transformer.grid)
