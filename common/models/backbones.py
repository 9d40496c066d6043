"""Networks of timm, for images of any size and number of channels; they are resized on the device.

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
    """Maps images (batch, channels, height, width) of any size to logits (batch, classes)."""

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
        output: Tensor = self.net.forward_head(features, pre_logits=pre_logits)  # type: ignore[operator]
        return output

    def fitted(self, images: Tensor) -> Tensor:
        """Resize and renormalise images as the network wants them."""
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
    """Build a network of timm; ValueError or Refused where timm, the images and the settings do not fit together.

    fresh=False: the weights will come from a checkpoint, so published ones need not be there.
    """
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

    # A size that cannot work is refused here, not by the first batch. That of a checkpoint has worked.
    if fresh and size != config.input_size[1:]:
        _try_size(net, channels, size, f"{name}: null, its own {config.input_size[-1]}")

    backbone = Backbone(net, size, scale, shift)
    backbone.knows_classes, backbone.weights = knows_classes, path
    return backbone


def _size(settings: TimmSettings, shape: tuple[int, int, int], config: PretrainedCfg) -> tuple[int, int]:
    """Return the (height, width) that images are resized to."""
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
        # A network that does not know an option says its name; timm has no other way to ask.
        for option, setting in OPTIONS.items():
            if f"'{option}'" in str(error):
                value = options[option][0] if option == "img_size" else options[option]
                allowed = "null, its own" if option == "img_size" else "0"
                raise ValueError(f"given {setting}={value}, allowed with {name}: {allowed}") from None
        raise
    except (AssertionError, ValueError, ZeroDivisionError) as error:
        settings = ", ".join(f"{option}={value}" for option, value in options.items())
        raise ValueError(f"timm cannot build {name} with {settings}: {error or type(error).__name__}") from None


@torch.no_grad()
def _try_size(net: nn.Module, channels: int, size: tuple[int, int], allowed: str) -> None:
    """Refuse a size with which the network fails.

    Many networks can be built for any size, and fail only with their first image: grids too small, or odd to divide.
    """
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
    """Replace the stem by that of ResNets for CIFAR: a 3x3 convolution of stride 1 and no pooling."""
    first = getattr(net, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(net, "maxpool"):
        raise ValueError("given stem=small, allowed with this network: own (it has no first convolution with pooling)")
    net.conv1 = nn.Conv2d(channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()


# --- published weights ------------------------------------------------------------------------------------------


def _pretrained(name: str, options: dict[str, Any], config: PretrainedCfg, path: Path) -> tuple[nn.Module, bool]:
    """Return the network, and whether its classifier is kept, because it was published for as many classes.

    The file is first loaded for the classes that it knows, because timm is strict about the rest only then: for others
    it would take a deeper network's file without a word, as ResNet-34's for ResNet-18.
    """
    state, net = read_weights(path), _create(name, options)
    classes = _classes_of(state, net, config)
    loaded = _load(name, options | {"num_classes": classes}, state, path)
    if classes == options["num_classes"]:
        return loaded, True
    own, theirs = net.state_dict(), loaded.state_dict()
    fitting = {key: theirs[key] for key in own if key in theirs and theirs[key].shape == own[key].shape}
    net.load_state_dict(fitting, strict=False)
    return net, False


def _classes_of(state: Mapping[str, Tensor], net: nn.Module, config: PretrainedCfg) -> int:
    """Count the classes of the file's classifier; 0 where it has none.

    A file that names its weights in another way, which timm will translate, is taken to have as many as timm expects.
    """
    names = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    heads = [state[f"{name}.weight"] for name in names if f"{name}.weight" in state]
    if heads:
        return len(heads[0])
    return 0 if state.keys() <= net.state_dict().keys() else config.num_classes


def _load(name: str, options: Mapping[str, Any], state: dict[str, Tensor], path: Path) -> nn.Module:
    """Load by timm's own loader, which adapts the first convolution and the positions, and translates older names."""
    overlay = {"state_dict": state, "num_classes": options["num_classes"]}

    # Both start from the same random weights, so that what the file does not replace stays the same in both.
    random_state = torch.get_rng_state()
    blank = _create(name, options)
    torch.set_rng_state(random_state)
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
    """Shorten a complaint of load_state_dict to the first few names."""
    line = next((line for line in complaint.splitlines() if "key(s)" in line or "size mismatch" in line), complaint)
    keys = re.findall(r'"([^"]+)"', line)
    if "key(s)" not in line or not keys:
        return line.strip()
    return f"it has {'no' if 'Missing' in line else 'also'} {_few(keys)}"


def _few(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _check_replaced(loaded: nn.Module, blank: nn.Module, name: str, path: Path) -> None:
    """Refuse weights that leave a random matrix as it was: timm does not load every network strictly."""
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
    """Return the factors from (x - mean) / std to (x - m) / s, where m and s are what the weights were trained with.

    A grey image stands for three equal channels, whose kernels timm adds up; m and s are then the means over colours.
    """
    if len(mean) not in {1, 3}:
        raise ValueError(f"given images of {len(mean)} channels, allowed with pretrained=true: 1 or 3")
    own_mean, own_std = torch.tensor(config.mean), torch.tensor(config.std)
    if len(mean) == 1:
        own_mean, own_std = own_mean.mean(0, keepdim=True), own_std.mean(0, keepdim=True)
    return torch.tensor(std) / own_std, (torch.tensor(mean) - own_mean) / own_std
