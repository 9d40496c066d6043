"""Every setting of every entry: its type, its default, what it may be, and what it means.

One class per entry, made of shared groups. Nothing here imports torch, so `jobs` can resolve and check
ten thousand runs on a login node. How a command line becomes one of these objects is in compose.py;
named values (`recipe=cnn_cifar`) are YAML files in presets/.

Two kinds of settings live here. Those that can change the result make up a run's identity; those marked
`identity=False` only say how the same result is computed or watched (device, threads, logging).
"""

import functools
import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

NEW = object()  # a setting that has always been there


def setting(
    default: Any, meaning: str, *, identity: bool = True, added_as: Any = NEW, form: str = "", **limits: Any
) -> Any:
    """A field with its one-line meaning, as `--help` prints it.

    form: what its pattern asks for, in words.
    added_as: for a setting that joins a class that already has finished runs. It is the value that means
    "as before": runs with exactly this value keep the identity they had before the setting existed.
    """
    marks: dict[str, Any] = {"identity": identity, "form": form} | ({} if added_as is NEW else {"added_as": added_as})
    return Field(default, description=meaning, json_schema_extra=marks, **limits)


class Group(BaseModel):
    """A frozen set of settings that refuses names it does not know and converts nothing: true is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class DataSettings(Group):
    """Which images, and how they are split."""

    name: str = setting(
        "digits",
        "packed data set to train on",
        pattern=r"^[a-z0-9][a-z0-9_.-]*$",
        form="lower-case letters, digits, _ . -",
    )
    val_fraction: float = setting(
        0.1,
        "share of the training set held out for validation; 0 trains on all of it and takes the last epoch",
        ge=0,
        lt=1,
    )
    split_seed: int = setting(0, "seed of the train/validation split, the same for every run seed", ge=0, le=2**32 - 1)
    digest: str | None = setting(
        None,
        "fingerprint of a data set of your own; filled in from its manifest, so that other images make another run",
    )


class AdaptiveCNNSettings(Group):
    """The network."""

    name: Literal["adaptive_cnn"] = setting("adaptive_cnn", "residual network with layers derived from the data set")
    dropout: float = setting(0.3, "dropout between the two classifier layers", ge=0, lt=1)


class AugmentSettings(Group):
    """Each draw is made per image. Order: crop, flip, affine, jitter, policy, cutout, erasing, then mixing."""

    crop_padding: int = setting(0, "pad with zeros by this many pixels and crop back at a random place", ge=0)
    flip: float = setting(0.0, "probability of a left-right flip", ge=0, le=1)
    flip_vertical: float = setting(0.0, "probability of a top-bottom flip", ge=0, le=1)
    rotation_deg: float = setting(0.0, "rotate by an angle drawn from +- this many degrees", ge=0, le=180)
    translation: float = setting(0.0, "shift by a share of the side drawn from +- this", ge=0, le=1)
    brightness: float = setting(0.0, "brightness factor drawn from 1 +- this", ge=0, le=1)
    contrast: float = setting(0.0, "contrast factor drawn from 1 +- this", ge=0, le=1)
    saturation: float = setting(0.0, "saturation factor drawn from 1 +- this", ge=0, le=1)
    hue: float = setting(0.0, "hue shift drawn from +- this share of the colour circle", ge=0, le=0.5)
    policy: Literal["none", "autoaugment", "randaugment", "trivialaugment"] = setting(
        "none", "automatic policy; autoaugment is the CIFAR-10 policy"
    )
    randaugment_ops: int = setting(2, "operations per image of randaugment", ge=1, le=8)
    randaugment_magnitude: int = setting(9, "strength of randaugment, out of 31 steps", ge=0, le=30)
    cutout: int = setting(0, "side in pixels of a square set to the mean colour, centred anywhere; 0 is off", ge=0)
    erasing: float = setting(0.0, "probability of random erasing (a rectangle of 2-33 % of the area)", ge=0, le=1)
    mixup: float = setting(0.0, "alpha of mixup's beta distribution; 0 is off", ge=0)
    cutmix: float = setting(
        0.0, "alpha of cutmix's beta distribution; 0 is off (with mixup: one of them per image)", ge=0
    )
    mix_probability: float = setting(1.0, "probability that an image is mixed at all", ge=0, le=1)


class RecipeSettings(Group):
    """How it is trained."""

    epochs: int = setting(30, "passes over the training set", ge=1)
    batch_size: int = setting(128, "images per optimizer step, over all processes", ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = setting("sgd", "sgd is with Nesterov momentum")
    lr: float = setting(0.1, "peak learning rate", gt=0)
    momentum: float = setting(0.9, "momentum of sgd", ge=0, lt=1)
    weight_decay: float = setting(5e-4, "weight decay (coupled for sgd and adam, decoupled for adamw)", ge=0)
    decay_all: bool = setting(True, "decay biases and norm parameters too")
    schedule: Literal["cosine", "step", "constant"] = setting("cosine", "course of the learning rate after warm-up")
    warmup: float = setting(0.0, "share of the epochs spent in linear warm-up", ge=0, lt=1)
    final_lr: float = setting(0.0, "share of the peak where the cosine ends", ge=0, le=1)
    step_epochs: float = setting(30.0, "epochs between two drops of the step schedule", gt=0)
    step_factor: float = setting(0.1, "factor of each drop of the step schedule", gt=0, lt=1)
    label_smoothing: float = setting(0.1, "share of each label spread over all classes", ge=0, lt=1)
    clip_norm: float | None = setting(1.0, "largest norm of the gradient; null does not clip", gt=0)
    accumulate: int = setting(1, "split each batch into this many parts, to need less memory", ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = setting("fp32", "arithmetic of the forward pass; fp16 scales the loss")
    ema: float = setting(
        0.0, "decay of an exponential average of the weights, which is then what is evaluated; 0 is off", ge=0, lt=1
    )
    swa: float = setting(
        0.0, "final share of the epochs whose weights are averaged; kept if better on validation", ge=0, lt=1
    )
    patience: int | None = setting(None, "stop after this many epochs without a better validation accuracy", ge=1)

    @model_validator(mode="after")
    def parts_fit_together(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate={self.accumulate} parts cannot be made of batch_size={self.batch_size} images"
            )
        return self


class ComputeSettings(Group):
    """How a run is computed. None of it is part of the run's identity."""

    device: str = setting(
        "auto",
        "where to compute; auto is a GPU if there is one",
        identity=False,
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
        form="auto | cpu | cuda | cuda:N",
    )
    threads: int | None = setting(None, "CPU threads of torch; null leaves torch's own choice", identity=False, ge=1)
    deterministic: bool = setting(
        False, "bit-identical repeats on a GPU too, slower (a CPU always repeats)", identity=False
    )
    channels_last: bool = setting(True, "memory layout that convolutions prefer", identity=False)
    compile: bool = setting(
        False, "torch.compile the model; where that fails the run says why and goes on", identity=False
    )
    data_budget_gb: float | None = setting(
        None,
        "largest packed set kept on the device, larger ones stream; null is half of the free memory",
        identity=False,
        ge=0,
    )
    save_every: int = setting(1, "epochs between two writes of the resume checkpoint", identity=False, ge=1)
    save_minutes: float = setting(
        10.0, "write it inside a long epoch too, after this many minutes", identity=False, gt=0
    )


