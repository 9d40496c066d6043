"""The page as its reader has it: opened from disk in a real browser. (After each test: no message, no request.)"""

import itertools
import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") or shutil.which("chromium-browser")), reason="chromium is not installed"
    ),
]

OpenPage = Callable[..., Any]
NARROW = {"width": 360, "height": 740}
THEMES = {"light": "rgb(251, 251, 250)", "dark": "rgb(21, 24, 27)"}  # colour of the ground
NO_STORAGE = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})"
CLIPBOARD = (
    "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.copied = text }}})"
)
NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"


def column(page: Any, table: str, heading: str) -> list[str]:
    """What a table shows in that column, from top to bottom, without what is filtered out."""
    heads = [text.strip() for text in page.locator(f"{table} thead th").all_inner_texts()]
    place = heads.index(heading) + 1
    return [
        cell.inner_text() for cell in page.locator(f"{table} tbody tr > :nth-child({place})").all() if cell.is_visible()
    ]


def heading(page: Any, table: str, name: str) -> Any:
    return page.locator(f"{table} thead").get_by_role("button", name=name, exact=True)


# --- tables -----------------------------------------------------------------------------------------------------


def test_numbers_sort_as_numbers_up_and_down_and_back(open_page: OpenPage) -> None:
    page = open_page()
    written = column(page, "#table-summary", "test accuracy")
    assert [text.partition(" ")[0] for text in written] == ["89.50", "99.00", "8.50"]
    button, head = (
        heading(page, "#table-summary", "test accuracy"),
        page.locator("#table-summary th:has-text('test accuracy')"),
    )
    button.click()
    assert column(page, "#table-summary", "test accuracy") == [written[2], written[0], written[1]]
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    assert column(page, "#table-summary", "test accuracy") == [written[1], written[0], written[2]]
    assert head.get_attribute("aria-sort") == "descending"
    button.click()
    assert column(page, "#table-summary", "test accuracy") == written
    assert head.get_attribute("aria-sort") is None


def test_sorting_goes_by_the_value_behind_what_is_printed(open_page: OpenPage) -> None:
    page = open_page()
    cells = page.locator("#table-comparisons tbody tr")
    cells.first.locator("td").nth(1).evaluate("cell => cell.textContent = 'anything'")
    heading(page, "#table-comparisons", "difference").click()
    values = [
        float(v)
        for v in page.locator("#table-comparisons tbody tr > td:nth-child(5)").evaluate_all(
            "all => all.map(c => c.dataset.value)"
        )
    ]
    assert values == sorted(values)
    assert len(set(values)) == 3


def test_the_keyboard_sorts_and_one_column_at_a_time(open_page: OpenPage) -> None:
    page = open_page()
    heading(page, "#table-summary", "n").click()
    heading(page, "#table-summary", "method").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    sorted_by = page.locator("#table-summary th[aria-sort]")
    assert sorted_by.all_inner_texts() == ["method"]
    assert sorted_by.get_attribute("aria-sort") == "descending"
    methods = column(page, "#table-summary", "method")
    assert [re.search(r"epochs=(\d+)", method)[1] for method in methods] == ["16", "8", "4"]


def test_runs_keep_their_command_when_they_are_sorted(open_page: OpenPage) -> None:
    page = open_page()
    heading(page, "#runs", "test accuracy").click()
    bodies = page.locator("#runs tbody")
    assert "recipe.epochs=16 seed=2" in bodies.first.inner_text()
    assert "recipe.epochs=8 seed=0" in bodies.last.inner_text()


def test_the_filter_leaves_what_has_all_its_words(open_page: OpenPage) -> None:
    page = open_page()
    everything = page.locator("main tbody tr:visible").count()
    page.get_by_label("Filter").fill("DIGITS epochs=8")
    assert [re.search(r"epochs=\d+", method)[0] for method in column(page, "#table-summary", "method")] == ["epochs=8"]
    assert page.locator("#runs tbody:visible").count() == 3
    assert re.fullmatch(r"\d+ of \d+ rows", page.get_by_role("status").inner_text())
    page.get_by_label("Filter").fill("nothing is called so")
    assert page.locator("main tbody tr:visible").count() == 0
    page.get_by_label("Filter").fill("")
    assert page.locator("main tbody tr:visible").count() == everything
    assert page.get_by_role("status").inner_text() == ""


