"""The teacher: frozen, seen right, and judged; and the parts of the distillation against numbers worked by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from common.compute import Compute
from common.distillation.gate import agreement, judge
from common.distillation.teacher import Teacher, open_teacher
from common.distillation.tokens import StudentWithProjectors, on_grid, related, spread
from common.failures import Refused
from common.models.adaptive_cnn import AdaptiveCNN
from common.models.vit import ViT
from common.settings.distillation import REFERENCE_ACCURACY, CSTSettings, KDSettings, TeacherSettings, share_of_teacher
from common.settings.entries import ComputeSettings, DistillKD

CPU = Compute(torch.device("cpu"), ComputeSettings())
LIKE: dict[str, Any] = {"name": "x", "shape": [1, 12, 12], "classes": list("abcde"), "mean": [0.3], "std": [0.2]}


def vit(seed: int = 0, **changes: Any) -> ViT:
    torch.manual_seed(seed)
    return ViT((1, 12, 12), 5, **({"patch": 4, "width": 24, "depth": 3, "heads": 3, "stem_width": 8} | changes))


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 1, 12, 12, generator=torch.Generator().manual_seed(7))


# --- frozen -----------------------------------------------------------------------------------------------------


def test_a_teacher_is_frozen_and_in_evaluation_mode() -> None:
    model = AdaptiveCNN((1, 12, 12), 5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    teacher = Teacher(model, {"model": "adaptive_cnn"})
    told = teacher.answers(images())
    assert not told.requires_grad
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.equal(told, teacher.answers(images()))  # nothing dropped
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # nor averaged


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without published weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)


@pytest.mark.parametrize("weights", [None, "gone.safetensors"])
def test_weights_that_are_not_there_are_asked_for_in_words_that_exist(
    no_weights: None, tmp_path: Path, weights: str | None
) -> None:
    settings = TeacherSettings(name="timm/test_vit", weights=weights)
    with pytest.raises(Refused, match=r"^teacher\.weights: ") as refused:
        open_teacher(settings, LIKE, tmp_path, CPU, answers=False)
    advice = "; or give teacher.weights=FILE" if weights is None else "gone.safetensors is no file"
    assert str(refused.value).endswith(advice)
    assert "model." not in str(refused.value)


# --- tokens -----------------------------------------------------------------------------------------------------


def test_tokens_lie_where_they_were_in_the_image() -> None:
    model = vit().eval()
    maps = Teacher(model, {"model": "vit"}).tokens(images(), -1)
    assert maps.shape == (4, 24, 3, 3)
    features = model.forward_features(images())
    torch.testing.assert_close(maps[:, :, 1, 2], features[:, 1 + 5])


def test_tokens_of_timm_are_those_behind_its_norm() -> None:
    from common.models.backbones import Backbone

    torch.manual_seed(0)
    net = timm.create_model("test_vit", img_size=32, in_chans=1, num_classes=5).eval()
    backbone = Backbone(net, (32, 32), torch.ones(1), torch.zeros(1))
    teacher = Teacher(backbone, {"model": "timm/test_vit"})
    small = F.interpolate(images(), (32, 32), mode="bicubic", antialias=True)
    expected = net.forward_features(small)[:, net.num_prefix_tokens :]
    torch.testing.assert_close(teacher.tokens(images(), -1).flatten(2).transpose(1, 2), expected)
    assert teacher.check_tokens((1, 12, 12), 0, CPU) == 64
    with pytest.raises(Refused, match=r"teacher_layer: given 9, allowed with this teacher: 0 to \d, or -\d to -1"):
        teacher.check_tokens((1, 12, 12), 9, CPU)
    with pytest.raises(Refused, match="test_resnet has no blocks of tokens, allowed: a vision transformer"):
        resnet = timm.create_model("test_resnet", in_chans=1)
        Teacher(Backbone(resnet, (32, 32), torch.ones(1), torch.zeros(1)), {"model": "timm/test_resnet"}).check_tokens(
            (1, 12, 12), 0, CPU
        )


def test_a_finer_grid_is_averaged_onto_a_coarser_one_by_hand() -> None:
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    assert on_grid(fine, (4, 4)).flatten().tolist() == fine.flatten().tolist()
    coarse = on_grid(fine, (2, 2)).view(2, 2)
    # antialiased bilinear from 4 to 2: weights 3/7, 3/7, 1/7 of the three nearest of a side
    weights = torch.tensor([[3.0, 3.0, 1.0, 0.0], [0.0, 1.0, 3.0, 3.0]]) / 7
    torch.testing.assert_close(coarse, weights @ fine[0, 0] @ weights.T)


def test_what_is_related() -> None:
    tokens = torch.arange(12.0).view(2, 3, 2)
    assert related(tokens, "token") is tokens
    assert related(tokens, "sample").tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert related(tokens, "random", torch.tensor([5, 0])).tolist() == [[10.0, 11.0], [0.0, 1.0]]


def test_spread_by_hand() -> None:
    """Two numbers of deviation 1, uncorrelated: two directions. On a line: one. All equal: deviation 0."""
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    found = spread(square)
    assert (found["token_deviation"].item(), found["token_directions"].item()) == (1.0, 2.0)
    assert spread(square[:, :1].expand(4, 2))["token_directions"].item() == pytest.approx(1.0)
    assert spread(torch.ones(4, 2))["token_deviation"].item() == 0.0


def test_a_student_with_projectors_answers_as_its_student_and_projects_its_blocks() -> None:
    student = vit(drop_path=0.0, cls_dropout=0.0).eval()
    taught_student = StudentWithProjectors(student, (1, 2), hidden=16, teacher_width=40).eval()
    assert torch.equal(taught_student(images()), student(images()))
    logits, tokens, projected = taught_student(images(), with_tokens=True)
    assert torch.equal(logits, student(images()))
    assert [each.shape for each in tokens] == [(4, 9, 24)] * 2
    assert [each.shape for each in projected] == [(4, 9, 40)] * 2
    torch.testing.assert_close(projected[1], taught_student.projectors[1](tokens[1]))


# --- how much it says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("constant", [0.6, 0.6, 0.6]), ("linear", [0.2, 0.4, 0.6]), ("cosine", [0.2, 0.4, 0.6])],
)
def test_the_teachers_share_of_the_loss(schedule: Any, shares: list[float]) -> None:
    distill = KDSettings(schedule=schedule, alpha=0.6, alpha_start=0.2)
    assert [share_of_teacher(distill, done) for done in (0.0, 0.5, 1.0)] == pytest.approx(shares)
    assert share_of_teacher(KDSettings(schedule="cosine", alpha=1.0), 0.25) == pytest.approx((1 - 0.5**0.5) / 2)


# --- whether it should teach ------------------------------------------------------------------------------------


def test_agreement_by_hand() -> None:
    labels = np.array([0, 1, 1, 0])
    teacher = np.eye(2)[[0, 1, 0, 1]]  # right, right, wrong, wrong
    student = np.eye(2)[[0, 0, 0, 0]]
    assert agreement(student, teacher, labels) == {
        "teacher_accuracy": 0.5, "all": 0.5, "where_teacher_right": 0.5, "where_teacher_wrong": 0.5,
        "decisions": 4, "teacher_wrong": 2,
    }  # fmt: skip
    assert agreement(student, student, np.zeros(4, int))["where_teacher_wrong"] is None
    several = agreement(np.array([[1.0, -1.0]]), np.array([[2.0, 3.0]]), np.array([[1, 0]]))
    assert (several["all"], several["where_teacher_right"], several["where_teacher_wrong"]) == (0.5, 1.0, 0.0)


def alone(root: Path, val_accuracy: float, number: int, **model: Any) -> None:
    """A finished run of the student by itself, as far as the gate looks at it."""
    from common.settings.entries import TrainViT
    from common.settings.yaml12 import dump_yaml

    folder = root / "train_vit" / f"digits-vit-s{number}-0"
    folder.mkdir(parents=True)
    settings = TrainViT.model_validate({"seed": number, "model": {"name": "vit", **model}})
    (folder / "config.yaml").write_text(dump_yaml(settings.model_dump()))
    (folder / "result.json").write_text(json.dumps({"val": {"accuracy": val_accuracy}}))


def judged(root: Path, val: float, test: float = 0.99, model: str = "adaptive_cnn", **given: Any) -> dict[str, Any]:
    teacher = Teacher(AdaptiveCNN((1, 12, 12), 5), {"model": model, "val_accuracy": val, "test_accuracy": test})
    settings = DistillKD.model_validate({"data": {"name": given.pop("data", "digits")}})
    return judge(teacher, settings, KDSettings(**given), root)


def test_a_teacher_worse_than_the_student_alone_is_doubted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert judged(tmp_path, 0.5)["passed"]  # nothing to compare with
    alone(tmp_path, 0.90, 0)
    alone(tmp_path, 0.94, 1)
    alone(tmp_path, 0.10, 2, width=96)  # another network
    assert judged(tmp_path, 0.93)["passed"]
    found = judged(tmp_path, 0.91)
    assert found["doubts"] == ["the teacher has 91.00% on validation, the same student alone 92.00% (n=2)"]
    assert found["students_alone"] == {"n": 2, "val_accuracy": pytest.approx(0.92)}
    assert "weak teacher: the teacher has 91.00%" in caplog.text
    with pytest.raises(Refused, match=r"has 91\.00% .* allowed: a better teacher, or distill\.gate=warn"):
        judged(tmp_path, 0.91, gate="stop")
    caplog.clear()
    assert not judged(tmp_path, 0.91, gate="off")["passed"]
    assert not caplog.text


def test_a_teacher_below_its_published_value_is_doubted(tmp_path: Path) -> None:
    assert REFERENCE_ACCURACY["adaptive_cnn", "cifar10"] == 0.9555
    found = judged(tmp_path, 0.83, 0.829, data="cifar10")
    assert found["doubts"] == [
        "the teacher has 82.90% on test, adaptive_cnn is published to reach 95.55% (margin 1.00%)"
    ]
    assert judged(tmp_path, 0.83, 0.9456, data="cifar10")["passed"]
    assert not judged(tmp_path, 0.83, 0.9456, data="cifar10", margin=0.005)["passed"]


# --- published weights ------------------------------------------------------------------------------------------


def test_published_weights_teach_answers_only_of_their_own_classes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=7, in_chans=3).state_dict(), path)
    given = TeacherSettings(name="timm/test_vit", weights=str(path), input_size=32)
    tokens = open_teacher(given, LIKE, tmp_path, CPU, answers=False)
    assert tokens.check_tokens((1, 12, 12), -1, CPU) == 64
    with pytest.raises(Refused, match=r"knows other classes than the 5 of x; train it on them first .*recipe=fi"):
        open_teacher(given, LIKE, tmp_path, CPU, answers=True)
    seven = open_teacher(given, LIKE | {"classes": list("abcdefg")}, tmp_path, CPU, answers=True)
    assert seven.answers(images()).shape == (4, 7)


def test_distillation_without_content_are_refused() -> None:
    with pytest.raises(ValueError, match="token_weight=0 and relation_weight=0 leave nothing to learn"):
        CSTSettings(token_weight=0, relation_weight=0)
