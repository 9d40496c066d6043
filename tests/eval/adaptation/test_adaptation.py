"""The contract over all adaptations and the suite's networks, and each method against its formula worked out anew."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.adaptive_cnn import AdaptiveCNN
from common.models.vit import ViT
from common.models.zoo import build_model
from common.settings.field import Group
from eval.adaptation import ADAPTATIONS, Adaptation, NotAdaptable, adapt, run
from eval.adaptation.norms import AdaBN
from eval.adaptation.outputs import knn_affinity, laplacian_assignments, linear_head

CLASSES = 4
SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cnn() -> nn.Module:
    return AdaptiveCNN(SHAPE, CLASSES)


def vit(**options) -> nn.Module:
    return ViT(SHAPE, CLASSES, patch=4, width=12, depth=2, heads=2, **{"stem_width": 0, **options})


def hybrid() -> nn.Module:
    return vit(stem_width=4)


def backbone(name: str = "resnet18", **options) -> nn.Module:
    like = {"shape": SHAPE, "classes": list("abcd"), "mean": [0.5], "std": [0.2]}
    return build_model(settings_of(name, **options), like)


def settings_of(name: str, **options) -> Group:
    from common.settings.models import TimmSettings

    return TimmSettings(name=name, **options)


def small_timm() -> nn.Module:
    return backbone("mobilenetv3_small_050", input_size=32)


MODELS = {"cnn": cnn, "vit": vit, "hybrid": hybrid, "timm": small_timm}
REFUSED = {("bn_stats", "vit"), ("adabn", "vit")}
PAIRS = [(name, model) for name in ADAPTATIONS for model in MODELS if (name, model) not in REFUSED]


def trained(build, seed: int = 0) -> nn.Module:
    """In evaluation mode, with the statistics and the scales of a model that has seen something."""
    torch.manual_seed(seed)
    model: nn.Module = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
    return model.eval()


def images(n: int, seed: int = 1) -> Tensor:
    return 1 + 2 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def everything_about(model: nn.Module) -> tuple:
    """Bits, flags, modes and hooks; equal only if the model is as it was."""
    bits = [(name, value.numpy().tobytes()) for name, value in model.state_dict().items()]
    parameters = [(name, id(each), each.requires_grad, each.grad is None) for name, each in model.named_parameters()]
    parts = [
        (
            name,
            part.training,
            getattr(part, "track_running_stats", None),
            *part._forward_hooks,
            *part._forward_pre_hooks,
        )
        for name, part in model.named_modules()
    ]
    return bits, parameters, parts


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.numpy().tobytes() == other.numpy().tobytes()


# --- contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_reset_is_exact_and_the_model_is_never_changed(name: str, kind: str) -> None:
    model = trained(MODELS[kind])
    before = everything_about(model)
    method = adapt(name, model)
    first = method.forward(images(6))
    assert first.shape == (6, CLASSES)
    assert not first.requires_grad
    assert first.isfinite().all()
    for seed in (2, 3):
        method.forward(images(6, seed))
        assert everything_about(model) == before
    method.reset()
    assert same_bits(method.forward(images(6)), first)
    assert everything_about(model) == before


@pytest.mark.parametrize("name", ["tent", "t3a"])
@pytest.mark.parametrize("kind", MODELS)
def test_what_learns_from_the_stream_would_differ_without_a_reset(name: str, kind: str) -> None:
    method = adapt(name, trained(MODELS[kind]))
    first = method.forward(images(6))
    assert not torch.equal(method.forward(images(6)), first)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_batch_may_be_one_image(name: str, kind: str) -> None:
    if (kind, name) in {("timm", "bn_stats"), ("timm", "tent")}:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):  # a grid of one cell
            adapt(name, trained(MODELS[kind])).forward(images(1))
        return
    logits = adapt(name, trained(MODELS[kind])).forward(images(1))
    assert logits.shape == (1, CLASSES)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_no_method_is_given_labels(name: str) -> None:
    assert list(inspect.signature(ADAPTATIONS[name].forward).parameters) == ["self", "images"]
    assert "labels" not in inspect.signature(ADAPTATIONS[name]).parameters


@pytest.mark.parametrize("name", ["bn_stats", "adabn", "t3a", "tent"])
def test_a_model_that_fails_is_left_as_it_was(name: str) -> None:
    model = trained(cnn)
    before, method = everything_about(model), adapt(name, model)
    with pytest.raises(RuntimeError):
        method.forward(torch.randn(4, 3, 8, 8))
    assert everything_about(model) == before


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_frozen_weights_and_no_grad_make_no_difference(name: str) -> None:
    free, frozen = trained(cnn), trained(cnn).requires_grad_(False)
    batches = [images(5, seed) for seed in (1, 2)]
    found = run(adapt(name, free), batches, "continual")
    with torch.no_grad():
        assert same_bits(run(adapt(name, frozen), batches, "continual"), found)


def test_what_cannot_reset_cannot_be_made() -> None:
    class Forgetful(Adaptation):
        def forward(self, images: Tensor) -> Tensor:
            return images

    with pytest.raises(TypeError, match=r"abstract method '?reset"):
        Forgetful(trained(cnn))  # type: ignore[abstract]


# --- refusals ---------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)).expand(-1, CLASSES)


@pytest.mark.parametrize(
    ("name", "build", "message"),
    [
        ("bn_stats", vit, "bn_stats: the model has 5 LayerNorm; needed: BatchNorm"),
        ("adabn", vit, "adabn: the model has 5 LayerNorm; needed: BatchNorm"),
        ("adabn", lambda: nn.BatchNorm2d(1, track_running_stats=False), "given batch norms without source statistics"),
        ("bn_stats", Plain, "bn_stats: the model has no normalisation layer"),
        ("tent", Plain, "tent: the model has no normalisation layer; needed: a norm with scale and shift"),
        ("tent", lambda: nn.BatchNorm2d(1, affine=False), "tent: the model has 1 BatchNorm2d; needed"),
        ("t3a", Plain, "t3a: the model ends in Plain; needed: one linear classifier"),
        ("t3a", lambda: vit(dist_token=True, inference="avg"), "t3a: the model ends in two heads"),
        ("lame", Plain, "lame: the model shows no embedding"),
    ],
)
def test_models_that_do_not_fit_are_refused(name: str, build, message: str) -> None:
    with pytest.raises(NotAdaptable, match=message):
        adapt(name, build().eval())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tend", {}, "adaptation: given tend, allowed: source | bn_stats"),
        ("source", {"lr": 1}, "source: given option lr, allowed: none"),
        ("tent", {"rate": 1}, "tent: given option rate, allowed: optimizer, lr, steps"),
        ("tent", {"optimizer": "lion"}, "optimizer: given lion, allowed: adam | sgd"),
        ("tent", {"lr": 0}, "lr and steps: given 0 and 1"),
        ("adabn", {"prior": -1}, "prior: given -1, allowed: 0 or more"),
        ("t3a", {"supports": 0}, "supports: given 0, allowed: 1 or more"),
        ("lame", {"neighbours": 0}, "neighbours and most_steps: given 0 and 100"),
    ],
)
def test_wrong_names_and_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        adapt(name, trained(cnn), options)


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="given one in training mode"):
        adapt("source", cnn())


def test_t3a_refuses_a_model_that_changes_what_its_classifier_says() -> None:
    class Halved(AdaptiveCNN):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) / 2

    with pytest.raises(NotAdaptable, match="the model changes the output of its linear classifier"):
        adapt("t3a", trained(lambda: Halved(SHAPE, CLASSES))).forward(images(3))


def test_the_linear_classifier_is_the_head_that_answers() -> None:
    model = vit(dist_token=True, inference="dist")
    assert linear_head(model) is model.dist_head
    model = backbone("resnet18", input_size=32)
    assert linear_head(model) is model.net.fc


# --- protocols --------------------------------------------------------------------------------------------------


class Counting(Adaptation):
    """Says how many batches it has seen since the last reset."""

    seen = 10  # of somebody before

    def forward(self, images: Tensor) -> Tensor:
        self.seen += 1
        return torch.stack([images, torch.full_like(images, self.seen)], dim=1)

    def reset(self) -> None:
        self.seen = 0


@pytest.mark.parametrize(("protocol", "seen"), [("episodic", [1, 1, 1, 1, 1]), ("continual", [1, 1, 2, 2, 3])])
def test_protocols_reset_before_each_batch_or_once(protocol, seen: list[int]) -> None:
    batches = iter(torch.arange(5.0).split(2))
    assert run(Counting(nn.Identity().eval()), batches, protocol).T.tolist() == [[0, 1, 2, 3, 4], seen]


def test_unknown_protocols_and_empty_sets_are_refused() -> None:
    source = adapt("source", trained(cnn))
    with pytest.raises(ValueError, match=r"protocol: given online, allowed: episodic \| continual"):
        run(source, [images(2)], "online")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batches: given none"):
        run(source, [])


# --- normalisation layers ---------------------------------------------------------------------------------------


def conv_bn_linear() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(3, CLASSES),
    )  # fmt: skip


def by_hand(model: nn.Module, batch: Tensor, share: float) -> np.ndarray:
    """Logits of conv_bn_linear in numpy, `share` of the statistics from the batch."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    maps = F.conv2d(batch.double(), model[0].weight.double()).detach().numpy()  # type: ignore[index]
    mean = share * maps.mean((0, 2, 3)) + (1 - share) * weights["1.running_mean"]
    variance = share * maps.var((0, 2, 3)) + (1 - share) * weights["1.running_var"]
    columns = (slice(None), None, None)
    maps = (maps - mean[columns]) / np.sqrt(variance[columns] + 1e-5)
    maps = maps * weights["1.weight"][columns] + weights["1.bias"][columns]
    return np.maximum(maps, 0).mean((2, 3)) @ weights["5.weight"].T + weights["5.bias"]


