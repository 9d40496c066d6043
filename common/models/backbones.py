"""Networks of timm behind the suite's inputs: resized to the network's size on the device, and of any channels.

Images come normalised by the statistics of the data set. Published weights want their own: a pretrained network first
changes the one into the other, with factors that its checkpoints keep.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.models import PretrainedCfg
from torch import Tensor, nn

from common.failures import Refused, classify
from common.models.weights import config_of, find_weights, read_weights
from common.settings.models import TimmSettings

MISFITS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
OPTIONS = {"drop_rate": "dropout", "drop_path_rate": "drop_path", "img_size": "input_size"}  # timm's word -> ours
SHOWN = 3  # weights by name, where a file has others


class Backbone(nn.Module):
    """Images (batch, channels, height, width) of any size to logits (batch, classes)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, size: tuple[int, int], scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.net, self.size = net, size
        self.weights: Path | None = None  # the file that it started from
        self.knows_classes = False  # whether its classifier is a published one too
        self._checkpointing = False
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
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        try:
            self.net.set_grad_checkpointing(wanted)  # type: ignore[operator]
        except (AssertionError, AttributeError):
            if wanted:
                raise ValueError(
                    "recipe.checkpointing=true is not possible with this network; allowed: false"
                ) from None
        self._checkpointing = wanted


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
    config = config_of(settings.name)
    size = _size(settings, shape, config)
    options = _options(settings, config, size) | {"num_classes": classes, "in_chans": channels}
    if settings.pretrained:
        scale, shift = _renormalise(config, mean, std)
    else:
        scale, shift = torch.ones(channels), torch.zeros(channels)
    if settings.pretrained and fresh:
        path = Path(settings.weights).expanduser() if settings.weights else find_weights(name)
        net, knows_classes = _pretrained(name, options, config, path)
    else:
        net, knows_classes, path = _create(name, options), False, None
    if settings.stem == "small":
        _make_stem_small(net, channels)
    if fresh and size != config.input_size[1:]:
        _try_size(net, channels, size, f"{name}: null, its own {config.input_size[-1]}")
    backbone = Backbone(net, size, scale, shift)
    backbone.knows_classes, backbone.weights = knows_classes, path
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


def _create(name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        for option, ours in OPTIONS.items():
            if f"'{option}'" in str(error):
                given = options[option][0] if option == "img_size" else options[option]
                allowed = "null, its own" if option == "img_size" else "0"
                raise ValueError(f"given {ours}={given}, allowed with {name}: {allowed}") from None
        raise
    except (AssertionError, ValueError, ZeroDivisionError) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ValueError(f"timm cannot build {name} with {given}: {error or type(error).__name__}") from None


@torch.no_grad()
def _try_size(net: nn.Module, channels: int, size: tuple[int, int], allowed: str) -> None:
    """Many networks are built for any size and fail with their first image: grids too small, or odd to divide."""
    blank = torch.zeros(1, channels, *size, device=next(net.parameters()).device)
    training = net.training
    try:
        net.eval()(blank)
    except MISFITS as error:
        if classify(error) != "bug":
            raise
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        raise ValueError(f"given input_size={size[0]}, allowed with {allowed}, or another{reason}") from None
    net.train(training)


def _make_stem_small(net: nn.Module, channels: int) -> None:
    """As ResNets for CIFAR have it: a 3x3 convolution of stride 1 and no pooling."""
    first = getattr(net, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(net, "maxpool"):
        raise ValueError("given stem=small, allowed with this network: own (it has no first convolution with pooling)")
    net.conv1 = nn.Conv2d(channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()


# --- published weights ------------------------------------------------------------------------------------------


def _pretrained(name: str, options: dict[str, Any], config: PretrainedCfg, path: Path) -> tuple[nn.Module, bool]:
    """The network, and whether its classifier was published for as many classes and so is kept.

    The file is first loaded for the classes that it knows, because timm is strict about the rest only then: for others
    it would take a deeper network's file without a word, as ResNet-34's for ResNet-18.
    """
    state, net = read_weights(path), _create(name, options)
    theirs = _classes_of(state, net, config)
    loaded = _load(name, options | {"num_classes": theirs}, state, path)
    if theirs == options["num_classes"]:
        return loaded, True
    own, found = net.state_dict(), loaded.state_dict()
    net.load_state_dict({key: found[key] for key in own if key in found and found[key].shape == own[key].shape}, False)
    return net, False


def _classes_of(state: Mapping[str, Tensor], net: nn.Module, config: PretrainedCfg) -> int:
    """How many classes the file's classifier knows; 0 where it has none.

    A file that names its weights in another way, which timm will translate, is taken to know what timm expects.
    """
    names = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    heads = [state[f"{name}.weight"] for name in names if f"{name}.weight" in state]
    if heads:
        return len(heads[0])
    return 0 if state.keys() <= net.state_dict().keys() else config.num_classes


def _load(name: str, options: Mapping[str, Any], state: dict[str, Tensor], path: Path) -> nn.Module:
    """By timm's own loader, which adapts the first convolution and positions, and translates older names."""
    overlay = {"state_dict": state, "num_classes": options["num_classes"]}
    random_state = torch.get_rng_state()
    blank = _create(name, options)
    torch.set_rng_state(random_state)  # what the file does not replace is then the same in both
    try:
        net: nn.Module = timm.create_model(name, **options, pretrained=True, pretrained_cfg_overlay=overlay)
    except MISFITS as error:
        if classify(error) != "bug":
            raise
        raise _another_architecture(path, name, _difference(str(error) or type(error).__name__)) from None
    _check_replaced(net, blank, name, path)
    cast(Any, net).pretrained_cfg.pop("state_dict", None)  # a second copy of all weights
    return net


def _difference(complaint: str) -> str:
    """Of what load_state_dict complains about, the first few names."""
    line = next((line for line in complaint.splitlines() if "key(s)" in line or "size mismatch" in line), complaint)
    keys = re.findall(r'"([^"]+)"', line)
    if "key(s)" not in line or not keys:
        return line.strip()
    return f"it has {'no' if 'Missing' in line else 'also'} {_few(keys)}"


def _few(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _check_replaced(loaded: nn.Module, blank: nn.Module, name: str, path: Path) -> None:
    """A few networks are never loaded strictly; but every matrix that started at random must have been replaced."""
    before = dict(blank.named_parameters())
    untouched = [
        key
        for key, weight in loaded.named_parameters()
        if weight.ndim > 1 and key in before and weight.equal(before[key]) and weight.min() != weight.max()
    ]
    if untouched:
        raise _another_architecture(path, name, f"it has no {_few(untouched)}")


def _another_architecture(path: Path, name: str, difference: str) -> Refused:
    return Refused([f"model.weights: {path} is of another architecture than {name}: {difference}"])


def _renormalise(config: PretrainedCfg, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Factors from (x - mean) / std to (x - m) / s, where m and s are what the weights were trained with.

    A grey image stands for three equal channels, whose kernels timm adds up; m and s are then the means over colours.
    """
    if len(mean) not in {1, 3}:
        raise ValueError(f"given images of {len(mean)} channels, allowed with pretrained=true: 1 or 3")
    own_mean, own_std = torch.tensor(config.mean), torch.tensor(config.std)
    if len(mean) == 1:
        own_mean, own_std = own_mean.mean(0, keepdim=True), own_std.mean(0, keepdim=True)
    return torch.tensor(std) / own_std, (torch.tensor(mean) - own_mean) / own_std
