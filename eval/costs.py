"""The costs of networks are measured on this machine and put into a table.

Networks are measured fresh: initial weights are as fast as trained ones.
"""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.compute import Compute, place, seed_model
from common.models.zoo import build_model, measure_speed, model_facts
from common.settings.models import AnyModel

CALLS = 8  # of one image: about what it takes to measure the speed of a slow network
COLUMNS = {  # heading and form
    "model": ("model", "{}"),
    "input": ("input", "{}"),
    "parameters": ("parameters", "{:,}"),
    "gflops": ("GFLOPs", "{:.3f}"),
    "latency_ms": ("latency (ms)", "{:.1f}"),
    "images_per_s": ("images/s", "{:,.1f}"),
    "peak_memory_mb": ("peak memory (MiB)", "{:,.0f}"),
}


def costs_of(
    settings: AnyModel, like: Mapping[str, Any], compute: Compute, *, precision: str, budget_s: float
) -> dict[str, Any]:
    """Return input, parameters, GFLOPs and speed; no speed (None) if measuring it would take longer than the budget."""
    seed_model(0, "weights")
    model = place(build_model(settings, like), compute).eval()
    shape = tuple(like["shape"])
    facts = model_facts(settings, model, shape)
    size = getattr(model, "size", shape[1:])  # of a network of timm, what it resizes images to
    costs = {"input": "x".join(map(str, size)), "parameters": facts["parameters"], "gflops": facts["flops"] / 1e9}

    on_gpu = compute.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(compute.device)

    # One call tells whether measuring is affordable: for a large network on a CPU it would take minutes.
    began = time.perf_counter()
    with torch.no_grad(), compute.autocast(precision):
        model(torch.zeros(1, *shape, device=compute.device)).sum().item()  # the sum, so that a GPU is waited for
    affordable = (time.perf_counter() - began) * CALLS <= budget_s

    speed = measure_speed(model, shape, compute, precision) if affordable else {}
    costs |= {"latency_ms": speed.get("latency_ms"), "images_per_s": speed.get("images_per_sec")}
    return costs | ({"peak_memory_mb": compute.peak_memory_mb()} if on_gpu else {})


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [column for column in COLUMNS if column in rows[0]]
    cells = [[_cell(row, column) for column in columns] for row in rows]
    rules = ["---" if column in {"model", "input"} else "---:" for column in columns]
    lines = [[COLUMNS[column][0] for column in columns], rules, *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Mapping[str, Any], column: str) -> str:
    return "–" if row[column] is None else COLUMNS[column][1].format(row[column])


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
