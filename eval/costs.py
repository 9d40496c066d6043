"""What a network costs on this machine, measured on a fresh one: initial weights are as fast as trained ones."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from common.compute import Compute, place, seed_model
from common.models.zoo import build_model, measure_speed, model_facts
from common.settings.models import AnyModel

CALLS = 8  # of one image: about what it takes to measure the speed of a slow network


def costs_of(
    settings: AnyModel, like: Mapping[str, Any], compute: Compute, *, precision: str, budget_s: float
) -> dict[str, Any]:
    """Input, parameters, GFLOPs, speed; no speed (None) where measuring it would take longer than the budget."""
    seed_model(0, "weights")
    model = place(build_model(settings, like), compute).eval()
    shape = tuple(like["shape"])
    facts = model_facts(settings, model, shape)
    size = getattr(model, "size", shape[1:])  # of a network of timm, what it resizes images to
    costs = {"input": "x".join(map(str, size)), "parameters": facts["parameters"], "gflops": facts["flops"] / 1e9}

    on_gpu = compute.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(compute.device)
    began = time.perf_counter()
    with torch.no_grad(), compute.autocast(precision):
        model(torch.zeros(1, *shape, device=compute.device)).sum().item()  # the sum, so that a GPU is waited for
    affordable = (time.perf_counter() - began) * CALLS <= budget_s
    speed = measure_speed(model, shape, compute, precision) if affordable else {}
    costs |= {"latency_ms": speed.get("latency_ms"), "images_per_s": speed.get("images_per_sec")}
    return costs | ({"peak_memory_mb": compute.peak_memory_mb()} if on_gpu else {})
