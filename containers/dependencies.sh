#!/bin/sh
# Into an image, what the suite depends on: everything of a lock file, by its hashes, in /opt/venv.
#
#   dependencies.sh requirements.lock
#
# A venv works on python:slim and on a distribution's own python3 alike. There are wheels alone, so nothing is compiled.
set -eu

# A base that is made for GPUs often has no Python; Debian's and Ubuntu's is new enough.
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt-get update -qq
    apt-get install -qq --no-install-recommends python3 python3-venv >/dev/null
    rm -rf /var/lib/apt/lists/*
fi

python3 -m venv --clear /opt/venv
/opt/venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r "$1"

# What no run ever reads goes again, in the same layer: triton, which torch.compile could not use without the C compiler that
# is not here; static libraries and headers, for building against torch and CUDA; the tests of other packages.
site=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
/opt/venv/bin/python -m pip uninstall --quiet --yes triton
rm -rf "$site"/torch/include "$site"/nvidia/*/include "$site"/nvidia/*/*/include
find "$site" -name '*.a' -delete
for package in numpy scipy sklearn pandas networkx sympy; do
    find "$site/$package" -type d -name tests -prune -exec rm -rf {} +
done

echo /opt/stillhouse >"$site/stillhouse.pth"
