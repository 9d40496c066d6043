"""The names read off timm's source are those that timm itself lists; a wrong one is answered with near ones."""

import re
from collections.abc import Iterator

import pytest
import timm

from common.settings.models import refuse_unknown, timm_names


@pytest.fixture
def names_read_again() -> Iterator[None]:
    timm_names.cache_clear()
    yield
    timm_names.cache_clear()


def test_they_are_what_timm_lists() -> None:
    assert timm_names() == set(timm.list_models())
    assert len(timm_names()) > 1000


@pytest.mark.parametrize(
    "name", ["timm/resnet18", "timm/resnet18.a1_in1k", "timm/vit_base_patch16_224.a.b", "convnext_atto"]
)
def test_known_names_pass_with_and_without_a_tag(name: str) -> None:
    refuse_unknown(name)


def test_an_unknown_name_is_answered_with_near_ones_nearest_first() -> None:
    allowed = f"allowed: timm/NAME, one of the {len(timm_names()):,} names of timm"
    with pytest.raises(ValueError, match=f"^given timm/resnet181, {allowed}, nearest: timm/resnet18, timm/resnet18d, "):
        refuse_unknown("timm/resnet181")


def test_a_name_that_is_only_begun_is_answered_with_the_shortest_that_begin_so() -> None:
    with pytest.raises(ValueError, match=r"nearest: timm/swin_tiny_patch4_window7_224, ") as refusal:
        refuse_unknown("timm/swin_tiny.ms_in1k")
    near = str(refusal.value).partition("nearest: ")[2].split(", ")
    assert len(set(near)) == 5
    for name in near:
        refuse_unknown(name)
    with pytest.raises(ValueError, match=r"nearest: timm/convnext_atto, timm/convnext_base, "):
        refuse_unknown("timm/convnext")


def test_a_name_like_no_other_is_answered_without_near_ones() -> None:
    with pytest.raises(ValueError, match=r"^given timm/qqqqqqqqqqqqqqqqqq, allowed: [^:]*$"):
        refuse_unknown("timm/qqqqqqqqqqqqqqqqqq")


def test_a_part_of_a_name_is_no_name() -> None:
    for name in ("timm/", "timm/resnet", "timm/.a1_in1k", "timm/RESNET18"):
        with pytest.raises(ValueError, match=f"^given {re.escape(name)}, allowed"):
            refuse_unknown(name)


@pytest.mark.usefixtures("names_read_again")
def test_where_timm_is_not_installed_nothing_is_known_and_nothing_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login node may resolve a sweep without it; the compute node will tell."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert timm_names() == frozenset()
    refuse_unknown("timm/resnet181")
