"""Every network of the suite by its name, and what it costs to run one.

All offer the same three calls: `forward(images)`, and its two halves, `forward_features(images)` and
`forward_head(features, pre_logits=False)`, which with pre_logits=True stops at the embedding (batch, dim).
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from common.compute import Compute
from common.failures import Refused
from common.models.adaptive_cnn import AdaptiveCNN
from common.models.fast_cnn import WHITENING_IMAGES, FastCNN
from common.models.vit import ViT, derive_patch
from common.settings.models import (
    CNN_BACKBONES,
    VIT_BACKBONES,
    AdaptiveCNNSettings,
    AnyModel,
    FastCNNSettings,
    TimmSettings,
    ViTSettings,
)

if TYPE_CHECKING:
    from common.data.packed import Batches

SPEED_SECONDS = 0.2  # to measure in, for one image and for many


def _adaptive_cnn(settings: AdaptiveCNNSettings, like: Mapping[str, Any], _: bool) -> nn.Module:
    return AdaptiveCNN(tuple(like["shape"]), len(like["classes"]), settings.dropout)


def _fast_cnn(settings: FastCNNSettings, like: Mapping[str, Any], _: bool) -> nn.Module:
    return FastCNN(tuple(like["shape"]), len(like["classes"]), **settings.model_dump(exclude={"name"}))


def _vit(settings: ViTSettings, like: Mapping[str, Any], _: bool) -> nn.Module:
    shape, own = tuple(like["shape"]), settings.model_dump(exclude={"name", "patch"})
    return ViT(shape, len(like["classes"]), patch=settings.patch or derive_patch(shape), **own)


def _timm(settings: TimmSettings, like: Mapping[str, Any], fresh: bool) -> nn.Module:
    from common.models.backbones import build_backbone  # timm takes a second to load, which only its networks pay

    shape, classes = tuple(like["shape"]), len(like["classes"])
    return build_backbone(settings, shape, classes, like["mean"], like["std"], fresh=fresh)


MODELS: dict[str, Callable[[Any, Mapping[str, Any], bool], nn.Module]] = {
    "adaptive_cnn": _adaptive_cnn,
    "fast_cnn": _fast_cnn,
    "vit": _vit,
    **dict.fromkeys((*CNN_BACKBONES, *VIT_BACKBONES, "timm"), _timm),
}


def build_model(
    settings: AnyModel,
    like: Mapping[str, Any],
    *,
    fresh: bool = True,
    train: "Batches | None" = None,
    checkpointing: bool = False,
) -> nn.Module:
    """Build the network for a data set, whose shape, classes, mean and std are in `like`; Refused if they do not fit.

    fresh=False: other weights will be loaded into it, so published ones need not be found.
    train: the training images, of which a new fast_cnn makes its first layer. The same images make the same layer.
    """
    try:
        model = MODELS["timm" if settings.name.startswith("timm/") else settings.name](settings, like, fresh)
        if isinstance(model, FastCNN) and train is not None:
            model.whitening.learn(train.first(WHITENING_IMAGES))
        setattr(model, "checkpointing", checkpointing)  # noqa: B010 - for mypy a module's attributes are tensors
    except ValueError as error:
        raise Refused([f"model: {error}"]) from None
    return model


# --- what it costs ----------------------------------------------------------------------------------------------


class _EveryOperation:
    """Adds up the FLOPs of all operations.

    It is a class of its own because torch would wrap the method of a mode's own class, to keep its compiler out of it;
    the first call of that wrapper imports the whole compiler.
    """

    total = 0

    def __torch_dispatch__(
        self, operation: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.total += _flops(operation.overloadpacket, args, result)
        return result


class FlopCount(_EveryOperation, TorchDispatchMode):
    """Counts two FLOPs per multiplication and addition of matrix products and convolutions.

    torch's own counter counts the same, but it also imports triton, which takes seconds of a short run.
    """


def _flops(operation: Any, args: tuple[Any, ...], result: Any) -> int:
    aten = torch.ops.aten
    if operation in {aten.mm, aten.addmm, aten.bmm, aten.baddbmm}:
        return 2 * result.numel() * args[-1].shape[-2]
    if operation is aten.convolution:
        images, weight, transposed = args[0], args[1], args[6]
        return 2 * (images if transposed else result).numel() * weight[0].numel()
    return 0


def model_facts(settings: AnyModel, model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return facts for result.json; FLOPs are those of one image."""
    example = torch.zeros(1, *shape, device=next(model.parameters()).device)
    training = model.training
    with torch.no_grad(), FlopCount() as count, sdpa_kernel(SDPBackend.MATH):
        model.eval()(example)
    model.train(training)

    facts = {"name": settings.name, "parameters": parameter_count(model), "flops": count.total}
    started_from = getattr(model, "weights", None)
    if started_from is None:
        return facts

    # Only a network of timm has published weights, and loading timm takes a second.
    from common.models.weights import weights_facts

    return {**facts, "weights": weights_facts(started_from)}


def parameter_count(model: nn.Module) -> int:
    """Count the trainable weights."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


@torch.no_grad()
def measure_speed(
    model: nn.Module, shape: tuple[int, ...], compute: Compute, precision: str = "fp32"
) -> dict[str, Any]:
    """Measure inference: the median time of one image, and the images per second in batches.

    A first call is left out of both, because it also sets things up.
    """
    training = model.training
    model.eval()

    def median_seconds(batch: int) -> float:
        images = torch.zeros(batch, *shape, device=compute.device)
        times: list[float] = []

        # At least four calls, and as many as fit into SPEED_SECONDS, because short times vary more.
        while len(times) < 4 or (sum(times) < SPEED_SECONDS and len(times) < 100):
            began = time.perf_counter()
            with compute.autocast(precision):
                model(images)
            if compute.device.type == "cuda":
                torch.cuda.synchronize(compute.device)
            times.append(time.perf_counter() - began)
        return sorted(times[1:])[len(times[1:]) // 2]

    # As many images as one by one take SPEED_SECONDS, at most 256.
    latency = median_seconds(1)
    batch = min(max(int(SPEED_SECONDS / latency), 1), 256)
    throughput = batch / median_seconds(batch)
    model.train(training)
    return {
        "latency_ms": round(latency * 1000, 3),
        "images_per_sec": round(throughput, 1),
        "speed_batch": batch,
    }
