"""These adaptations change what comes after the features, and leave all weights alone: t3a, lame."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.adaptive_cnn import AdaptiveCNN
from common.models.vit import ViT
from eval.adaptation.method import Adaptation, NotAdaptable, Source, entropy


class T3A(Source):
    """T3A classifies by the mean direction of the confident features of each class so far (Iwasawa and Matsuo 2021).

    The support set of a class starts with its row of the linear classifier, and gains each feature that the model puts
    into the class. The `supports` of lowest entropy are kept (None: all); logits are features @ normalised mean. The
    paper chooses among 1, 5, 20, 50, 100 and all by validation; 100 is the largest that bounds the memory.
    The logits have another scale than the model's: fit a temperature anew before reading them as probabilities.
    """

    def __init__(self, model: nn.Module, *, supports: int | None = 100) -> None:
        super().__init__(model)
        if supports is not None and supports < 1:
            raise ValueError(f"supports: given {supports}, allowed: 1 or more per class, or None for all")
        self.supports, self.head = supports, linear_head(model)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        weights = self.head.weight.detach()
        self.directions = F.normalize(weights, dim=1)  # (supports of all classes, dim)
        self.classes = torch.arange(len(weights), device=weights.device)
        self.entropies = entropy(self.head(weights))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        features, logits = self._features(images)
        self.directions = torch.cat([self.directions, F.normalize(features, dim=1)])
        self.classes = torch.cat([self.classes, logits.argmax(dim=1)])
        self.entropies = torch.cat([self.entropies, entropy(logits)])
        self._forget_unsure()
        sums = torch.zeros_like(self.head.weight).index_add_(0, self.classes, self.directions)
        return features @ F.normalize(sums, dim=1).T

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the classifier reads, and what it says."""
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self.head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        try:
            logits = super().forward(images)
        finally:
            hook.remove()
        features, said = seen[-1] if seen else (logits, None)
        if said is not logits or features.ndim != 2:
            raise NotAdaptable(
                "t3a: the model changes the output of its linear classifier; needed: this output as logits"
            )
        return features.to(self.head.weight.dtype), logits

    def _forget_unsure(self) -> None:
        if self.supports is None:
            return
        # Which are the surest of all so far does not change when the others are forgotten. Of equals the older stays.
        order = self.entropies.argsort(stable=True)
        surest = [order[self.classes[order] == label][: self.supports] for label in range(len(self.head.weight))]
        kept = torch.cat(surest).sort().values
        self.directions, self.classes, self.entropies = self.directions[kept], self.classes[kept], self.entropies[kept]


def linear_head(model: nn.Module) -> nn.Linear:
    """Return the linear layer whose output is the logits; raise NotAdaptable if there is none, or a mean of two."""
    head = _last_layer(model)
    if not isinstance(head, nn.Linear):
        ending = "two heads, of which it takes the mean" if isinstance(head, tuple) else type(head).__name__
        raise NotAdaptable(f"t3a: the model ends in {ending}; needed: one linear classifier")
    return head


def _last_layer(model: nn.Module) -> Any:
    module: Any
    for module in model.modules():  # the outermost comes first: a timm network may be wrapped
        if isinstance(module, AdaptiveCNN):
            return module.classifier[-1]
        if isinstance(module, ViT):
            heads = {"cls": module.cls_head, "dist": module.dist_head}
            return heads.get(module.inference, (module.cls_head, module.dist_head))
        if hasattr(module, "get_classifier"):  # timm's networks
            return module.get_classifier()
    return model[-1] if isinstance(model, nn.Sequential) and len(model) else model


class LAME(Adaptation):
    """Predictions are drawn towards those of the nearest images of the batch (Boudiaf et al. 2022); no weights change.

    The `neighbours` of an image have the smallest distances between normalised embeddings; 5 is the authors' best
    configuration. The affinity is made symmetric, an option of theirs, because the objective sees no other part of it.
    Log probabilities are returned, which are logits too. LAME expects batches in which neighbours share a class, as in
    video.
    """

    def __init__(self, model: nn.Module, *, neighbours: int = 5, most_steps: int = 100) -> None:
        super().__init__(model)
        if neighbours < 1 or most_steps < 1:
            raise ValueError(f"neighbours and most_steps: given {neighbours} and {most_steps}, allowed: 1 or more")
        if not all(hasattr(model, half) for half in ("forward_features", "forward_head")):
            raise NotAdaptable("lame: the model shows no embedding; needed: forward_features and forward_head")
        self.neighbours, self.most_steps = neighbours, most_steps

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        features = self.model.forward_features(images)  # type: ignore[operator]
        embedding = self.model.forward_head(features, pre_logits=True).flatten(1)  # type: ignore[operator]
        log_prior = self.model.forward_head(features).float().log_softmax(dim=1)  # type: ignore[operator]
        return laplacian_assignments(log_prior, knn_affinity(embedding, self.neighbours), self.most_steps)

    def reset(self) -> None:
        """Nothing is kept."""


def knn_affinity(embedding: Tensor, neighbours: int) -> Tensor:
    """Return (n, n): 1 where both are among the other's nearest, 1/2 where one is, 0 elsewhere and on the diagonal."""
    unit = F.normalize(embedding.float(), dim=1)
    distance = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    nearest = distance.topk(min(neighbours, len(unit) - 1), largest=False).indices
    one_way = torch.zeros_like(distance).scatter_(1, nearest, 1.0)
    return (one_way + one_way.T) / 2


def laplacian_assignments(log_prior: Tensor, affinity: Tensor, most_steps: int = 100) -> Tensor:
    """Return log Z (n, classes) that lowers sum_i KL(z_i || q_i) - 1/2 sum_ij w_ij z_i . z_j, where q is the prior.

    Each step sets z_i in proportion to q_i exp(sum_j w_ij z_j), which never raises the objective where no eigenvalue of
    the symmetric affinity w is below -2. Nothing promises that of nearest neighbours: where it fails, images may change
    places for ever, and only `most_steps` ends it. Else it ends when the objective moves by less than 1e-8 of itself.
    """
    log_z, before = log_prior, math.inf
    for _ in range(most_steps):
        log_z = (log_prior + affinity @ log_z.exp()).log_softmax(dim=1)
        z = log_z.exp()
        objective = float((z * (log_z - log_prior - affinity @ z / 2)).sum())
        if abs(before - objective) <= 1e-8 * abs(before) < math.inf:
            break
        before = objective
    return log_z
