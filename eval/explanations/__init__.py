"""Each kind of explanation tells whether a model offers it, and finds its figures and the numbers in them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from common.failures import Refused
from common.figures.embedding import planes
from common.settings import messages
from eval.explanations import activations, attribution, figures
from eval.explanations.layers import transformer_of
from eval.explanations.subject import Subject, some

CHANNELS = 8  # of a layer's maps, that are shown
GRADIENT_IMAGES = 32
FEWEST_POINTS = 5
SHARE = "share of the image's\ngreatest value"
LEFT_OUT = "no label", "several labels"  # groups of images that are not of one class


class Wanted(NamedTuple):
    """The explanations can be asked for these; each reads what concerns it."""

    layer: str | None = None  # of the feature maps
    block: int = -1  # of the attention heads
    points: int = 2000  # in the embeddings
    seed: int = 0


class Found(NamedTuple):
    figures: dict[str, Figure]  # by the name of their file
    facts: dict[str, Any]  # plain numbers
    arrays: dict[str, np.ndarray] = {}  # noqa: RUF012 - never written


class Explanation(NamedTuple):
    offered: Callable[[Subject], bool]
    find: Callable[[Subject, Wanted], Found]
    of_images: bool  # else of the model and its test set, whatever images are shown
    why_not: Callable[[Subject], str] = lambda _: ""  # more than that the model does not offer it


def gradcam(subject: Subject, _wanted: Wanted) -> Found:
    classes = torch.from_numpy(subject.explained).to(subject.inputs.device)
    maps = attribution.gradcam(subject.model, subject.inputs, classes).cpu().numpy()
    what = "the most probable class" if subject.chosen is None else subject.classes[subject.chosen]
    heading = _heading(subject, f"GradCAM: what speaks for {what}, on a grid of {_by(maps)}")
    figure = figures.overlays(subject.images, maps, subject.titles, heading, SHARE)
    return Found({"gradcam": figure}, {"grid": list(maps.shape[1:])}, {"maps": maps})


def attention(subject: Subject, wanted: Wanted) -> Found:
    transformer = transformer_of(subject.model)
    assert transformer is not None
    depth = len(transformer.blocks)
    if not -depth <= wanted.block < depth:
        raise Refused([f"block: given {wanted.block}, allowed: 0 to {depth - 1}, or -{depth} to -1 from the end"])
    block = wanted.block % depth

    # The rollout follows all blocks at once, for all heads together; beside it, each head of one block.
    maps = attribution.attention_maps(subject.model, subject.inputs)
    flow = attribution.seen_by_readers(attribution.rollout(maps), transformer).cpu().numpy()
    heads = attribution.seen_by_readers(maps[block], transformer).cpu().numpy()

    of_all = f"attention rollout over {depth} blocks: how much of each of {_by(flow)} patches reaches the classifier"
    of_heads = (
        f"attention in block {block} of 0 to {depth - 1}, by the tokens that answer, to each of {_by(heads)} patches"
    )
    drawn = {
        "attention_rollout": figures.overlays(subject.images, flow, subject.titles, _heading(subject, of_all), SHARE),
        f"attention_heads_block{block}": figures.head_maps(
            subject.images, heads, subject.titles, _heading(subject, of_heads), "share of attention"
        ),
    }
    facts = {"blocks": depth, "heads": heads.shape[1], "block": block, "grid": list(transformer.grid)}
    return Found(drawn, facts, {"rollout": flow, "heads": heads})


def features(subject: Subject, wanted: Wanted) -> Found:
    shapes = activations.map_shapes(subject.model, subject.inputs)
    if wanted.layer is not None and wanted.layer not in shapes:
        raise Refused([messages.unknown("layer", wanted.layer, shapes)])

    # A wide layer has hundreds of channels: shown are those that tell the images and places apart.
    names = activations.telling_layers(subject.model, shapes) if wanted.layer is None else [wanted.layer]
    drawn, arrays, facts = {}, {}, {}
    layers = {name: module for name, module in subject.model.named_modules() if name in names}
    for name, tensor in activations.feature_maps(subject.model, subject.inputs, layers).items():
        maps = tensor.float().cpu().numpy()
        chosen = activations.liveliest(maps, CHANNELS)
        about = f"feature maps of {name}: {maps.shape[1]} channels of {_by(maps)}, the {len(chosen)} that vary most"
        heading = _heading(subject, f"{about}\nactivations, from least to greatest of the channel")
        drawn[f"features_{name}"] = figures.channel_maps(subject.images, maps, chosen, subject.titles, heading)
        arrays[name] = maps[:, chosen]
        facts[name] = {"shape": list(shapes[name]), "channels": chosen.tolist()}

    return Found(drawn, {"layers": facts, "all_layers": list(shapes)}, arrays)


def filters(subject: Subject, _wanted: Wanted) -> Found:
    first = activations.first_filters(subject.model)
    assert first is not None
    name, weights = first
    about = f"{len(weights)} filters of {weights.shape[1]}x{_by(weights)} weights: {name}, the first convolution"
    scale = f"grey is 0, black and white are ±{np.abs(weights).max():.2g}"
    heading = f"{subject.trained.name}\n{about}\n{scale}{'' if weights.shape[1] != 3 else ', per colour'}"
    return Found({"filters": figures.filter_grid(weights, heading)}, {"layer": name}, {"weights": weights})


def gradients(subject: Subject, wanted: Wanted) -> Found:
    test = subject.open_test()
    (batch,) = some(test, GRADIENT_IMAGES, wanted.seed).in_order()
    flow = activations.gradient_flow(subject.model, batch, multi_label=subject.multi_label)
    layers, means, largest = zip(*flow, strict=True)
    origin = f"n = {len(batch)} of {len(test.rows):,} test images of {subject.trained.data['name']}"
    heading = f"{subject.trained.name}\ngradient flow of one batch, input at the top; {origin}"
    figure = figures.gradient_bars(layers, means, largest, heading)
    return Found({"gradients": figure}, {"images": len(batch), "layers": [layer._asdict() for layer in flow]})


def embeddings(subject: Subject, wanted: Wanted) -> Found:
    test = subject.open_test()
    batches = some(test, wanted.points, wanted.seed)
    if len(batches.rows) < FEWEST_POINTS:
        raise Refused([f"what: given embeddings, which need {FEWEST_POINTS} test images; there are {len(test.rows)}"])

    # Two planes of the same points: in the first, distances can be read; in the second, only neighbourhoods.
    points, labels = activations.embed(subject.model, batches.in_order()), batches.labels[batches.rows].numpy()
    principal, shares = activations.principal_plane(points)
    neighbours = activations.neighbour_plane(points, wanted.seed)

    groups, names = _groups(labels, subject.classes)
    origin = f"n = {len(points):,} of {len(test.rows):,} test images of {subject.trained.data['name']}"
    heading = f"{subject.trained.name}\nembeddings of {points.shape[1]} numbers by true class; {origin}"
    figure = planes(principal, shares.tolist(), neighbours, groups, names, heading)
    arrays = {
        "embeddings": points,
        "labels": labels,
        "rows": batches.rows,
        "principal": principal,
        "neighbours": neighbours,
    }
    return Found({"embeddings": figure}, {"images": len(points), "explained_variance": shares.tolist()}, arrays)


EXPLANATIONS = {
    "gradcam": Explanation(
        lambda subject: attribution.has_maps(subject.model, subject.inputs),
        gradcam,
        True,
        lambda subject: attribution.why_no_maps(subject.model, subject.inputs),
    ),
    "attention": Explanation(lambda subject: attribution.has_attention(subject.model), attention, True),
    "features": Explanation(lambda _: True, features, True),
    "filters": Explanation(lambda subject: activations.first_filters(subject.model) is not None, filters, False),
    "gradients": Explanation(lambda _: True, gradients, False),
    "embeddings": Explanation(lambda _: True, embeddings, False),
}


def _groups(labels: np.ndarray, classes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Give each image a number, and each number a name; images with no or several labels are groups of their own."""
    if labels.ndim == 1:
        return labels, classes
    counts = labels.sum(axis=1)
    alone = np.where(counts == 1, labels.argmax(axis=1), len(classes) + (counts > 1))
    return alone, [*classes, *LEFT_OUT]


def _heading(subject: Subject, about: str) -> str:
    return f"{subject.trained.name}\n{about}; n = {subject.origin}"


def _by(maps: np.ndarray) -> str:
    return "x".join(map(str, maps.shape[-2:]))
