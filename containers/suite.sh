#!/bin/sh
# Into an image, the suite: not editable, in /opt/stillhouse, with its scripts where a checkout has them, so that one line works
# inside and outside: python train/train_cnn.py data=digits
#
#   COMMIT=... DIRTY=true|false suite.sh SOURCE
#
# /opt/origin.json says what it was made of; runs write it into their provenance.
set -eu

home=/opt/stillhouse
/opt/venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-index --no-deps \
    --no-build-isolation --target $home "$1"

content=$(cd $home && {
    cat /etc/os-release
    if command -v dpkg-query >/dev/null; then dpkg-query -W; fi
    /opt/venv/bin/python --version
    cat "$1/requirements.lock"
    find . -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
} | sha256sum | cut -d' ' -f1)
commit=$([ -n "${COMMIT:-}" ] && printf '"%s"' "$COMMIT" || printf null)
printf '{"commit": %s, "dirty": %s, "content": "%s"}\n' "$commit" "${DIRTY:-null}" "$content" >/opt/origin.json

# Where run.sh binds folders of the outside; with no folder bound, what is written there ends with the container.
mkdir -p $home/runs $home/data $home/results /opt/weights
chmod 1777 $home/runs $home/data $home/results /opt/weights
