"""The settings of every network: `model` is one of these groups, and its name says which.

The short names of timm's networks are those that the model presets name: another one is another YAML file.
"""

import difflib
import functools
import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Tag, model_validator

from common.settings.field import Group, setting
from common.settings.yaml12 import preset_names, read_preset

SHOWN = 5  # nearest names
DEFINED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)  # where timm's sources define an architecture
# What transformers call themselves in timm; where a name says nothing, the network is taken for a convolutional one.
TRANSFORMER = re.compile(r"vit|former|^(aimv|beit|cait|coat|deit|eva|hiera|nest|pit|pvt|swin|tnt|twins|volo|xcit)")


class AdaptiveCNNSettings(Group):
    """The suite's residual network."""

    name: Literal["adaptive_cnn"] = setting("adaptive_cnn", "residual network with layers derived from the data set")
    dropout: float = setting(0.3, "dropout between the two classifier layers", ge=0, lt=1)


class FastCNNSettings(Group):
    """The suite's network for short trainings (arXiv:2404.00498)."""

    name: Literal["fast_cnn"] = setting("fast_cnn", "plain network whose first layer whitens the training images")
    channels: int = setting(64, "channels of its first group of convolutions; the others have four times as many", ge=1)
    convolutions: int = setting(2, "convolutions in each of its three groups", ge=1, le=8)
    residual: bool = setting(False, "a shortcut around all but the first convolution of a group")

    @model_validator(mode="after")
    def parts_fit_together(self) -> Self:
        if self.residual and self.convolutions == 1:
            raise ValueError("residual=true has nothing to go around with convolutions=1; allowed: 2 or more")
        return self


class ViTSettings(Group):
    """The suite's vision transformer; with a DIST token it is a DeiT."""

    name: Literal["vit"] = setting("vit", "vision transformer with a small convolutional stem")
    patch: int | None = setting(
        None, "side of a patch in pixels; null: the smallest that leaves 64 patches or less", ge=1
    )
    width: int = setting(192, "numbers per token", ge=1)
    depth: int = setting(12, "number of blocks", ge=1)
    heads: int = setting(3, "attention heads per block, of width/heads numbers each", ge=1)
    mlp_ratio: float = setting(2.0, "hidden width of a block's MLP, in widths", gt=0)
    stem_width: int = setting(192, "width of the two 3x3 convolutions before the patches; 0 leaves them out", ge=0)
    dist_token: bool = setting(False, "a second, distillation token with a head of its own")
    inference: Literal["cls", "dist", "avg"] = setting("cls", "the head that answers; avg is the mean of both")
    drop_path: float = setting(0.1, "probability of skipping the last block, rising linearly from 0", ge=0, lt=1)
    cls_dropout: float = setting(0.1, "probability of reading the mean patch in place of the CLS token", ge=0, le=1)

    @model_validator(mode="after")
    def parts_fit_together(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width={self.width} cannot be shared by heads={self.heads}; allowed: heads that divide it"
            )
        if self.inference != "cls" and not self.dist_token:
            raise ValueError(f"inference={self.inference} asks the DIST token; allowed: model.dist_token=true, or cls")
        return self


class TimmSettings(Group):
    """A network of timm, from scratch or with published weights."""

    name: str
    pretrained: bool = setting(False, "start from published weights: in the hub's cache, or model.weights")
    weights: str | None = setting(None, "file of published weights (.safetensors, .pth, .bin)", identity=False)
    weights_digest: str | None = setting(None, "fingerprint of that file, filled in")
    input_size: int | None = setting(
        None, "side that images are resized to, on the device; null is what the network was made for", ge=8, le=1024
    )
    stem: Literal["own", "small"] = setting(
        "own", "small: a 3x3 convolution and no pooling, for images of about 32 pixels at their own size; resnets only"
    )
    dropout: float = setting(0.0, "dropout before the classifier", ge=0, lt=1)
    drop_path: float = setting(0.0, "probability of skipping a block, where the network can", ge=0, lt=1)

    @model_validator(mode="after")
    def parts_fit_together(self) -> Self:
        if self.stem == "small" and "resnet" not in self.name:
            raise ValueError(f"stem=small is for resnets; allowed with {self.name}: stem=own")
        if self.weights is not None and not self.pretrained:
            raise ValueError(f"weights={self.weights} is not loaded; allowed with pretrained=false: weights=null")
        if self.name.startswith("timm/"):
            refuse_unknown(self.name)
        return self


# The suite's own networks. Another one is a class above and joins its kind here; all that must know it reads it here.
OwnCNN = (
    Annotated[AdaptiveCNNSettings, Tag("adaptive_cnn")]  # the default of its kind
    | Annotated[FastCNNSettings, Tag("fast_cnn")]
)
OwnViT = Annotated[ViTSettings, Tag("vit")]
OWN_CNNS: dict[str, type[Group]] = {tag.tag: settings for settings, tag in map(get_args, get_args(OwnCNN))}
OWN_VITS: dict[str, type[Group]] = {"vit": ViTSettings}
OWN = OWN_CNNS | OWN_VITS
AnyModel = OwnCNN | OwnViT | TimmSettings


def _one_of(*names: str) -> dict[str, Any]:
    """Return the limits of a name that is one of these, or any that timm has."""
    names = tuple(sorted(names))
    escaped = "|".join(name.replace(".", r"\.") for name in names)
    return {"pattern": rf"^({escaped}|timm/[A-Za-z0-9_.-]+)$", "form": (*names, "timm/NAME")}


def _backbones() -> list[str]:
    """List the networks of timm that presets name in short; timm/NAME, which every entry takes, needs no list."""
    names = dict.fromkeys(str(read_preset("model", preset).get("name")) for preset in preset_names("model"))
    return [name for name in names if name not in OWN and not name.startswith("timm/")]


CNN_BACKBONES = tuple(name for name in _backbones() if not TRANSFORMER.search(name))
VIT_BACKBONES = tuple(name for name in _backbones() if TRANSFORMER.search(name))


class CNNBackboneSettings(TimmSettings):
    """A convolutional network of timm, from scratch or with published weights."""

    name: str = setting("resnet18", "network; timm/NAME is any that timm has", **_one_of(*OWN_CNNS, *CNN_BACKBONES))


class ViTBackboneSettings(TimmSettings):
    """A transformer of timm, from scratch or with published weights."""

    name: str = setting(
        "vit_tiny_patch16_224", "network; timm/NAME is any that timm has", **_one_of(*OWN_VITS, *VIT_BACKBONES)
    )


def _told_apart_by(default: str, own: dict[str, type[Group]]) -> Discriminator:
    """Choose a group by the name: one of the suite's own networks, or one of timm's. No name means the default."""

    def kind(model: Any) -> str:
        name = model.get("name", default) if isinstance(model, dict) else getattr(model, "name", default)
        return name if isinstance(name, str) and name in own else "timm"

    return Discriminator(kind)


CNNModel = Annotated[OwnCNN | Annotated[CNNBackboneSettings, Tag("timm")], _told_apart_by("adaptive_cnn", OWN_CNNS)]
ViTModel = Annotated[OwnViT | Annotated[ViTBackboneSettings, Tag("timm")], _told_apart_by("vit", OWN_VITS)]


class StudentBackboneSettings(TimmSettings):
    """A network of timm, from scratch or with published weights."""

    name: str = setting(
        "resnet18",
        "network; timm/NAME is any that timm has",
        **_one_of(*OWN, *CNN_BACKBONES, *VIT_BACKBONES),
    )


StudentModel = Annotated[OwnCNN | OwnViT | Annotated[StudentBackboneSettings, Tag("timm")], _told_apart_by("vit", OWN)]


# --- the names that timm knows ----------------------------------------------------------------------------------


@functools.cache
def timm_names() -> frozenset[str]:
    """Return all architectures, without the tags of their weights; none where timm is not installed."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    sources = (Path(spec.origin).parent / "models").glob("*.py")
    return frozenset(name for path in sources for name in DEFINED.findall(path.read_text(encoding="utf-8")))


def refuse_unknown(name: str) -> None:
    """Raise ValueError, with the nearest names, where timm has no NAME of timm/NAME or timm/NAME.TAG."""
    architecture = name.removeprefix("timm/").partition(".")[0]
    known = timm_names()
    if not known or architecture in known:
        return

    # First what begins like it, the shortest before all: mostly a name that was left unfinished.
    longer = [other for other in known if architecture and other.startswith(architecture)]
    longer.sort(key=lambda other: (len(other), other))
    close = difflib.get_close_matches(architecture, sorted(known), n=SHOWN, cutoff=0.5)
    nearest = list(dict.fromkeys([*longer, *close]))[:SHOWN]
    near = f", nearest: {', '.join(f'timm/{other}' for other in nearest)}" if nearest else ""
    raise ValueError(f"given {name}, allowed: timm/NAME, one of the {len(known):,} names of timm{near}")
