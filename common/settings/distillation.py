"""The settings of the entries that distil say who teaches a student, and what."""

import math
from typing import Literal, Self

from pydantic import field_validator, model_validator

from common.settings.field import Group, setting
from common.settings.models import refuse_unknown

# (network, data) -> the test accuracy that it is published to reach by itself. A teacher is measured by it, and the
# report's claims read it from here (`accuracy: reference` in aggregate/tables/claims.yaml).
REFERENCE_ACCURACY = {
    ("adaptive_cnn", "mnist"): 0.9975,
    ("adaptive_cnn", "cifar10"): 0.9555,
    ("vit", "mnist"): 0.9964,
    ("vit", "cifar10"): 0.8602,
}


class TeacherSettings(Group):
    """The teacher is a finished run (teacher=RUN), or a network of timm with published weights (teacher=timm/NAME)."""

    run: str | None = setting(None, "finished run that teaches: its folder, name or hash", identity=False)
    digest: str | None = setting(None, "fingerprint of that run's weights, filled in")
    name: str | None = setting(
        None, "network of timm with published weights", pattern=r"^timm/[A-Za-z0-9_.-]+$", form="timm/NAME"
    )
    weights: str | None = setting(None, "file of its weights; null is the hub's cache", identity=False)
    weights_digest: str | None = setting(None, "fingerprint of that file, filled in")
    input_size: int | None = setting(None, "side that its images are resized to; null is its own", ge=8, le=1024)

    @field_validator("name")
    @classmethod
    def timm_has_it(cls, name: str | None) -> str | None:
        if name is not None:
            refuse_unknown(name)
        return name


class GateSettings(Group):
    gate: Literal["warn", "stop", "off"] = setting(
        "warn", "what to do if the teacher is worse than the student alone, or than published", identity=False
    )
    margin: float = setting(
        0.01, "how far below its published accuracy a teacher may be before the gate shuts", identity=False, ge=0
    )


class KDSettings(GateSettings):
    """The student learns from the teacher's answers; if it has a DIST token, that token learns them."""

    labels: Literal["soft", "hard"] = setting("soft", "the teacher's probabilities, or its decision")
    temperature: float = setting(4.0, "softens both networks' probabilities", gt=0)
    alpha: float = setting(0.7, "share of the teacher in the loss, at the end of its schedule", ge=0, le=1)
    alpha_start: float = setting(0.0, "share at the beginning, unless the schedule is constant", ge=0, le=1)
    schedule: Literal["constant", "linear", "cosine"] = setting("constant", "course of the share over the epochs")


def share_of_teacher(distill: KDSettings, done: float) -> float:
    """Return the teacher's share in the loss (alpha) when a share `done` of the training is over."""
    way = {"constant": 1.0, "linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2}[distill.schedule]
    return distill.alpha_start + (distill.alpha - distill.alpha_start) * way


class CSTSettings(GateSettings):
    """The student learns the teacher's tokens, and how like each other they are."""

    token_weight: float = setting(1.0, "weight of the distance between tokens", ge=0)
    token_from: float = setting(0.0, "share of the epochs before it counts", ge=0, lt=1)
    relation_weight: float = setting(0.1, "weight of the divergence between relations", ge=0)
    relation_from: float = setting(0.1, "share of the epochs before it counts", ge=0, lt=1)
    relation: Literal["token", "sample", "random"] = setting(
        "token", "what is compared: the tokens of an image, the images of a batch, or tokens drawn from the batch"
    )
    relation_temperature: float = setting(0.1, "sharpens the likenesses", gt=0)
    student_layers: list[int] | None = setting(None, "blocks of the student that are taught; null: middle and last")
    teacher_layer: int = setting(-1, "block of the teacher that teaches")
    hidden: int = setting(512, "width inside the projector that the student gets for the distillation", ge=1)

    @model_validator(mode="after")
    def something_is_taught(self) -> Self:
        if not self.token_weight and not self.relation_weight:
            raise ValueError("token_weight=0 and relation_weight=0 leave nothing to learn; allowed: one above 0")
        if self.student_layers is not None and not self.student_layers:
            raise ValueError("student_layers=[] leaves nothing to learn; allowed: null, or blocks such as [6, 11]")
        return self
