"""Who teaches a student: a frozen network, seen through its answers or its tokens; and whether it should.

The teacher of a run is that run's chosen weights; a network of timm brings published ones. Both get the student's very
images, mixed ones too: a run was trained on the same set with the same figures, and published weights sit behind a
change of normalisation and size of their own (common/models/backbones.py).
"""

import logging
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.compute import Compute, place
from common.config import TRAININGS, TrainingSettings
from common.data.packed import Batches
from common.failures import Refused
from common.lesson_settings import REFERENCE_ACCURACY, GateSettings, TeacherSettings
from common.loop import infer
from common.models.settings import TimmSettings
from common.models.vit import Outputs, ViT
from common.run_dir import finished_runs
from common.settings import identity
from common.trained import load_model, open_run
from common.yaml12 import read_mapping

if TYPE_CHECKING:
    from common.models.backbones import Backbone

log = logging.getLogger("stillhouse")


class Teacher:
    """Nothing in it is trained, dropped or averaged; it is no module, so no student takes it for a part of its own."""

    def __init__(self, model: nn.Module, facts: dict[str, Any]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.facts = facts
        self.knows_classes = not isinstance(model, Backbone) or "run" in facts or model.knows_classes

    @torch.no_grad()
    def answers(self, images: Tensor) -> Tensor:  # (batch, classes) logits
        logits: Tensor = self.model(images)
        return logits

    @torch.no_grad()
    def tokens(self, images: Tensor, layer: int) -> Tensor:
        """Patch tokens behind a block, behind the final norm too: (batch, dim, rows, columns)."""
        if isinstance(self.model, ViT):
            patch = self.model.patch
            outputs = cast(Outputs, self.model(images, layers=(layer,)))
            tokens = self.model.norm(outputs.tokens[layer])
            return tokens.transpose(1, 2).unflatten(2, (images.shape[2] // patch, images.shape[3] // patch))
        backbone = cast("Backbone", self.model)
        net = cast(Any, backbone.net)
        (maps,) = net.forward_intermediates(
            backbone.fitted(images), indices=[layer % len(net.blocks)], norm=True, intermediates_only=True
        )
        return cast(Tensor, maps)

    def check_tokens(self, shape: tuple[int, ...], layer: int, compute: Compute) -> int:
        """The width of its tokens; Refused where it has none, or not so many blocks."""
        blocks = getattr(
            self.model if isinstance(self.model, ViT) else cast("Backbone", self.model).net, "blocks", None
        )
        name = self.facts["model"]
        if not isinstance(blocks, Sized):
            raise Refused([f"teacher: {name} has no blocks of tokens, allowed: a vision transformer"])
        depth = len(blocks)
        if not -depth <= layer < depth:
            allowed = f"0 to {depth - 1}, or -{depth} to -1 from the end"
            raise Refused([f"distill.teacher_layer: given {layer}, allowed with this teacher: {allowed}"])
        return self.tokens(torch.zeros(1, *shape, device=compute.device), layer).shape[1]


def open_teacher(
    settings: TeacherSettings, like: Mapping[str, Any], root: Path, compute: Compute, *, answers: bool
) -> Teacher:
    """The teacher on the device. answers: whether it will be asked for classes, and not for tokens alone."""
    if settings.name is None:
        assert settings.run is not None  # the door refuses settings without a teacher
        trained = open_run(settings.run, root, "teacher")
        result = trained.result
        facts = {
            "run": trained.name,
            "digest": result["selection"]["digest"],
            "model": trained.settings.model.name,
            "val_accuracy": (result["val"] or {}).get("accuracy"),
            "test_accuracy": result["test"]["accuracy"],
        }
        return Teacher(load_model(trained, compute, "teacher"), facts)
    from common.models.backbones import build_backbone  # timm takes seconds to load, which only its networks pay

    backbone = TimmSettings(
        name=settings.name, pretrained=True, weights=settings.weights, input_size=settings.input_size
    )
    shape, classes = tuple(like["shape"]), len(like["classes"])
    random_state = torch.get_rng_state()
    try:
        model = build_backbone(backbone, shape, classes, like["mean"], like["std"])
    except ValueError as error:
        raise Refused([f"teacher: {error}"]) from None
    torch.set_rng_state(random_state)
    teacher = Teacher(place(model, compute), {"model": settings.name, "weights_digest": settings.weights_digest})
    if answers and not teacher.knows_classes:
        command = f"python train/train_cnn.py data={like['name']} model.name={settings.name} model.pretrained=true"
        raise Refused(
            [
                f"teacher: {settings.name} knows other classes than the {classes} of {like['name']}; "
                f"train it on them first and let that run teach: {command} recipe=finetune"
            ]
        )
    return teacher


# --- whether it should ------------------------------------------------------------------------------------------


def agreement(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How often the student decides as its teacher: over all images, and where the teacher is right or wrong.

    With several labels each decision counts by itself.
    """
    if labels.ndim == 2:
        mine, theirs, truth = (student > 0).ravel(), (teacher > 0).ravel(), labels.ravel() == 1
    else:
        mine, theirs, truth = student.argmax(1), teacher.argmax(1), labels
    same, right = mine == theirs, theirs == truth
    return {
        "teacher_accuracy": float(right.mean()),
        "all": float(same.mean()),
        "where_teacher_right": float(same[right].mean()) if right.any() else None,
        "where_teacher_wrong": float(same[~right].mean()) if not right.all() else None,
        "decisions": len(same),
        "teacher_wrong": int((~right).sum()),
    }


def agreement_on(val: Batches | None, student: nn.Module, teacher: Teacher) -> dict[str, Any] | None:
    """On the validation images, where there are some and the teacher knows their classes."""
    if val is None or not teacher.knows_classes:
        return None
    (mine, labels), (theirs, _) = infer(student, val), infer(teacher.model, val)
    return agreement(mine, theirs, labels)


def students_alone(settings: TrainingSettings, root: Path) -> list[dict[str, Any]]:
    """Results of finished runs that trained the same network on the same split without a teacher."""
    found = []
    for entry in ("train_cnn", "train_vit"):
        for run in finished_runs(root, f"{entry}/{settings.data.name}-*"):
            result = run.finished()
            try:
                alone = TRAININGS[entry].model_validate(read_mapping(run.config))
            except (ValueError, Refused):
                continue
            if result and result.get("val") and _same_network(alone, settings) and alone.data == settings.data:
                found.append(result)
    return found


def _same_network(one: TrainingSettings, other: TrainingSettings) -> bool:
    """But for the token that only a teacher makes use of."""
    alone, taught = (
        {name: value for name, value in identity(each.model).items() if name not in {"dist_token", "inference"}}
        for each in (one, other)
    )
    return alone == taught


def judge(teacher: Teacher, settings: TrainingSettings, gate: GateSettings, root: Path) -> dict[str, Any]:
    """Whether this teacher is fit to teach this student, and why not; with gate=stop, Refused where it is not."""
    doubts: list[str] = []
    alone = [result["val"]["accuracy"] for result in students_alone(settings, root)]
    val, test = teacher.facts.get("val_accuracy"), teacher.facts.get("test_accuracy")
    if alone and val is not None and val < mean(alone):
        doubts.append(
            f"the teacher has {val:.2%} on validation, the same student alone {mean(alone):.2%} (n={len(alone)})"
        )
    published = REFERENCE_ACCURACY.get((teacher.facts["model"], settings.data.name))
    if published is not None and test is not None and test < published - gate.margin:
        doubts.append(
            f"the teacher has {test:.2%} on test, {teacher.facts['model']} is published to reach {published:.2%} "
            f"(margin {gate.margin:.2%})"
        )
    verdict = {
        "rule": gate.gate,
        "passed": not doubts,
        "doubts": doubts,
        "students_alone": {"n": len(alone), "val_accuracy": mean(alone) if alone else None},
        "published_test_accuracy": published,
    }
    if doubts and gate.gate == "stop":
        raise Refused([f"teacher: {doubt}; allowed: a better teacher, or distill.gate=warn" for doubt in doubts])
    if doubts and gate.gate == "warn":
        for doubt in doubts:
            log.warning("weak teacher: %s", doubt)
    return verdict


# --- what is learned from tokens --------------------------------------------------------------------------------


class Learner(nn.Module):
    """A student with what it needs for the lessons: of each taught block, a projector to the teacher's width.

    The projectors are the student's alone. One on the teacher's side could be trained too, and then the cheapest way to
    agree is that both say nothing.
    """

    def __init__(self, student: ViT, layers: Sequence[int], hidden: int, teacher_width: int) -> None:
        super().__init__()
        self.student, self.layers = student, tuple(layers)
        width = student.norm.normalized_shape[0]
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, teacher_width))
            for _ in self.layers
        )

    def forward(self, images: Tensor, lesson: bool = False) -> Any:
        """Logits; in a lesson also the taught blocks' tokens, as they are and projected.

        All through forward, because DistributedDataParallel synchronises the gradients of nothing else.
        """
        if not lesson:
            return self.student(images)
        outputs = cast(Outputs, self.student(images, layers=self.layers))
        tokens = [outputs.tokens[layer] for layer in self.layers]
        return outputs.logits, tokens, [project(each) for project, each in zip(self.projectors, tokens, strict=True)]


def on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """The teacher's tokens where the student has its own: (batch, dim, rows, columns) to (batch, n, dim)."""
    if maps.shape[2:] != grid:
        maps = F.interpolate(maps, grid, mode="bilinear", antialias=True)
    return maps.flatten(2).transpose(1, 2)


def related(tokens: Tensor, kind: str, chosen: Tensor | None = None) -> Tensor:
    """Whose likeness is compared: tokens within an image, images by their mean token, or chosen tokens of the batch."""
    if kind == "token":
        return tokens
    if kind == "sample":
        return tokens.mean(dim=1)
    return tokens.flatten(0, 1)[chosen]


@torch.no_grad()
def spread(projected: Tensor) -> dict[str, Tensor]:
    """Signs of collapse: the mean deviation of the tokens' numbers, and how many directions they fill.

    The latter is the participation ratio of the covariance's eigenvalues, (sum l)^2 / sum l^2: 1 if all lie on a line.
    """
    tokens = projected.detach().flatten(0, -2).float()
    centred = tokens - tokens.mean(dim=0)
    covariance = centred.T @ centred / len(tokens)
    directions = covariance.trace() ** 2 / covariance.square().sum().clamp(min=1e-20)
    return {"token_deviation": centred.square().mean(dim=0).sqrt().mean(), "token_directions": directions}
