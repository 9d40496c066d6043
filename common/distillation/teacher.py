"""A teacher is a frozen network; a student learns from its answers or its tokens.

It has the selected weights of a finished run, or published weights of timm. Both get exactly the student's images,
mixed ones too. A run was trained on the same set with the same normalisation; a network of timm is wrapped, so that it
gets images of its own normalisation and size (common/models/backbones.py).
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
    """A teacher's network is never trained. It is held outside of any module, so that no student counts it as a part.

    In evaluation mode nothing is dropped, and no statistics are averaged.
    """

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
        """Return the patch tokens after a block and the final norm: (batch, dim, rows, columns)."""
        if isinstance(self.model, ViT):
            patch = self.model.patch
            outputs = cast(Outputs, self.model(images, layers=(layer,)))
            tokens = self.model.norm(outputs.tokens[layer])
            return tokens.transpose(1, 2).unflatten(2, (images.shape[2] // patch, images.shape[3] // patch))

        # A network of timm wants images of its own size, and counts blocks from the start.
        backbone = cast("Backbone", self.model)
        net = cast(Any, backbone.net)
        (maps,) = net.forward_intermediates(
            backbone.fitted(images), indices=[layer % len(net.blocks)], norm=True, intermediates_only=True
        )
        return cast(Tensor, maps)

    def check_tokens(self, shape: tuple[int, ...], layer: int, compute: Compute) -> int:
        """Return the width of the tokens; raise Refused if there are none, or too few blocks for the layer."""
        network = self.model if isinstance(self.model, ViT) else cast("Backbone", self.model).net
        blocks = getattr(network, "blocks", None)
        if not isinstance(blocks, Sized):
            raise Refused([f"teacher: {self.facts['model']} has no blocks of tokens, allowed: a vision transformer"])

        depth = len(blocks)
        if not -depth <= layer < depth:
            allowed = f"0 to {depth - 1}, or -{depth} to -1 from the end"
            raise Refused([f"distill.teacher_layer: given {layer}, allowed with this teacher: {allowed}"])

        # Only trying says how wide the tokens of a network of timm are.
        return self.tokens(torch.zeros(1, *shape, device=compute.device), layer).shape[1]


def open_teacher(
    settings: TeacherSettings, like: Mapping[str, Any], root: Path, compute: Compute, *, answers: bool
) -> Teacher:
    """Load the teacher onto the device. answers: whether its classes are needed, and not its tokens alone."""
    if settings.name is None:
        assert settings.run is not None  # settings without a teacher are refused when they are read
        return _from_run(settings.run, root, compute)
    return _published(settings.name, settings, like, compute, answers=answers)


def _from_run(run: str, root: Path, compute: Compute) -> Teacher:
    trained = open_run(run, root, "teacher")
    result = trained.result
    facts = {
        "run": trained.name,
        "digest": result["selection"]["digest"],
        "model": trained.settings.model.name,
        "val_accuracy": (result["val"] or {}).get("accuracy"),
        "test_accuracy": result["test"]["accuracy"],
    }
    return Teacher(load_model(trained, compute, "teacher"), facts)


def _published(
    name: str, settings: TeacherSettings, like: Mapping[str, Any], compute: Compute, *, answers: bool
) -> Teacher:
    from common.models.backbones import build_backbone  # timm takes seconds to load, which only its networks pay

    backbone = TimmSettings(name=name, pretrained=True, weights=settings.weights, input_size=settings.input_size)
    shape, classes = tuple(like["shape"]), len(like["classes"])

    # Weights are drawn before they are loaded. The caller's random numbers must not depend on that.
    random_state = torch.get_rng_state()
    try:
        model = build_backbone(backbone, shape, classes, like["mean"], like["std"])
    except ValueError as error:
        raise Refused([f"teacher: {error}"]) from None
    except Refused as refused:
        raise Refused(map(_in_words_of_a_teacher, refused.problems)) from None
    torch.set_rng_state(random_state)

    teacher = Teacher(place(model, compute), {"model": name, "weights_digest": settings.weights_digest})
    if answers and not teacher.knows_classes:
        command = f"python train/train_cnn.py data={like['name']} model.name={name} model.pretrained=true"
        raise Refused(
            [
                f"teacher: {name} knows other classes than the {classes} of {like['name']}; "
                f"train it on them first and let that run teach: {command} recipe=finetune"
            ]
        )
    return teacher


def _in_words_of_a_teacher(problem: str) -> str:
    """Name the words that a teacher's weights have, where a refusal names those of a network that is trained."""
    named = problem.replace("model.pretrained:", "teacher.weights:").replace("model.weights", "teacher.weights")
    return named.replace(", or model.pretrained=false", "")