@pytest.mark.parametrize(
    ("name", "options", "share"),
    [
        ("source", {}, 0.0),
        ("bn_stats", {}, 1.0),
        ("adabn", {"prior": 8}, 4 / 12),
        ("adabn", {}, 4 / 20),
        ("adabn", {"prior": 0}, 1.0),
        ("adabn", {"prior": math.inf}, 0.0),
        ("tent", {}, 1.0),  # before its first step has any effect
    ],
)
def test_batch_norms_by_hand(name: str, options: dict, share: float) -> None:
    model = trained(conv_bn_linear)
    found = adapt(name, model, options).forward(images(4))
    np.testing.assert_allclose(found.numpy(), by_hand(model, images(4), share), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cnn", "hybrid", "timm"])
def test_limits_of_the_prior(kind: str) -> None:
    model, batch = trained(MODELS[kind]), images(6)
    source, by_batch = (adapt(name, model).forward(batch) for name in ("source", "bn_stats"))
    assert not torch.allclose(source, by_batch, atol=1e-2)
    assert same_bits(AdaBN(model, prior=math.inf).forward(batch), source)
    torch.testing.assert_close(AdaBN(model, prior=0).forward(batch), by_batch, rtol=1e-3, atol=1e-4)


def test_bn_stats_is_what_training_mode_computes() -> None:
    model = trained(conv_bn_linear)
    found = adapt("bn_stats", model).forward(images(5))
    assert torch.equal(found, model.train()(images(5)))


def test_a_step_of_tent_by_hand() -> None:
    """Plain gradient descent, worked out by backward() on a copy in training mode; SGD's first step has no momentum."""
    lr, batch, later = 5.0, images(6), images(6, 2)
    found = run(adapt("tent", trained(conv_bn_linear), {"optimizer": "sgd", "lr": lr}), [batch, later], "continual")
    copy = trained(conv_bn_linear).train()
    first = copy(batch)
    p = first.softmax(1)
    (-(p * p.log()).sum() / 6).backward()
    with torch.no_grad():
        for parameter in copy[1].parameters():  # type: ignore[index]
            parameter -= lr * parameter.grad  # type: ignore[operator]
        second = copy(later)
    torch.testing.assert_close(found, torch.cat([first.detach(), second]), rtol=1e-4, atol=1e-5)
    unadapted = adapt("bn_stats", trained(conv_bn_linear)).forward(later)
    assert (second - unadapted).abs().max() > 1e-3  # or the comparison says nothing


def test_adam_moves_each_scale_by_the_learning_rate_at_first() -> None:
    model = trained(conv_bn_linear)
    method = adapt("tent", model, {"lr": 0.01})
    method.forward(images(6))
    for name, adapted in method.adapted.items():  # type: ignore[attr-defined]
        moved = (adapted - model.state_dict()[name]).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_tent_lowers_the_entropy(kind: str) -> None:
    def entropy(logits: Tensor) -> float:
        return float(torch.distributions.Categorical(logits=logits).entropy().mean())

    method = adapt("tent", trained(MODELS[kind]), {"lr": 0.002})
    seen = [entropy(method.forward(images(16))) for _ in range(12)]
    assert seen[-1] < seen[0] - 1e-3


def test_more_steps_are_as_many_passes_over_the_batch() -> None:
    passes = [images(6)] * 3
    expected = run(adapt("tent", trained(cnn)), passes, "continual")[-6:]
    assert same_bits(adapt("tent", trained(cnn), {"steps": 3}).forward(images(6)), expected)


def test_tent_adapts_norms_and_nothing_else() -> None:
    names = {kind: adapt("tent", trained(MODELS[kind])).adapted.keys() for kind in ("vit", "hybrid")}  # type: ignore[attr-defined]
    layers = {
        f"blocks.{block}.norm{place}.{part}" for block in (0, 1) for place in (1, 2) for part in ("weight", "bias")
    }
    layers |= {"norm.weight", "norm.bias"}
    assert names["vit"] == layers
    assert names["hybrid"] == layers | {f"stem.{place}.{part}" for place in (1, 4) for part in ("weight", "bias")}


def test_one_episode_of_tent_says_what_batch_statistics_say() -> None:
    batches = [images(6, seed) for seed in (1, 2)]
    found = run(adapt("tent", trained(cnn)), batches, "episodic")
    assert torch.equal(found, run(adapt("bn_stats", trained(cnn)), batches, "episodic"))


# --- T3A --------------------------------------------------------------------------------------------------------


def slow_t3a(features: np.ndarray, weights: np.ndarray, bias: np.ndarray, sizes: list[int], most: int | None):
    """Logits batch by batch, with support sets as lists of (entropy, direction) per class."""

    def entropy(feature: np.ndarray) -> tuple[float, int]:
        logits = weights @ feature + bias
        p = np.exp(logits - logits.max())
        p /= p.sum()
        return float(-(p * np.log(p)).sum()), int(logits.argmax())

    support = {label: [(entropy(row)[0], row / np.linalg.norm(row))] for label, row in enumerate(weights)}
    said, start = [], 0
    for size in sizes:
        batch, start = features[start : start + size], start + size
        for feature in batch:
            unsure, label = entropy(feature)
            support[label].append((unsure, feature / np.linalg.norm(feature)))
        means = []
        for label in range(len(weights)):
            kept = sorted(support[label], key=lambda pair: pair[0])[:most]  # all that were ever seen compete again
            mean = np.mean([direction for _, direction in kept], axis=0)
            means.append(mean / np.linalg.norm(mean))
        said.append(batch @ np.array(means).T)
    return np.concatenate(said)


@pytest.mark.parametrize("most", [1, 3, None])
def test_t3a_by_a_slow_loop(most: int | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, CLASSES)).eval()
    batches = [images(n, seed) for seed, n in enumerate((5, 1, 9))]
    found = run(adapt("t3a", model, {"supports": most}), batches, "continual")
    with torch.no_grad():
        features = model[:-1](torch.cat(batches)).double().numpy()
    weights, bias = (each.detach().double().numpy() for each in model[-1].parameters())
    expected = slow_t3a(features, weights, bias, [5, 1, 9], most)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_t3a_keeps_no_more_than_it_is_told() -> None:
    method = adapt("t3a", trained(cnn), {"supports": 2})
    run(method, [images(40, seed) for seed in range(3)], "continual")
    assert max(method.classes.bincount()) == 2  # type: ignore[attr-defined]


