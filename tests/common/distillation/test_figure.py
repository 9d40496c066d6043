"""The figure of a student: numbers drawn are numbers given, and no failure to draw costs the run."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from common.distillation.figure import MOST_MARKERS, distillation, draw_distillation
from common.run.run_dir import RunDir

AGREEMENT = {
    "teacher_accuracy": 0.75,
    "all": 0.5,
    "where_teacher_right": 0.6,
    "where_teacher_wrong": 0.2,
    "decisions": 2000,
    "teacher_wrong": 500,
}
ANSWERS = [
    {"epoch": "1", "label_loss": "2.5", "kd_loss": "0.75", "alpha": "0.1"},
    {"epoch": "2", "label_loss": "1.5", "kd_loss": "0.5", "alpha": "0.6"},
]
TOKENS = [
    {"epoch": "1", "label_loss": "2", "token_loss": "1", "relation_loss": "3", "kd_loss": "9"}
    | {"token_deviation": "0.5", "token_directions": "7"}
]


def courses(axes: Axes) -> dict[str, list[list[float]]]:
    return {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}


def legend_of(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_distillation_by_answers_have_their_share_beside_them() -> None:
    left, middle, beside = distillation(ANSWERS, AGREEMENT, "t").axes
    assert courses(left) == {"label_loss": [[1, 2.5], [2, 1.5]], "kd_loss": [[1, 0.75], [2, 0.5]]}
    assert courses(beside) == {"alpha": [[1, 0.1], [2, 0.6]]}
    assert legend_of(left) == ["label_loss", "kd_loss", "alpha"]
    assert not legend_of(beside)
    assert beside.get_ylim()[0] == left.get_ylim()[0] == 0
    assert len(middle.patches) == 3


def test_distillation_by_tokens_have_each_term_and_the_signs_of_collapse() -> None:
    left, _, right, beside = distillation(TOKENS, AGREEMENT, "t").axes
    assert courses(left) == {"label_loss": [[1, 2]], "token_loss": [[1, 1]], "relation_loss": [[1, 3]]}
    assert courses(right) == {"token_deviation": [[1, 0.5]]}
    assert courses(beside) == {"token_directions": [[1, 7]]}


def test_courses_of_one_panel_differ_by_colour_dash_and_marker() -> None:
    left, _, beside, *_ = distillation([row | TOKENS[0] for row in ANSWERS], None, "t").axes
    lines = [*left.lines, *beside.lines]
    assert [line.get_label() for line in lines] == ["label_loss", "token_loss", "relation_loss", "alpha"]
    for trait in ("get_color", "get_linestyle", "get_marker"):
        assert len({getattr(line, trait)() for line in lines}) == 4, trait


def test_bars_are_the_agreement_in_percent_of_so_many_decisions() -> None:
    figure = distillation(ANSWERS, AGREEMENT, "t")
    middle = figure.axes[1]
    assert [bar.get_height() for bar in middle.patches] == pytest.approx([50, 60, 20])
    labels = [label.get_text() for label in middle.get_xticklabels()]
    assert labels == ["all\n(2,000)", "teacher right\n(1,500)", "teacher wrong\n(500)"]
    assert [text.get_text() for text in middle.texts] == ["50.0 %", "60.0 %", "20.0 %"]
    assert figure.get_suptitle() == "t\nn = 2,000 decisions on validation; epochs: 2"


def test_a_teacher_that_is_never_wrong_is_not_agreed_with_at_zero_percent() -> None:
    perfect: dict[str, Any] = AGREEMENT | {"where_teacher_wrong": None, "teacher_wrong": 0}
    middle = distillation(ANSWERS, perfect, "t").axes[1]
    assert [text.get_text() for text in middle.texts] == ["50.0 %", "60.0 %", "none"]


def test_without_agreement_the_figure_says_so() -> None:
    figure = distillation(TOKENS, None, "t")
    assert len(figure.axes) == 3
    assert "agreement not measured" in figure.get_suptitle()


@pytest.mark.parametrize("epochs", [1, 12, 13, 300])
def test_long_courses_are_not_hidden_under_their_markers(epochs: int) -> None:
    history = [ANSWERS[0] | {"epoch": str(epoch)} for epoch in range(1, epochs + 1)]
    (every,) = {line.get_markevery() for line in distillation(history, None, "t").axes[0].lines}
    assert 1 <= len([*range(epochs)][::every]) <= MOST_MARKERS


def test_the_figure_lands_in_the_run_folder(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "digits-vit-s0-0f3a")
    run.path.mkdir()
    run.write_history(ANSWERS)
    draw_distillation(run, AGREEMENT)
    assert [path.name for path in run.figures.iterdir()] == ["distillation.png"]


@pytest.mark.parametrize("rows", [[], [{"epoch": 1, "label_loss": "", "kd_loss": ""}]])
def test_a_failure_to_draw_is_a_warning(
    rows: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path)
    run.write_history(rows)
    with caplog.at_level(logging.WARNING, "stillhouse"):
        draw_distillation(run, AGREEMENT)
    assert "distillation.png could not be drawn: " in caplog.text
    assert not run.figures.exists()
