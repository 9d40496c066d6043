"""The settings of eval/eval_shift.py say which run is tested under distribution shift, and on what."""

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from pydantic import field_validator

from common.settings import messages
from common.settings.field import Group, setting

# The names alone, so that a login node can check them without torch; tests hold them against what eval/ can do.
CORRUPTION_FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),  # the paper's, outside its averages
    "further": (),  # not the paper's: a corruption of one's own goes here, and CIFAR-10-C has none of it
}
EXTRA_CORRUPTIONS = CORRUPTION_FAMILIES["extra"]
AVERAGED_FAMILIES = {name: CORRUPTION_FAMILIES[name] for name in ("noise", "blur", "weather", "digital")}
COMMON_CORRUPTIONS = tuple(name for family in AVERAGED_FAMILIES.values() for name in family)
PUBLISHED_CORRUPTIONS = (*COMMON_CORRUPTIONS, *EXTRA_CORRUPTIONS)  # the parts of CIFAR-10-C, in its order
ALL_CORRUPTIONS = (*PUBLISHED_CORRUPTIONS, *CORRUPTION_FAMILIES["further"])
SEVERITIES = 5
ADAPTATIONS = ("source", "bn_stats", "adabn", "tent", "t3a", "lame")
VIEWS = ("flip", "translate", "flip_translate", "multi_crop", "shift", "flip_shift")
OWN_TEST_IMAGES = "test"  # where a packed set would be named

T = TypeVar("T", int, str)


def _some_of(options: Sequence[T]) -> str:
    """Say what a list of some of these looks like."""
    first, second = options[:2]
    return f"a list such as [{first}, {second}], of {', '.join(map(str, options))}"


class SubjectSettings(Group):
    """run=RUN names the finished run that is tested."""

    run: str | None = setting(None, "finished run: its folder, name or hash", identity=False)
    digest: str | None = setting(None, "fingerprint of that run's weights, filled in")


class ShiftSettings(Group):
    """The run is tested on its own test images, on corruptions of them, and on further sets; it may adapt to them."""

    corruptions: list[str] = setting(
        list(COMMON_CORRUPTIONS), "corruptions of the run's own test images", form=_some_of(ALL_CORRUPTIONS)
    )
    severities: list[int] = setting(
        [1, 2, 3, 4, 5], "how strong each of them is", form=_some_of(range(1, SEVERITIES + 1))
    )
    sets: list[str] = setting([], "packed sets with images of the same classes or some of them: cifar10_1_v6, your own")
    digests: dict[str, str] = setting({}, "fingerprints of those sets, filled in")
    adaptations: list[str] = setting(
        ["source"], "how the model adapts to the images it is shown; source: not at all", form=_some_of(ADAPTATIONS)
    )
    adapt_at: list[int] = setting(
        [5], "severities at which adaptations other than source are tried", form=_some_of(range(1, SEVERITIES + 1))
    )
    batch_sizes: list[int] = setting([200], "images that an adaptation sees at a time; each size is tried")
    protocol: Literal["continual", "episodic"] = setting(
        "continual", "whether an adaptation goes on over all images of a corruption, or starts anew with each batch"
    )
    views: list[str] = setting(
        [], "views of each image whose probabilities are averaged, tried without corruption", form=_some_of(VIEWS)
    )
    baseline: str | None = setting(
        None, "finished eval_shift run whose errors the mean corruption error is relative to", identity=False
    )
    baseline_digest: str | None = setting(None, "fingerprint of its result, filled in")

    @field_validator("corruptions")
    @classmethod
    def corruptions_are_known(cls, names: list[str]) -> list[str]:
        return _known(names, ALL_CORRUPTIONS)

    @field_validator("adaptations")
    @classmethod
    def adaptations_are_known(cls, names: list[str]) -> list[str]:
        return _known(names, ADAPTATIONS, at_least_one=True)

    @field_validator("views")
    @classmethod
    def views_are_known(cls, names: list[str]) -> list[str]:
        return _known(names, VIEWS)

    @field_validator("severities", "adapt_at")
    @classmethod
    def severities_are_known(cls, severities: list[int]) -> list[int]:
        return _known(severities, range(1, SEVERITIES + 1))

    @field_validator("batch_sizes")
    @classmethod
    def batches_hold_images(cls, sizes: list[int]) -> list[int]:
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ValueError(f"given {messages.shown(sizes)}, allowed: sizes of at least 1, each once")
        return sizes

    @field_validator("sets")
    @classmethod
    def sets_are_there_once(cls, names: list[str]) -> list[str]:
        if OWN_TEST_IMAGES in names:
            raise ValueError(f"given {OWN_TEST_IMAGES}, allowed: other names, as this means the run's own test images")
        return _known(names, names)


def _known(values: list[T], allowed: Iterable[T], *, at_least_one: bool = False) -> list[T]:
    """Return the values if each is allowed and there once; else raise a ValueError that lists the options."""
    allowed = list(allowed)
    for value in values:
        if value not in allowed:
            options = ", ".join(map(str, allowed))
            raise ValueError(f"given {value}, allowed: {options}{messages.nearest(str(value), map(str, allowed))}")
    if len(set(values)) < len(values):
        raise ValueError(f"given {messages.shown(values)}, allowed: each once")
    if at_least_one and not values:
        raise ValueError(f"given [], allowed: some of {', '.join(map(str, allowed))}")
    return values
