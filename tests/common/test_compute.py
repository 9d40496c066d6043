import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.compute import Compute, Draws, SharedBatchNorm2d, distribute, place, seed_model, start
from common.failures import Refused
from common.settings.entries import ComputeSettings

CPU = Compute(torch.device("cpu"), ComputeSettings())


def test_draws_are_a_function_of_their_counters_alone() -> None:
    one, two = (Draws(5, "augment", 2, 3, total=6) for _ in range(2))
    for other in (
        Draws(6, "augment", 2, 3, total=6),
        Draws(5, "mix", 2, 3, total=6),
        Draws(5, "augment", 3, 2, total=6),
    ):
        assert not torch.equal(other.uniform(), Draws(5, "augment", 2, 3, total=6).uniform())
    for draw in ("uniform", "permutation"):
        assert torch.equal(getattr(one, draw)(), getattr(two, draw)())
    assert torch.equal(one.beta(0.3), two.beta(0.3))
    assert torch.equal(one.integers(9, (2,)), two.integers(9, (2,)))


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 99))
def test_rows_are_rows_of_the_whole_draw(low: int, high: int, seed: int) -> None:
    rows = slice(min(low, high), max(low, high))
    whole, part = Draws(seed, "mix", 0, 0, total=8), Draws(seed, "mix", 0, 0, total=8, rows=rows)
    assert torch.equal(whole.uniform(shape=(3,))[rows], part.uniform(shape=(3,)))
    assert torch.equal(whole.beta(0.8)[rows], part.beta(0.8))
    assert torch.equal(whole.integers(5)[rows], part.integers(5))


def test_draws_have_the_distributions_they_are_named_for() -> None:
    draws = Draws(0, "augment", 0, 0, total=20_000)
    uniform, integers, beta = draws.uniform(-1, 3), draws.integers(4), draws.beta(0.5)
    assert uniform.min() >= -1
    assert uniform.max() <= 3
    assert abs(uniform.mean() - 1) < 0.04
    assert np.bincount(integers.numpy()).tolist() == pytest.approx([5000] * 4, rel=0.06)
    assert beta.mean() == pytest.approx(0.5, abs=0.01)
    assert beta.var() == pytest.approx(0.125, abs=0.005)  # ab / ((a+b)^2 (a+b+1)) with a = b = 1/2


def test_model_draws_differ_by_step_and_rank_and_repeat() -> None:
    def drawn(*counters: int) -> float:
        seed_model(1, "model", *counters)
        return torch.rand(1).item()

    assert drawn(0, 1, 0) == drawn(0, 1, 0)
    assert len({drawn(0, 1, 0), drawn(0, 2, 0), drawn(1, 1, 0), drawn(0, 1, 1)}) == 4


@given(st.integers(0, 50), st.integers(1, 8))
def test_shares_cover_everything_once_in_order(total: int, world: int) -> None:
    shares = [Compute(CPU.device, CPU.settings, rank, world).share(total) for rank in range(world)]
    assert [row for share in shares for row in range(total)[share]] == [*range(total)]


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(
            Refused, match=r"compute.device: given cuda:99, but torch finds \d GPUs here; allowed: auto, cpu"
        ),
        start(ComputeSettings(device="cuda:99")),
    ):
        pytest.fail("started")


def test_shared_batchnorm_alone_is_batchnorm(tmp_path) -> None:
    """One process of one: the same output, gradient and running statistics as torch's own."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        ours, theirs = SharedBatchNorm2d(3), nn.BatchNorm2d(3)
        for _ in range(3):
            x = torch.randn(4, 3, 5, 5) * 3 + 7
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            one, two = ours(a), theirs(b)
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
            one.square().sum().backward()
            two.square().sum().backward()
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_keeps_its_batchnorms_in_one_process() -> None:
    assert type(place(nn.Sequential(nn.BatchNorm2d(2)), CPU)[0]) is nn.BatchNorm2d  # type: ignore[index]


def test_without_a_c_compiler_the_model_runs_as_it_is_and_says_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/c++",))
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).train()
    compiling = Compute(CPU.device, ComputeSettings(compile=True))
    with caplog.at_level(logging.WARNING, "stillhouse"):
        running = distribute(model, compiling, torch.zeros(2, 3))
    assert running is model
    assert model.training
    assert "compute.compile is off: " in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_do_not_depend_on_the_device() -> None:
    assert Draws(0, "augment", 0, 0, total=4).uniform().device.type == "cpu"