# --- LAME -------------------------------------------------------------------------------------------------------


def clustered(n: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log priors (n, classes) and embeddings (n, 5) of float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, CLASSES, generator=generator, dtype=torch.float64)
    return logits.log_softmax(1), torch.randn(n, 5, generator=generator, dtype=torch.float64)


def objective(log_z: np.ndarray, log_q: np.ndarray, w: np.ndarray) -> float:
    total, z = 0.0, np.exp(log_z)
    for i in range(len(z)):
        total += sum(z[i, c] * (log_z[i, c] - log_q[i, c]) for c in range(CLASSES))
        total -= sum(w[i, j] * z[i] @ z[j] for j in range(len(z))) / 2
    return total


def slow_neighbours(embedding: np.ndarray, k: int) -> np.ndarray:
    n = len(embedding)
    unit = [row / np.linalg.norm(row) for row in embedding]
    w = np.zeros((n, n))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: np.linalg.norm(unit[i] - unit[j]))
        for j in others[:k]:
            w[i, j] += 0.5
            w[j, i] += 0.5
    return w


def test_neighbours_by_a_slow_loop() -> None:
    _, embedding = clustered()
    for k in (1, 3, 20):
        np.testing.assert_array_equal(knn_affinity(embedding, k).numpy(), slow_neighbours(embedding.numpy(), k))


