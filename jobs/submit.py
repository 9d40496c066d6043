"""Run a sweep: on this machine, or as SLURM jobs. The same command again goes on with what is not finished.

    python jobs/submit.py sweep=quickstart                                on this machine, where there is no SLURM
    python jobs/submit.py sweep=cifar_all cluster=a100                    as arrays, with slurm/profiles/a100.yaml
    python jobs/submit.py sweep=cifar_all dry_run=true                    the plan, the scripts, the expected hours
    python jobs/submit.py sweep=cifar_all prepare=true                    download and pack its data sets first
    python jobs/submit.py sweep=cifar_all seeds=0-9 only=cnn,deit data=cifar10 recipe.epochs=2
    python jobs/submit.py sweep=cifar_all deit.distill.alpha=0.5          a setting of one stage

Other words are settings: each stage that has one takes it.
"""

import itertools
import os
import sys
from collections.abc import Sequence

from common.cli.command import DONE, FAILED, answer
from common.failures import Refused
from jobs.engines.profiles import LOCAL, open_profile
from jobs.planning.request import Asked, SubmitWords, read_sweep
from jobs.planning.weights import missing_weights
from jobs.start import carry_on


def main(argv: list[str] | None = None) -> int:
    return answer(_submit, argv, script="jobs/submit.py", about=__doc__, models=[SubmitWords])


def _submit(argv: list[str]) -> int:
    problems = _cluster_refused(argv)
    try:
        asked = read_sweep(argv)
    except Refused as refused:
        raise Refused([*refused.problems, *problems]) from None
    if problems:
        raise Refused(problems)
    if asked.words.prepare and not asked.words.dry_run:
        if not _prepared(asked):
            return FAILED
        asked = read_sweep(argv)  # runs that test on these sets have their fingerprints in their names
    return carry_on(asked)


def _prepared(asked: Asked) -> bool:
    """Prepare the sets and fetch the weights that the sweep lacks; False after one that could not be had."""
    from jobs import prepare

    sets = [[f"data={name}", f"data_dir={asked.data_dir}"] for name in asked.sweep.unprepared]
    missing = missing_weights(asked.sweep.cells.values()).values()
    weights = [[f"weights={name}"] for name in dict.fromkeys(itertools.chain.from_iterable(missing))]
    return all(prepare.main(words) == DONE for words in [*sets, *weights])


def _cluster_refused(argv: Sequence[str]) -> list[str]:
    """Return what is wrong with the profile, before the sweep is read: problems of both are said at once."""
    named = [word.partition("=")[2] for word in argv if word.startswith("cluster=")]
    cluster = named[-1] if named else os.environ.get("STILLHOUSE_CLUSTER", LOCAL)
    try:
        if cluster not in {LOCAL, "null"}:
            open_profile(cluster)
    except Refused as refused:
        return refused.problems
    return []


if __name__ == "__main__":
    sys.exit(main())
