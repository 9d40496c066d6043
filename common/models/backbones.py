"""Networks of timm behind the suite's inputs: resized to the network's size on the device, and of any channels.

Images come normalised by the statistics of the data set. Published weights want their own: a pretrained network first
changes the one into the other, with factors that its checkpoints keep.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from common.failures import Refused
from common.models.settings import TimmSettings
from common.models.weights import check_loaded, find_weights, read_weights


class Backbone(nn.Module):
    """Images (batch, channels, height, width) of any size to logits (batch, classes)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, size: tuple[int, int], scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.net, self.size = net, size
        self.knows_classes = False  # whether its classifier is a published one too
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.fitted(images))

    def forward_features(self, images: Tensor) -> Tensor:  # (batch, width, height, width), or (batch, tokens, width)
        features: Tensor = self.net.forward_features(self.fitted(images))  # type: ignore[operator]
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        found: Tensor = self.net.forward_head(features, pre_logits=pre_logits)  # type: ignore[operator]
        return found

    def fitted(self, images: Tensor) -> Tensor:
        """As the network wants them."""
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        return images * self.scale + self.shift

    @property
    def checkpointing(self) -> bool:
        return bool(getattr(self.net, "grad_checkpointing", False))

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        if not wanted:
            return
        try:
            self.net.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AssertionError, AttributeError):
            raise ValueError("recipe.checkpointing=true is not possible with this network; allowed: false") from None


def build_backbone(
    settings: TimmSettings,
    shape: tuple[int, int, int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    fresh: bool = True,
) -> Backbone:
    """fresh=False: the weights will come from a checkpoint, so published ones need not be there."""
    name, channels = settings.name.removeprefix("timm/"), shape[0]
    config = get_pretrained_cfg(name) or PretrainedCfg()
    size = _size(settings, shape, config)
    options = _options(settings, config, size) | {"num_classes": classes, "in_chans": channels}
    if settings.pretrained and fresh:
        net, knows_classes = _pretrained(settings, name, options)
    else:
        net, knows_classes = _create(name, options), False
    if settings.stem == "small":
        _make_stem_small(net, channels)
    if settings.pretrained:
        scale, shift = _renormalise(config, mean, std)
    else:
        scale, shift = torch.ones(channels), torch.zeros(channels)
    backbone = Backbone(net, size, scale, shift)
    backbone.knows_classes = knows_classes
    return backbone


def _size(settings: TimmSettings, shape: tuple[int, int, int], config: PretrainedCfg) -> tuple[int, int]:
    """(height, width) that images are resized to."""
    if settings.input_size:
        return settings.input_size, settings.input_size
    return shape[1:] if settings.stem == "small" else config.input_size[1:]


def _options(settings: TimmSettings, config: PretrainedCfg, size: tuple[int, int]) -> dict[str, Any]:
    options: dict[str, Any] = {"drop_rate": settings.dropout}
    if settings.drop_path:
        options["drop_path_rate"] = settings.drop_path
    if config.fixed_input_size and size != config.input_size[1:]:
        options["img_size"] = size  # positions are made for it
    return options


def _create(name: str, options: dict[str, Any], **pretrained: Any) -> nn.Module:
    try:
        return timm.create_model(name, **options, **pretrained)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise ValueError(f"given drop_path={options['drop_path_rate']}, allowed with {name}: 0") from None
        if "img_size" in str(error):
            raise ValueError(f"given input_size={options['img_size'][0]}, allowed with {name}: null, its own") from None
        raise
    except (AssertionError, ValueError, ZeroDivisionError) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ValueError(f"timm cannot build {name} with {given}: {error or type(error).__name__}") from None


def _pretrained(settings: TimmSettings, name: str, options: dict[str, Any]) -> tuple[nn.Module, bool]:
    """The network, and whether its classifier was published for as many classes and so is kept."""
    path = Path(settings.weights).expanduser() if settings.weights else find_weights(name)
    state = read_weights(path)
    head, seeded = _head_of(state, name), torch.get_rng_state()
    blank = _create(name, options)
    torch.set_rng_state(seeded)
    try:
        net = _create(name, options, pretrained=True, pretrained_cfg_overlay={"state_dict": state, **head})
    except (RuntimeError, KeyError) as error:
        first = str(error).splitlines()[-1].strip()
        raise Refused([f"model.weights: {path} is of another architecture than {name}: {first}"]) from None
    check_loaded(net, blank, path)
    return net, head.get("num_classes") == options["num_classes"]


def _head_of(state: dict[str, Any], name: str) -> dict[str, int]:
    """How many classes the file's own classifier has: timm keeps one that fits, and leaves out any other."""
    classifier = (get_pretrained_cfg(name) or PretrainedCfg()).classifier
    weight = state.get(f"{classifier}.weight") if isinstance(classifier, str) else None
    return {} if weight is None else {"num_classes": len(weight)}


def _make_stem_small(net: nn.Module, channels: int) -> None:
    """As ResNets for CIFAR have it: a 3x3 convolution of stride 1 and no pooling."""
    first = getattr(net, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(net, "maxpool"):
        raise ValueError("given stem=small, allowed with this network: own (it has no first convolution with pooling)")
    net.conv1 = nn.Conv2d(channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()


def _renormalise(config: PretrainedCfg, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Factors from (x - mean) / std to (x - m) / s, where m and s are what the weights were trained with.

    A grey image stands for three equal channels, whose kernels timm adds up; m and s are then the means over colours.
    """
    own_mean, own_std = torch.tensor(config.mean), torch.tensor(config.std)
    if len(mean) == 1:
        own_mean, own_std = own_mean.mean(0, keepdim=True), own_std.mean(0, keepdim=True)
    return torch.tensor(std) / own_std, (torch.tensor(mean) - own_mean) / own_std
