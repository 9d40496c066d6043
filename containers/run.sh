#!/usr/bin/env bash
# Any command of the suite inside its image, with the folders and the GPU of this machine:
#
#   containers/run.sh -- python train/train_cnn.py data=digits
#   IMAGE=stillhouse.sif containers/run.sh -- python train/train_vit.py data=cifar10
#   containers/run.sh --dev -- python train/train_cnn.py data=digits     this checkout's code, in the image's environment
#   containers/run.sh --online -- python jobs/prepare.py data=mnist      with the network, which is off otherwise
#   containers/run.sh --show -- ...                                      only say what would be run
#
# By environment; folders are made where they are missing:
#   IMAGE                      a .sif file, or docker's or podman's name (stillhouse.sif if it is here, else stillhouse)
#   STILLHOUSE_RUNS, STILLHOUSE_DATA, RESULTS, HF_HOME       ./runs, ./data, ./results, ./weights
#   ENGINE                     docker, podman or apptainer; else what fits the image and is here
# Nothing else of the environment goes in, so no secret does.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
INSIDE=/opt/stillhouse

refuse() {
    echo "run.sh: $1" >&2
    exit 2
}

dev='' network=none show=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
        --dev) dev=yes ;;
        --online) network=host ;;
        --show) show=yes ;;
        *) refuse "given $1, allowed: --dev, --online, --show, and -- before the command" ;;
    esac
    shift
done
[ $# -gt 1 ] || refuse "no command; as in: containers/run.sh -- python train/train_cnn.py data=digits"
shift

IMAGE=${IMAGE:-$([ -e stillhouse.sif ] && echo stillhouse.sif || echo stillhouse)}

# --- which engine -----------------------------------------------------------------------------------------------

first_of() {
    local each
    for each in "$@"; do command -v "$each" >/dev/null && echo "$each" && return; done
    refuse "no $(sed 's/ / or /g' <<<"$*") here, which $IMAGE needs"
}

case $IMAGE in
    *.sif)
        [ -e "$IMAGE" ] || refuse "no $IMAGE here; containers/build.sh apptainer makes it"
        ENGINE=${ENGINE:-$(first_of apptainer singularity)} || exit 2
        digest=$( (cut -d' ' -f1 "$IMAGE.sha256" || sha256sum "$IMAGE" | cut -d' ' -f1) 2>/dev/null)
        ;;
    *)
        ENGINE=${ENGINE:-$(first_of docker podman)} || exit 2
        digest=$("$ENGINE" image inspect --format '{{.Id}}' "$IMAGE" 2>/dev/null) \
            || refuse "$ENGINE has no image $IMAGE; containers/build.sh $ENGINE makes it"
        ;;
esac

# --- what it sees -----------------------------------------------------------------------------------------------

binds=() facts=("STILLHOUSE_IMAGE=$IMAGE" "STILLHOUSE_IMAGE_DIGEST=${digest#sha256:}")

bind() { # FOLDER INSIDE
    mkdir -p "$1" 2>/dev/null && [ -w "$1" ] || refuse "$1 cannot be written to; the run's files go there"
    binds+=("$(cd "$1" && pwd):$2")
}

if [ "$dev" ]; then
    binds+=("$HERE:$INSIDE")
    facts+=("STILLHOUSE_COMMIT=$(git -C "$HERE" rev-parse HEAD)" "STILLHOUSE_DIRTY=$([ -n "$(git -C "$HERE" status --porcelain)" ] && echo true || echo false)")
fi
bind "${STILLHOUSE_RUNS:-runs}" $INSIDE/runs
bind "${STILLHOUSE_DATA:-data}" $INSIDE/data
bind "${RESULTS:-results}" $INSIDE/results
bind "${HF_HOME:-weights}" /opt/weights
facts+=("HF_HOME=/opt/weights" "HF_HUB_OFFLINE=$([ "$network" = none ] && echo 1 || echo 0)")

# --- how it is called -------------------------------------------------------------------------------------------

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

words=()
each_as() { # FLAG VALUES... : the flag before each of the values
    local flag=$1 each
    shift
    for each in "$@"; do words+=("$flag" "$each"); done
}

case $ENGINE in
    docker | podman)
        words=("$ENGINE" run --rm --no-healthcheck --read-only --tmpfs /tmp "--network=$network" --ipc=host --workdir $INSIDE)
        if [ "$ENGINE" = podman ] && [ "$(id -u)" != 0 ]; then
            words+=(--userns=keep-id)
        else
            words+=(--user "$(id -u):$(id -g)")
        fi
        [ -t 0 ] && [ -t 1 ] && words+=(-it)
        if has_gpu; then
            [ "$ENGINE" = docker ] && words+=(--gpus all) || words+=(--device nvidia.com/gpu=all)
        fi
        each_as --volume "${binds[@]}"
        each_as --env HOME=/tmp "${facts[@]}"
        ;;
    apptainer | singularity)
        words=("$ENGINE" exec --cleanenv --no-home --pwd $INSIDE)
        has_gpu && words+=(--nv)
        each_as --bind "${binds[@]}"
        each_as --env "${facts[@]}"
        ;;
    *) refuse "ENGINE=$ENGINE, allowed: docker, podman, apptainer" ;;
esac
words+=("$IMAGE" "$@")

if [ "$show" ]; then
    printf '%q ' "${words[@]}"
    echo
else
    exec "${words[@]}"
fi
