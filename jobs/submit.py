"""Run a sweep: on this machine, or as SLURM jobs. The same command again goes on with what is not finished.

    python jobs/submit.py sweep=quickstart                                on this machine, where there is no SLURM
    python jobs/submit.py sweep=cifar_all cluster=a100                    as arrays, with slurm/profiles/a100.yaml
    python jobs/submit.py sweep=cifar_all dry_run=true                    the plan, the scripts, the expected hours
    python jobs/submit.py sweep=cifar_all seeds=0-9 only=cnn,deit data=cifar10 recipe.epochs=2
    python jobs/submit.py sweep=cifar_all deit.distill.alpha=0.5          a setting of one stage

Other words are settings: each stage that has one takes it.
"""

import os
import sys
from collections.abc import Sequence

from common.cli.command import answer
from common.failures import Refused
from jobs.engines.profiles import LOCAL, open_profile
from jobs.planning.request import SubmitWords, read_sweep
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
    return carry_on(asked)


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
