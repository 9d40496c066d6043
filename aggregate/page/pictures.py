"""This module puts the figures into the page, as many as leave it small enough to be sent by mail."""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from aggregate.figures.album import FOLDER
from aggregate.figures.style import Picture

MOST_BYTES = 3_000_000  # of the page, that figures may take
PNG_SIZE = slice(16, 24)  # width and height, four bytes each, of every PNG


def figures_section(folder: Path, pictures: Sequence[Picture], most: int = MOST_BYTES) -> str:
    """Write the figures that the report's folder has; those that exceed `most` bytes are links to their files."""
    if not pictures:
        return ""
    figures = "".join(_figures(folder, pictures, most))
    return (
        '<section id="figures" aria-labelledby="title-figures">\n<h2 id="title-figures">Figures</h2>\n'
        f"<div class=figures>\n{figures}</div></section>\n"
    )


def _figures(folder: Path, pictures: Sequence[Picture], most: int) -> Iterator[str]:
    left = most
    for picture in pictures:
        png = (folder / FOLDER / f"{picture.name}.png").read_bytes()
        figure = _figure(picture, _image(picture, png))
        if len(figure) > left:
            yield _figure(picture, "This figure is not in the page, which would grow too large; it lies beside it.")
            continue
        left -= len(figure)
        yield figure


def _figure(picture: Picture, content: str) -> str:
    address = quote(f"{FOLDER}/{picture.name}")
    return (
        f'<figure id="figure-{escape(picture.name)}">\n<h3>{escape(picture.title)}</h3>\n'
        f'<a class="picture" href="{address}.png">{content}</a>\n'
        f'<figcaption>{escape(picture.caption)} <a href="{address}.svg">SVG</a></figcaption>\n</figure>\n'
    )


def _image(picture: Picture, png: bytes) -> str:
    """Write a picture with its size, so that nothing moves when it is shown."""
    width, height = (int.from_bytes(part) for part in (png[PNG_SIZE][:4], png[PNG_SIZE][4:]))
    return (
        f'<img alt="{escape(picture.title)}" width="{width}" height="{height}" loading="lazy" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )
