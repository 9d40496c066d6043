"""Who teaches a student: a frozen network, seen through its answers or its tokens; and whether it should.

The teacher of a run is that run's chosen weights; a network of timm brings published ones. Both get the student's very
images, mixed ones too: a run was trained on the same set with the same figures, and published weights sit behind a
change of normalisation and size of their own (common/models/backbones.py).
"""

import logging
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from common.compute import Compute, place
from common.failures import Refused
from common.models.load import load_model
from common.models.vit import Outputs, ViT
from common.run.finished import open_run
from common.settings.distillation import TeacherSettings
from common.settings.models import TimmSettings

if TYPE_CHECKING:
    from common.models.backbones import Backbone

log = logging.getLogger("stillhouse")


class Teacher:
    """Nothing in it is trained, dropped or averaged; it is no module, so no student takes it for a part of its own."""

    def __init__(self, model: nn.Module, facts: dict[str, Any]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.facts = facts
        self.knows_classes = "run" in facts or getattr(model, "knows_classes", True)

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
    except Refused as refused:
        raise Refused(map(_in_words_of_a_teacher, refused.problems)) from None
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


def _in_words_of_a_teacher(problem: str) -> str:
    """Name the words that a teacher's weights have, where a refusal names those of a network that is trained."""
    named = problem.replace("model.pretrained:", "teacher.weights:").replace("model.weights", "teacher.weights")
    return named.replace(", or model.pretrained=false", "")


# --- whether it should ------------------------------------------------------------------------------------------


# --- what is learned from tokens --------------------------------------------------------------------------------
