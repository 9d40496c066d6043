"""A reader follows one run from its command line to its result through about twelve files."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

TRACE = """
import json, sys
import common.fit, common.models.zoo  # importing is not following
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


LIBRARIES = {
    f"common/{name}.py"
    for name in (
        "models/settings",
        "data/image_ops",
        "locks",
        "losses",
        "metrics",
        "provenance",
        "scoring",
        "settings",
        "yaml12",
    )
}


def test_one_run_is_followed_through_about_twelve_files(digits_dir: Path, tmp_path: Path) -> None:
    """Every file of ours that runs, but for libraries of plain functions: pixels, losses, metrics, locks, YAML, ..."""
    words = ["recipe.epochs=1", "recipe.batch_size=512", f"data_dir={digits_dir}", f"root={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", TRACE, str(REPOSITORY), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = {*json.loads(done.stdout.splitlines()[-1])}
    assert {"train/train_cnn.py", "common/fit.py", "common/data/packed.py"} <= files
    assert files >= LIBRARIES
    assert len(files - LIBRARIES) <= 13, " ".join(sorted(files))
