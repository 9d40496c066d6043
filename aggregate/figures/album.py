"""This module draws all figures of a report and saves them as PNG and SVG; a method looks the same in all of them."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from aggregate.figures.answers import reliability_diagrams, roc_diagrams
from aggregate.figures.classes import confusions, heat_maps
from aggregate.figures.curves import corruption_curves, learning_curves, severity_curves
from aggregate.figures.embedded import embedding_planes
from aggregate.figures.points import adaptation_gains, cost_plots, forests
from aggregate.figures.shift import shift_lines
from aggregate.figures.style import Picture, styles
from aggregate.runs.methods import Method
from aggregate.tables.table import Table, markdown_text
from common.figures.predictions import save

FOLDER = "figures"
ENDINGS = ("png", "svg")


def all_figures(methods: Sequence[Method], tables: Sequence[Table]) -> list[Picture]:
    # Colours are given out once for all figures, or a method would change its own from one to the next.
    looks = styles((method.data, method.label) for method in methods)

    return [
        *learning_curves(methods, looks),
        *cost_plots(methods, looks),
        *forests(tables, methods, looks),
        *severity_curves(methods, looks),
        *corruption_curves(methods, looks),
        *shift_lines(methods, looks),
        *adaptation_gains(tables, looks),
        *heat_maps(methods),
        *confusions(methods),
        *reliability_diagrams(methods, looks),
        *roc_diagrams(methods),
        *embedding_planes(methods),
    ]


def write_figures(folder: Path, pictures: Sequence[Picture]) -> None:
    place = folder / FOLDER
    if pictures:
        place.mkdir(exist_ok=True)
    for picture in pictures:
        for ending in ENDINGS:
            save(picture.figure, place / f"{picture.name}.{ending}", with_palette=True)


def links(pictures: Sequence[Picture]) -> str:
    """Return Markdown that shows the figures as PNG; the SVG of the same name lies beside it."""
    parts = []
    for picture in pictures:
        title, caption = markdown_text(picture.title), markdown_text(picture.caption)
        parts.append(f"### {title}\n\n![{title}]({quote(f'{FOLDER}/{picture.name}')}.png)\n\n{caption}\n")
    return "\n".join(parts)
