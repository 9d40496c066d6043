"""A reader follows one run from its command line to its result through at most 14 files."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

TRACE = """
import json, sys
import common.training.fit, common.models.zoo  # importing is not following
from train.train_cnn import main
top = sys.argv[1] + "/"
executed = set()
def note(frame, event, _):
    if event == "call" and frame.f_code.co_filename.startswith(top):
        executed.add(frame.f_code.co_filename.removeprefix(top))
sys.setprofile(note)
code = main(sys.argv[2:])
sys.setprofile(None)
print(json.dumps(sorted(name for name in executed if not name.startswith("."))))
sys.exit(code)
"""


# Plain functions and plain classes, which say by their names what they do and need not be read to follow a run.
LIBRARIES = {
    *(
        "common/files.py",
        "common/data/integrity.py",
        "common/locks.py",
        "common/cli/command.py",
        "common/run/provenance.py",
        "common/data/image_ops.py",
    ),
    *("common/settings/field.py", "common/settings/models.py", "common/settings/yaml12.py"),
    *("common/metrics/one_label.py", "common/metrics/ranking.py"),
    *("common/training/losses.py", "common/training/optim.py", "common/training/predict.py"),
}
MOST_FILES = 14  # beside the libraries


def test_one_run_is_followed_through_fourteen_files(digits_dir: Path, tmp_path: Path) -> None:
    """Every file of ours that runs counts, but for the libraries."""
    words = ["recipe.epochs=1", "recipe.batch_size=512", f"data_dir={digits_dir}", f"root={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", TRACE, str(REPOSITORY), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = {*json.loads(done.stdout.splitlines()[-1])}
    assert {"train/train_cnn.py", "common/training/fit.py", "common/data/packed.py"} <= files
    assert sorted(LIBRARIES - files) == [], "a library that no run needs"
    assert len(files - LIBRARIES) <= MOST_FILES, " ".join(sorted(files - LIBRARIES))
