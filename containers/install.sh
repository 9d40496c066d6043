#!/bin/sh
# Installs into an image, from Dockerfile and stillhouse.def alike:
#
#   install.sh dependencies LOCK     everything of requirements.lock, by its hashes, into /opt/venv
#   install.sh suite SOURCE          the suite, not editable, into /opt/stillhouse
#
# A venv works on python:slim and on a distribution's own python3 alike.
set -eu

venv=/opt/venv
home=/opt/stillhouse

dependencies() {
    python3 -m venv $venv
    $venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r "$1"
    trim "$($venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
}

# What no run ever reads: triton, which torch.compile could not use without the C compiler that the image does not have;
# static libraries and headers, for building against torch and CUDA; the tests of other packages.
trim() {
    $venv/bin/python -m pip uninstall --quiet --yes triton
    rm -rf "$1"/torch/include "$1"/nvidia/*/include "$1"/nvidia/*/*/include
    find "$1" -name '*.a' -delete
    for package in numpy scipy sklearn pandas networkx sympy; do
        find "$1/$package" -type d -name tests -prune -exec rm -rf {} +
    done
    echo $home > "$1/stillhouse.pth"
}

# Its scripts lie where a checkout has them, so that one line works inside and outside: python train/train_cnn.py ...
suite() {
    $venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-index --no-deps \
        --no-build-isolation --target $home "$1"
    printf '{"commit": "%s", "dirty": %s, "lock": "%s"}\n' "${COMMIT:-}" "${DIRTY:-null}" "${LOCK:-}" >$home/origin.json
    mkdir -p $home/runs $home/data $home/results
    chmod 1777 $home/runs $home/data $home/results
}

"$@"
