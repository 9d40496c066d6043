"""The teacher is frozen, and its answers and tokens are those of its network."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from common.compute import Compute
from common.distillation.teacher import Teacher, open_teacher
from common.failures import Refused
from common.models.adaptive_cnn import AdaptiveCNN
from common.models.vit import ViT
from common.settings.distillation import CSTSettings, KDSettings, TeacherSettings, share_of_teacher
from common.settings.entries import ComputeSettings

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
    answers = teacher.answers(images())
    assert not answers.requires_grad
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.equal(answers, teacher.answers(images()))  # nothing dropped
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


def test_tokens_of_timm_are_those_after_its_norm() -> None:
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


# --- how much it says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("constant", [0.6, 0.6, 0.6]), ("linear", [0.2, 0.4, 0.6]), ("cosine", [0.2, 0.4, 0.6])],
)
def test_the_teachers_share_of_the_loss(schedule: Any, shares: list[float]) -> None:
    distill = KDSettings(schedule=schedule, alpha=0.6, alpha_start=0.2)
    assert [share_of_teacher(distill, done) for done in (0.0, 0.5, 1.0)] == pytest.approx(shares)
    assert share_of_teacher(KDSettings(schedule="cosine", alpha=1.0), 0.25) == pytest.approx((1 - 0.5**0.5) / 2)


# --- published weights ------------------------------------------------------------------------------------------


def test_published_weights_teach_answers_only_of_their_own_classes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=7, in_chans=3).state_dict(), path)
    settings = TeacherSettings(name="timm/test_vit", weights=str(path), input_size=32)
    tokens = open_teacher(settings, LIKE, tmp_path, CPU, answers=False)
    assert tokens.check_tokens((1, 12, 12), -1, CPU) == 64
    with pytest.raises(Refused, match=r"knows other classes than the 5 of x; train it on them first .*recipe=fi"):
        open_teacher(settings, LIKE, tmp_path, CPU, answers=True)
    seven = open_teacher(settings, LIKE | {"classes": list("abcdefg")}, tmp_path, CPU, answers=True)
    assert seven.answers(images()).shape == (4, 7)


def test_distillation_without_content_is_refused() -> None:
    with pytest.raises(ValueError, match="token_weight=0 and relation_weight=0 leave nothing to learn"):
        CSTSettings(token_weight=0, relation_weight=0)
