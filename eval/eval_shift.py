"""Test a finished run under distribution shift: corrupted images, other sets, adaptation, averages over views.

python eval/eval_shift.py run=digits-adaptive_cnn-s0-<hash> shift=quick          # five corruptions, every adaptation
python eval/eval_shift.py run=HASH                                               # 15 corruptions, 5 severities
python eval/eval_shift.py run=HASH shift.sets=[cifar10_1_v6,cifar10_c] shift=adaptation

It is a run of its own: cells.csv has a row for each way of predicting on each set of images, figures/ the curves, and
result.json the averages. Nothing is chosen on these images: temperatures come from the run's validation.
"""

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from common.cli.attempt import Attempt, run_entry
from common.data.prepare import read_manifest
from common.failures import DataError, Interrupted, Refused, classify
from common.files import read_json
from common.run.finished import TrainedRun, open_run
from common.settings.entries import EvalShift

if TYPE_CHECKING:
    from eval.shift.robustness import Temperature

log = logging.getLogger("stillhouse")


def test(attempt: Attempt) -> dict[str, Any]:
    # Torch is loaded after the door: a refused or a finished run has answered by now.
    from common.compute import start
    from common.models.load import load_model
    from eval.shift.figures import draw
    from eval.shift.measure import ModelUnderTest, image_sets, place_of, unmeasured, ways
    from eval.shift.reliability import BinTable
    from eval.shift.summary import open_baseline, summary
    from eval.shift.table import MeasurementTable

    settings = attempt.settings
    assert isinstance(settings, EvalShift)
    trained = subject(attempt, settings)
    baseline = open_baseline(settings.shift, trained.data, attempt.root)

    with start(settings.compute) as compute:
        model = load_model(trained, compute)
        attempt.add_provenance(**compute.facts())

        # A temperature at the limit of the search says that validation cannot tell one: it is reported, not used.
        temperature = temperature_of(trained)
        validated = bool(trained.result.get("val"))
        warnings = ["no temperature: the run's predictions/val.npz is missing"] if validated and not temperature else []
        usable = temperature.value if temperature and not temperature.at_limit else None

        # Both tables are read from the run's folder, where an attempt that was stopped has left them.
        bins = BinTable(attempt.run.reliability)
        tested = ModelUnderTest(model, settings, trained, compute, usable, bins)
        listed = list(image_sets(settings, trained, attempt.data_folder.parent, compute))
        places = [place_of(image_set, way) for image_set in listed for way in ways(settings, image_set)]
        table = MeasurementTable(attempt.run.cells, places)

        # What was asked for and cannot be had is said before the work, and stays in the result.
        warnings += unmeasured(listed)
        for warning in warnings:
            log.warning("%s", warning)

        def between() -> None:
            attempt.run.beat(epoch=len(table.measurements), epochs=len(places))
            if attempt.stop_reason is not None:
                raise Interrupted(f"{attempt.stop_reason}; the same command goes on from here")

        began = time.perf_counter()
        for image_set in attempt.bar(listed, "shift", len(listed)):
            tested.measure(image_set, table, between)
        table.save()  # mends a file whose damage cost no measurement
        seconds = time.perf_counter() - began

    measurements = list(table.measurements.values())
    outcome = summary(measurements, settings.shift, trained.data, baseline)
    draw(attempt.run.figures, measurements, list(bins.rows.values()), outcome, trained.name)
    return {
        "subject": {"run": trained.name, "entry": trained.settings.entry, "digest": settings.run.digest},
        "model": trained.result["model"],
        "data": dict(trained.data),
        "temperature": vars(temperature) if temperature else None,
        "shift": outcome,
        "warnings": warnings,
        "cost": {"seconds": seconds},
    }


def subject(attempt: Attempt, settings: EvalShift) -> TrainedRun:
    """Open the run that is tested, and refuse one that cannot be on these images."""
    from eval.evaluation import differences

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise Refused([f"given {os.environ['WORLD_SIZE']} processes, allowed: one; cells are not shared out"])

    assert settings.run.run is not None  # the door refuses settings without a run
    trained = open_run(settings.run.run, attempt.root)
    if trained.data["task"] == "multi-label":
        raise Refused([f"run: {trained.name} has several labels for an image; allowed: one label each"])

    # Losses are measured from the clean images, which must be those of the run's own test.
    manifest = read_json(attempt.data_folder / "manifest.json")
    if manifest is None:
        raise Refused(
            [f"data: {trained.data['name']}, on which the run was trained, is not packed as {attempt.data_folder}"]
        )
    problems = differences(read_manifest(attempt.data_folder), trained.data, "test")
    if problems:
        raise Refused(problems)
    return trained


def temperature_of(trained: TrainedRun) -> "Temperature | None":
    """Fit the temperature to the run's answers for its validation images; None if it has left none."""
    from eval.shift.robustness import fit_temperature

    try:
        answers = trained.predictions("val")
        return fit_temperature(*answers) if answers else None
    except Exception as error:  # a damaged archive fails in a dozen ways
        if isinstance(error, OSError) and classify(error) != "bug":
            raise
        path = trained.run.predictions("val")
        raise DataError(f"{path} is damaged ({error}); mend it, or remove it to go on without a temperature") from error


def main(argv: list[str] | None = None) -> int:
    return run_entry(EvalShift, test, argv, script="eval/eval_shift.py", about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