def test_of_equal_embeddings_none_is_its_own_neighbour() -> None:
    assert knn_affinity(torch.ones(4, 3), 2).diagonal().tolist() == [0, 0, 0, 0]


def test_lame_by_a_slow_loop() -> None:
    model, batch = trained(cnn), images(10)
    found = adapt("lame", model, {"neighbours": 3}).forward(batch).double().numpy()
    with torch.no_grad():
        log_q = model(batch).double().log_softmax(1).numpy()
        features = model.forward_features(batch).mean((2, 3)).double().numpy()  # type: ignore[operator]
    w, z = slow_neighbours(features, 3), np.exp(log_q)
    for _ in range(2000):
        new = np.array([np.exp(log_q[i]) * np.exp(sum(w[i, j] * z[j] for j in range(10))) for i in range(10)])
        z = new / new.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(found), z, atol=2e-3)
    assert np.abs(z - np.exp(log_q)).max() > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_every_step_lowers_the_objective(seed: int) -> None:
    log_q, embedding = clustered(seed=seed)
    w = knn_affinity(embedding, 3).double()
    w *= 2 / -np.linalg.eigvalsh(w.numpy()).min()  # as strong as the descent allows
    path = [log_q, *(laplacian_assignments(log_q, w, most_steps=steps) for steps in range(1, 15))]
    values = [objective(log_z.numpy(), log_q.numpy(), w.numpy()) for log_z in path]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values))
    assert values[-1] < values[0] - 0.1