def test_a_number_leads_to_its_runs_and_those_to_their_commands(open_page: OpenPage) -> None:
    page = open_page()
    row = page.locator("#table-summary tbody tr").nth(1)
    assert not row.locator("details a").first.is_visible()
    row.locator("td.n").nth(1).click()
    links = row.locator("details a")
    assert links.count() == 3
    name = links.nth(2).inner_text()
    links.nth(2).click()
    assert page.evaluate("location.hash") == f"#run-{name}"
    run = page.locator(f"#run-{name}")
    assert run.locator(".command").is_visible()
    assert "recipe.epochs=8 seed=2" in run.locator(".command").inner_text()
    heads, box = page.locator("#runs thead th").first.bounding_box(), run.bounding_box()
    assert heads["y"] + heads["height"] <= box["y"] < page.viewport_size["height"], "in sight, below the headings"
    assert run.evaluate("e => getComputedStyle(e).backgroundColor") != run.evaluate(
        "e => getComputedStyle(e.previousElementSibling).backgroundColor"
    )


def test_a_link_to_a_run_that_is_filtered_out_ends_the_filter(open_page: OpenPage) -> None:
    page = open_page()
    row = page.locator("#table-summary tbody tr").nth(0)
    row.locator("summary").click()
    page.get_by_label("Filter").fill("epochs=8")
    page.evaluate("link => { location.hash = link }", row.locator("details a").first.get_attribute("href"))
    page.wait_for_function("document.querySelector('tbody:target')?.hidden === false")
    assert page.get_by_label("Filter").input_value() == ""


def test_a_mark_leads_to_its_note(open_page: OpenPage) -> None:
    page = open_page()
    mark = page.locator("#table-summary td.marks a").first
    mark.click()
    assert "uncommitted changes" in page.locator("li:target").inner_text()


def test_commands_are_copied_or_marked(open_page: OpenPage) -> None:
    page = open_page([CLIPBOARD])
    first = page.locator("#runs tbody").first
    command = first.locator(".command").text_content()
    first.get_by_role("button", name="Copy").click()
    assert page.evaluate("window.copied") == command
    page = open_page([NO_CLIPBOARD])
    page.locator("#runs tbody").first.get_by_role("button", name="Copy").click()
    assert page.evaluate("getSelection().toString()") == command


# --- figures ----------------------------------------------------------------------------------------------------


def test_figures_are_enlarged_by_click_or_key_and_closed_by_escape(open_page: OpenPage) -> None:
    page = open_page()
    link, dialog = page.locator("figure a.picture").first, page.locator("dialog")
    assert not dialog.is_visible()
    link.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    assert dialog.locator("img").evaluate("image => image.complete && image.naturalWidth > 100")
    assert dialog.locator("p").inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert link.evaluate("link => link === document.activeElement")
    link.click()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_every_figure_is_shown_and_named(open_page: OpenPage) -> None:
    page = open_page()
    images = page.locator("figure img")
    assert images.count() == page.locator("figure").count() > 2
    for image in images.all():
        image.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete", arg=image.element_handle())
        assert image.evaluate("image => image.naturalWidth") > 100
        assert image.get_attribute("alt")


# --- themes -----------------------------------------------------------------------------------------------------


def ground(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("theme", THEMES)
def test_the_theme_is_the_systems_until_the_button_says_otherwise(open_page: OpenPage, theme: str) -> None:
    (other,) = THEMES.keys() - {theme}
    page = open_page(color_scheme=theme)
    button = page.get_by_role("button", name="Dark")
    assert (ground(page), button.get_attribute("aria-pressed")) == (THEMES[theme], str(theme == "dark").lower())
    button.click()
    assert (ground(page), button.get_attribute("aria-pressed")) == (THEMES[other], str(other == "dark").lower())
    page.reload()
    assert ground(page) == THEMES[other], "it is remembered"


def test_without_storage_the_button_works_and_nothing_is_said(open_page: OpenPage) -> None:
    page = open_page([NO_STORAGE], color_scheme="light")
    page.get_by_role("button", name="Dark").click()
    assert ground(page) == THEMES["dark"]
    page.reload()
    assert ground(page) == THEMES["light"]


COLOURS = """() => [...document.querySelectorAll("body *")]
  .filter((element) => element.checkVisibility())
  .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
  .map((element) => {
    let under = element;
    while (under && /^rgba\\(.*, 0\\)$/.test(getComputedStyle(under).backgroundColor)) under = under.parentElement;
    return [element.textContent.slice(0, 30), getComputedStyle(element).color, getComputedStyle(under).backgroundColor];
  })"""


@pytest.mark.parametrize("theme", THEMES)
def test_all_text_has_contrast_enough(open_page: OpenPage, theme: str) -> None:
    """4.5 to 1 (WCAG 2, AA); of the words only, for the bar of states says them too."""
    page = open_page(color_scheme=theme)
    page.locator("#table-summary summary").first.click()
    page.locator("#table-summary details a").first.click()
    found = page.evaluate(COLOURS)
    assert len(found) > 100
    faint = [each for each in found if contrast(each[1], each[2]) < 4.5]
    assert faint == []


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_of_known_pairs() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.005)


