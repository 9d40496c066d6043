"""Every entry has one class here, made of shared groups: each setting with its type, default, limits and meaning.

Nothing here imports torch, so `jobs` can resolve and check ten thousand runs on a login node. field.py says what a
setting is, and common/cli/compose.py makes one of these objects from a command line. Named values
(`recipe=cnn_cifar`) are YAML files in common/presets/.
"""

import hashlib
import json
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from common.settings.distillation import CSTSettings, KDSettings, TeacherSettings
from common.settings.field import Group, identity, setting
from common.settings.models import (
    CNN_BACKBONES,
    OWN,
    OWN_CNNS,
    OWN_VITS,
    VIT_BACKBONES,
    AdaptiveCNNSettings,
    AnyModel,
    CNNModel,
    StudentModel,
    ViTModel,
    ViTSettings,
)
from common.settings.shift import ShiftSettings, SubjectSettings


class DataSettings(Group):
    """These settings choose the images and split them."""

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
    validation: Literal["split", "published"] = setting(
        "split", "published: the validation images that the publisher set apart, where there are some", added_as="split"
    )
    digest: str | None = setting(
        None,
        "fingerprint of a data set of your own; filled in from its manifest, so that other images make another run",
    )


# --- how it is trained ------------------------------------------------------------------------------------------


class AugmentSettings(Group):
    """Each draw is made per image, in this order: crop, flip, affine, jitter, policy, cutout, erasing, mixing."""

    crop_padding: int = setting(0, "pad by this many pixels and crop back at a random place", ge=0)
    crop_border: Literal["zeros", "reflect"] = setting(
        "zeros", "what the padding holds: zeros, or the image as mirrored in its border", added_as="zeros"
    )
    flip: float = setting(0.0, "probability of a left-right flip", ge=0, le=1)
    flip_alternates: bool = setting(
        False,
        "draw the flip of each image once, for the first epoch, and turn it over in every later one",
        added_as=False,
    )
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
    """The recipe says how the network is trained."""

    epochs: int = setting(30, "passes over the training set", ge=1)
    batch_size: int = setting(128, "images per optimizer step, over all processes", ge=1)
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = setting(
        "sgd", "sgd is with Nesterov momentum; muon leaves all but inner kernels and matrices to adamw"
    )
    lr: float = setting(0.1, "peak learning rate", gt=0)
    bias_lr: float = setting(
        1.0,
        "learning rate of biases and norms (and of all that muon leaves to adamw) as a multiple of lr; their weight "
        "decay per step stays",
        added_as=1.0,
        gt=0,
    )
    momentum: float = setting(0.9, "momentum of sgd and muon", ge=0, lt=1)
    weight_decay: float = setting(5e-4, "weight decay (coupled for sgd and adam, decoupled for adamw and muon)", ge=0)
    decay_all: bool = setting(True, "decay biases and norm parameters too")
    schedule: Literal["cosine", "linear", "step", "constant"] = setting(
        "cosine", "course of the learning rate after warm-up"
    )
    warmup: float = setting(0.0, "share of the epochs spent in linear warm-up", ge=0, lt=1)
    final_lr: float = setting(0.0, "share of the peak where the cosine or the line ends", ge=0, le=1)
    step_epochs: float = setting(30.0, "epochs between two drops of the step schedule", gt=0)
    step_factor: float = setting(0.1, "factor of each drop of the step schedule", gt=0, lt=1)
    label_smoothing: float = setting(0.1, "share of each label spread over all classes", ge=0, lt=1)
    clip_norm: float | None = setting(1.0, "largest norm of the gradient; null does not clip", gt=0)
    accumulate: int = setting(1, "split each batch into this many parts, to need less memory", ge=1)
    checkpointing: bool = setting(
        False,
        "compute activations again in the backward pass: less memory, a third more time",
        added_as=False,  # part of the identity, because batch norms then see each batch twice
    )
    precision: Literal["fp32", "bf16", "fp16"] = setting("fp32", "arithmetic of the forward pass; fp16 scales the loss")
    ema: float = setting(
        0.0, "decay of an exponential average of the weights, which is then what is evaluated; 0 is off", ge=0, lt=1
    )
    swa: float = setting(
        0.0, "final share of the epochs whose weights are averaged; kept if better on validation", ge=0, lt=1
    )
    select: Literal["accuracy", "auc", "f1_score", "loss"] = setting(
        "accuracy", "the weights kept are those that do best in this on validation", added_as="accuracy"
    )
    patience: int | None = setting(None, "stop after this many epochs without a better validation score", ge=1)

    @model_validator(mode="after")
    def parts_fit_together(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate={self.accumulate} parts cannot be made of batch_size={self.batch_size} images"
            )
        return self


class ComputeSettings(Group):
    """These settings say how a run is computed. None of them is part of the run's identity."""

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
    """These settings say what is shown, and written beside the run's own files. None is part of the run's identity."""

    progress: Literal["auto", "bar", "lines", "off"] = setting(
        "auto", "progress bars on a terminal, a line per epoch elsewhere", identity=False
    )
    tensorboard: bool = setting(False, "also write TensorBoard events (extra: tensorboard)", identity=False)
    wandb: bool = setting(
        False, "also log to Weights & Biases (extra: wandb; WANDB_MODE=offline works)", identity=False
    )


# --- entries ----------------------------------------------------------------------------------------------------


class RunSettings(Group):
    """Every run has these settings."""

    MODEL_NAMES: ClassVar[tuple[str, ...]] = ()  # the networks that it takes, besides any of timm's
    PARENT: ClassVar[str] = ""  # the word, and the group, of the finished run that it builds on
    FROM_PARENT: ClassVar[tuple[str, ...]] = ()  # settings that it takes from that run

    entry: str = setting(..., "the entry that these settings are for")
    seed: int = setting(0, "seed of initial weights, order and augmentation", ge=0, le=2**32 - 1)
    data: DataSettings = DataSettings()
    model: AnyModel
    compute: ComputeSettings = ComputeSettings()
    log: LogSettings = LogSettings()


class TrainingSettings(RunSettings):
    """Every entry that trains has these settings."""

    augment: AugmentSettings = AugmentSettings()
    recipe: RecipeSettings = RecipeSettings()

    @model_validator(mode="after")
    def groups_fit_together(self) -> Self:
        if self.recipe.patience is not None and self.data.val_fraction == 0 and self.data.validation == "split":
            raise ValueError(
                f"recipe.patience={self.recipe.patience} waits for a better validation score, "
                "but data.val_fraction=0 leaves no validation set; allowed: recipe.patience=null"
            )
        return self


class TrainCNN(TrainingSettings):
    """Settings of train/train_cnn.py."""

    MODEL_NAMES: ClassVar = (*OWN_CNNS, *CNN_BACKBONES)

    entry: Literal["train_cnn"] = setting("train_cnn", "the entry that these settings are for")
    model: CNNModel = AdaptiveCNNSettings()


class TrainViT(TrainingSettings):
    """Settings of train/train_vit.py."""

    MODEL_NAMES: ClassVar = (*OWN_VITS, *VIT_BACKBONES)

    entry: Literal["train_vit"] = setting("train_vit", "the entry that these settings are for")
    model: ViTModel = ViTSettings()

    @model_validator(mode="after")
    def every_head_learns(self) -> Self:
        if isinstance(self.model, ViTSettings) and self.model.dist_token and self.model.inference != "avg":
            unread = {"cls": "DIST", "dist": "CLS"}[self.model.inference]
            raise ValueError(
                f"model.inference={self.model.inference} leaves the {unread} token untrained; allowed without "
                "a teacher: model.inference=avg, or model.dist_token=false"
            )
        return self


class DistillKD(TrainingSettings):
    """Settings of train/distill_kd.py."""

    MODEL_NAMES: ClassVar = (*OWN, *CNN_BACKBONES, *VIT_BACKBONES)
    PARENT: ClassVar = "teacher"

    entry: Literal["distill_kd"] = setting("distill_kd", "the entry that these settings are for")
    model: StudentModel = ViTSettings(dist_token=True, inference="avg")
    teacher: TeacherSettings = TeacherSettings()
    distill: KDSettings = KDSettings()


class DistillCST(TrainingSettings):
    """Settings of train/distill_cst.py."""

    MODEL_NAMES: ClassVar = ("vit",)
    PARENT: ClassVar = "teacher"

    entry: Literal["distill_cst"] = setting("distill_cst", "the entry that these settings are for")
    model: ViTSettings = ViTSettings()
    teacher: TeacherSettings = TeacherSettings()
    distill: CSTSettings = CSTSettings()

    @property
    def student_layers(self) -> list[int]:
        """Return the blocks that are taught, counted from the start."""
        depth = self.model.depth
        layers = self.distill.student_layers or [depth // 2, depth - 1]
        return [layer % depth for layer in layers]

    @model_validator(mode="after")
    def layers_exist(self) -> Self:
        depth = self.model.depth
        wrong = [layer for layer in self.distill.student_layers or [] if not -depth <= layer < depth]
        if wrong:
            allowed = f"0 to {depth - 1}, or -{depth} to -1 from the end"
            raise ValueError(f"distill.student_layers: given {', '.join(map(str, wrong))}, allowed: {allowed}")
        return self


class EvalShift(RunSettings):
    """Settings of eval/eval_shift.py."""

    PARENT: ClassVar = "run"
    FROM_PARENT: ClassVar = ("seed", "data", "model")

    entry: Literal["eval_shift"] = setting("eval_shift", "the entry that these settings are for")
    model: AnyModel = AdaptiveCNNSettings()
    run: SubjectSettings = SubjectSettings()
    shift: ShiftSettings = ShiftSettings()


def run_name(settings: RunSettings) -> str:
    """Return `<data>-<model>-s<seed>-<hash>`, where the hash is that of the settings that can change the result."""
    canonical = json.dumps(identity(settings), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
    model = settings.model.name.removeprefix("timm/")
    return f"{settings.data.name}-{model}-s{settings.seed}-{digest}"


ENTRIES: dict[str, type[RunSettings]] = {
    "train_cnn": TrainCNN,
    "train_vit": TrainViT,
    "distill_kd": DistillKD,
    "distill_cst": DistillCST,
    "eval_shift": EvalShift,
}
TRAININGS = {name: entry for name, entry in ENTRIES.items() if issubclass(entry, TrainingSettings)}