def test_beyond_the_bound_the_objective_may_rise() -> None:
    log_q = torch.tensor([[0.9, 0.1, 1e-9, 1e-9], [0.1, 0.9, 1e-9, 1e-9]], dtype=torch.float64).log()
    w = torch.tensor([[0.0, 6.0], [6.0, 0.0]], dtype=torch.float64)  # eigenvalues 6 and -6: they change places for ever
    values = [objective(each.numpy(), log_q.numpy(), w.numpy()) for each in (log_q, laplacian_assignments(log_q, w, 1))]
    assert values[1] > values[0] + 1
    assert laplacian_assignments(log_q, w, 7).argmax(1).tolist() == [1, 0]
    assert laplacian_assignments(log_q, w, 8).argmax(1).tolist() == [0, 1]


def test_assignments_end_where_no_step_moves_them() -> None:
    log_q, embedding = clustered()
    w = knn_affinity(embedding, 3).double()
    end = laplacian_assignments(log_q, w, most_steps=1000)
    assert torch.allclose((log_q + w @ end.exp()).softmax(1), end.exp(), atol=1e-3)


def test_without_affinity_lame_is_the_softmax() -> None:
    log_q, _ = clustered()
    torch.testing.assert_close(laplacian_assignments(log_q, torch.zeros(12, 12, dtype=torch.float64)), log_q)
    model = trained(cnn)
    alone = adapt("lame", model).forward(images(1))  # one image has no neighbours
    torch.testing.assert_close(alone.exp(), model(images(1)).softmax(1).detach())


def test_neighbours_outvote_an_image_in_doubt() -> None:
    prior = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55]], dtype=torch.float64)
    everyone = (1 - torch.eye(3)).double()
    assert laplacian_assignments(prior.log(), everyone).argmax(1).tolist() == [0, 0, 0]
