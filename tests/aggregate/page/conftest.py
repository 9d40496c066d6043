"""A report with all that a page can hold, hostile names and messages among it, and a browser to read it in."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aggregate.report import all_tables, write_report
from aggregate.runs.cells import AskedRun
from aggregate.runs.collect import collect
from aggregate.runs.material import Material
from aggregate.runs.methods import group

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (  # nothing of the browser's own reaches for the network
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
ATTACK = "<script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"
ACCURACIES = {4: 0.905, 8: 1.0, 16: 0.095}  # by epochs; as text, 100.00 comes before 9.50 and that before 90.50
SEEDS = 3
WriteRun = Callable[..., Path]


@pytest.fixture(scope="session")
def folder(write_a_run: WriteRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a report of three methods of three seeds each, one of which failed with a hostile message."""
    root = tmp_path_factory.mktemp("runs")
    cells = list(_cells(write_a_run, root))
    runs, left = collect(cell.run for cell in cells if cell.run and cell.state == "done")
    material = Material("hostile & small", "sweep <b>", runs, left, cells)
    methods = group(runs, cells)
    out = tmp_path_factory.mktemp("report")
    write_report(out, material, methods, all_tables(methods, material))
    return out


def _cells(write_a_run: WriteRun, root: Path) -> Iterator[AskedRun]:
    for epochs, accuracy in ACCURACIES.items():
        for seed in range(SEEDS):
            scores = {"n": 360, "accuracy": max(0.0, accuracy - seed / 100), "nll": 0.1}
            run = write_a_run(
                root, seed=seed, dirty=epochs == 4, accuracy=accuracy, recipe={"epochs": epochs}, parts={"test": scores}
            )
            origin = json.loads((run / "provenance.json").read_text())
            command = f"python train/train_cnn.py recipe.epochs={epochs} seed={seed} # {ATTACK}"
            (run / "provenance.json").write_text(json.dumps({**origin, "command": command}))
            yield AskedRun(f"cnn{ATTACK}", (("recipe.epochs", epochs),), seed, run, "done")
    yield AskedRun(f"cnn{ATTACK}", (("recipe.epochs", 4),), 3, root / "train_cnn" / "lost", "failed", f"(oom) {ATTACK}")
    yield AskedRun(f"cnn{ATTACK}", (("recipe.epochs", 4),), 4, None, "waiting")


# --- browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@dataclass
class Watched:
    """What a page said and asked for."""

    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, folder: Path) -> Iterator[OpenPage]:
    """Open the report, in a context of these options; at the end it must have been quiet and asked for nothing."""
    watched, contexts = Watched(), []
    address = (folder / "report.html").as_uri()

    def open_it(scripts: Sequence[str] = (), **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        for script in scripts:
            context.add_init_script(script)
        page = context.new_page()
        watched.watch(page)
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert watched.said == []
    elsewhere = [url for url in watched.asked if url != address and not url.startswith("data:")]
    assert elsewhere == []
    assert address in watched.asked, "or nobody watched"