class LogSettings(Group):
    """What is shown and written beside the run folder's own files. Not part of the run's identity."""

    progress: Literal["auto", "bar", "lines", "off"] = setting(
        "auto", "progress bars on a terminal, a line per epoch elsewhere", identity=False
    )
    tensorboard: bool = setting(False, "also write TensorBoard events (extra: tensorboard)", identity=False)
    wandb: bool = setting(
        False, "also log to Weights & Biases (extra: wandb; WANDB_MODE=offline works)", identity=False
    )


class RunSettings(Group):
    """What every training entry has."""

    entry: str = setting(..., "the entry that these settings are for")
    seed: int = setting(0, "seed of initial weights, order and augmentation", ge=0, le=2**32 - 1)
    data: DataSettings = DataSettings()
    augment: AugmentSettings = AugmentSettings()
    recipe: RecipeSettings = RecipeSettings()
    model: AdaptiveCNNSettings = AdaptiveCNNSettings()
    compute: ComputeSettings = ComputeSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def groups_fit_together(self) -> Self:
        if self.recipe.patience is not None and self.data.val_fraction == 0:
            raise ValueError(
                f"recipe.patience={self.recipe.patience} waits for a better validation accuracy, "
                "but data.val_fraction=0 leaves no validation set; allowed: recipe.patience=null"
            )
        return self


class TrainCNN(RunSettings):
    """Settings of train/train_cnn.py."""

    entry: Literal["train_cnn"] = setting("train_cnn", "the entry that these settings are for")


def group_of(field: FieldInfo) -> type[BaseModel] | None:
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None


@functools.cache
def every_setting(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted name -> field, groups opened."""
    settings: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        group = group_of(field)
        settings |= every_setting(group, f"{prefix}{name}.") if group else {prefix + name: field}
    return settings


def identity(settings: BaseModel) -> dict[str, Any]:
    """The settings that can change the result, as plain data."""
    kept: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if isinstance(value, BaseModel):
            value = identity(value)
            if not value:
                continue
        elif not marks.get("identity", True) or ("added_as" in marks and value == marks["added_as"]):
            continue
        kept[name] = value + 0.0 if isinstance(value, float) else value  # makes 0.0 of -0.0, which is its equal
    return kept


def run_name(settings: "RunSettings") -> str:
    """`<data>-<model>-s<seed>-<hash>`: readable first, unique by the hash of the identity."""
    canonical = json.dumps(identity(settings), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
    return f"{settings.data.name}-{settings.model.name}-s{settings.seed}-{digest}"


ENTRIES: dict[str, type[RunSettings]] = {"train_cnn": TrainCNN}