# --- other readers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("viewport", [NARROW, {"width": 1440, "height": 900}])
def test_tables_scroll_and_the_page_does_not(open_page: OpenPage, viewport: dict[str, int]) -> None:
    page = open_page(viewport=viewport)
    for details in page.locator("#table-comparisons summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    boxes = page.locator(".box").evaluate_all(
        "all => all.map((box) => [box.scrollWidth - box.clientWidth, box.getBoundingClientRect().right])"
    )
    assert all(right <= viewport["width"] for _, right in boxes)
    assert viewport != NARROW or any(wider > 0 for wider, _ in boxes)


def test_headings_stay_above_their_columns(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 1000, "height": 300})
    box = page.locator("#runs .box")
    box.scroll_into_view_if_needed()
    page.wait_for_function(  # it is laid out in the frame after it has come into view
        "() => { const box = document.querySelector('#runs .box'); box.scrollTop = 400; return box.scrollTop > 100 }"
    )
    tops = box.evaluate("box => [box.getBoundingClientRect().top, box.querySelector('th').getBoundingClientRect().top]")
    assert tops[1] == pytest.approx(tops[0], abs=2)


def test_without_scripts_everything_is_there(open_page: OpenPage) -> None:
    page = open_page(java_script_enabled=False)
    assert page.locator("tbody tr").count() == page.locator("tbody tr:visible").count() > 20
    assert page.locator("figure img").count() > 2
    assert page.locator("#runs .command:visible").count() == 9
    assert page.locator("button:visible, input:visible").count() == 0, "what would do nothing"
    row = page.locator("#table-summary tbody tr").first
    row.locator("summary").click()
    assert row.locator("details a").first.is_visible()


def test_nothing_of_a_run_folder_runs(open_page: OpenPage) -> None:
    page = open_page()
    assert page.evaluate("window.attacked") is None
    assert page.locator("main script, main img[onerror]").count() == 0
    assert "<script>window.attacked = true</script>" in page.locator("#table-summary tbody th").nth(1).inner_text()
    assert "<script>window.attacked" in page.locator("#table-unfinished").inner_text()


LATER = """() => {
  const script = document.createElement("script");
  script.textContent = "window.attacked = true";
  document.body.append(script);
}"""


def test_what_is_written_into_the_page_later_does_not_run_either(browser: Any, folder: Any) -> None:
    """The policy, by itself: it is watched here, so this page may speak."""
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    page.evaluate(LATER)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.attacked = true\">')")
    page.wait_for_timeout(100)
    assert page.evaluate("window.attacked") is None
    page.close()


def test_on_paper_nothing_is_cut_off(open_page: OpenPage) -> None:
    page = open_page(color_scheme="dark", viewport={"width": 1030, "height": 700})  # A4 across, less its margins
    page.emulate_media(media="print")
    tables = page.locator(".box").evaluate_all("all => all.map((box) => [box.scrollWidth, box.clientWidth])")
    assert all(wanted <= given for wanted, given in tables)
    assert page.locator(".box").evaluate_all("all => all.every((box) => getComputedStyle(box).maxHeight === 'none')")
    assert not page.locator("nav").is_visible()
    assert ground(page) == THEMES["light"]


def test_what_a_screen_reader_is_told(open_page: OpenPage) -> None:
    page = open_page()
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map((each) => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    for landmark in ("banner", "navigation", "main", "contentinfo", "search"):
        assert page.get_by_role(landmark).count() == 1, landmark
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "To the content"
    assert skip.bounding_box()["x"] >= 0
    assert page.get_by_role("img", name=re.compile("Of 11 cells: 9 done, 1 waiting, 1 failed")).count() == 1
