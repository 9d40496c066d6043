#!/usr/bin/env bash
# A base image without any registry: this machine's own Debian, with Python, from the mirror that apt uses here.
#
#   make-base.sh IMAGE
#
# Needs root, mmdebstrap and podman. The image holds this machine's mirror, so it is for tests, not for publishing.
set -euo pipefail

# shellcheck disable=SC1091
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2016 # $(REPO_URI) is apt's
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" 'Component: main')

mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" - "$mirror" |
    podman import --quiet - "$1"
