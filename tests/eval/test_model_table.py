"""The table of costs: what stands in it, and what is refused."""

import csv
from pathlib import Path

import pytest

from common.models.zoo import MODELS
from common.settings.models import ViTSettings
from eval.model_table import ZOO, main

QUICK = "models=adaptive_cnn,vit,timm/test_resnet shape=1,8,8 classes=3 compute.threads=1".split()


def test_the_table_is_markdown_on_stdout_and_progress_is_beside_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*QUICK, f"out={tmp_path / 'costs.md'}"]) == 0
    printed = capsys.readouterr()
    caption, _, heading, rules, *rows = printed.out.splitlines()
    assert caption.startswith("Images of 1x8x8, 3 classes; fp32 on CPU, threads: 1, torch ")
    assert heading == "| model | input | parameters | GFLOPs | latency (ms) | images/s |"
    assert rules == "| --- | --- | ---: | ---: | ---: | ---: |"
    assert [row.split(" | ")[0] for row in rows] == ["| adaptive_cnn", "| vit", "| timm/test_resnet"]
    assert [row.split(" | ")[1] for row in rows] == ["8x8", "8x8", "160x160"]
    assert all(row.count("|") == heading.count("|") for row in rows)
    assert "–" not in "".join(rows)
    assert printed.err.splitlines() == [
        f"{each} ({i} of 3)" for i, each in enumerate(("adaptive_cnn", "vit", "timm/test_resnet"), 1)
    ]
    assert (tmp_path / "costs.md").read_text() == printed.out


def test_the_numbers_as_csv_and_none_over_the_budget(tmp_path: Path) -> None:
    out = tmp_path / "costs.csv"
    assert main([*QUICK, f"out={out}", "budget_s=1e-9"]) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["model"] for row in rows] == ["adaptive_cnn", "vit", "timm/test_resnet"]
    # 8x8 grey digits of 10 classes have 172,874 parameters; 7 classes fewer are 7 x (32 weights and a bias) fewer.
    assert int(rows[0]["parameters"]) == 172_874 - 7 * (32 + 1)
    assert all(float(row["gflops"]) > 0 and row["latency_ms"] == row["images_per_s"] == "" for row in rows)


def test_the_shape_of_a_packed_set(digits_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "costs.csv"
    assert (
        main(["data=digits", f"data_dir={digits_dir}", "models=adaptive_cnn", f"out={out}", "compute.threads=1"]) == 0
    )
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert (row["input"], row["parameters"]) == ("8x8", "172874")


def test_every_network_of_the_zoo_is_in_the_table() -> None:
    assert {*ZOO, "timm"} == set(MODELS)
    assert ViTSettings().name in ZOO


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "models=resnet81,adaptiv_cnn",
            ["models: given resnet81, allowed: adaptive_cnn,", "models: given adaptiv_cnn, al"],
        ),
        ("models=timm/resnet81", ["models: given timm/resnet81, allowed: timm/NAME, one of the "]),
        ("shape=3,32", ["shape: given 3,32, allowed: channels,height,width"]),
        ("out=costs.xlsx", ["out: given costs.xlsx, allowed: a name that ends in .md or .csv"]),
        ("data=nothing", ["data: nothing is not prepared under data; allowed: shape= and classes="]),
        ("data=digits classes=3", ["classes: given with data=digits, allowed: one of them"]),
        ("models=vit shape=1,67,67", ["model: vit: given images of 67x67, which no patch divides"]),
    ],
)
def test_what_is_refused(words: str, says: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if ":" in line]
    assert len(lines) == len(says)
    assert all(line.startswith(text) for line, text in zip(lines, says, strict=True))
