#!/usr/bin/env bash
# Any command of the suite inside its image, with the folders and the GPU of this machine:
#
#   containers/run.sh -- python train/train_cnn.py data=digits
#   IMAGE=stillhouse.sif containers/run.sh -- python train/train_vit.py data=cifar10
#   containers/run.sh --dev -- python train/train_cnn.py data=digits     this checkout's code, in the image's environment
#   containers/run.sh --online -- python jobs/prepare.py data=mnist      may download; docker and podman have no network else
#   containers/run.sh --gpu -- python train/train_cnn.py data=cifar10    rather not at all than without a GPU
#   containers/run.sh --show -- ...                                      only say what would be run
#
# By environment; folders are made where they are missing:
#   IMAGE                      a .sif file, or docker's or podman's name (stillhouse.sif if it is here, else stillhouse)
#   STILLHOUSE_RUNS, STILLHOUSE_DATA, RESULTS, HF_HOME       ./runs, ./data, ./results, ./weights
#   ENGINE                     docker, podman or apptainer; else what fits the image and is here
# Nothing else of the environment goes in, so no secret does.
#
# In jobs of SLURM (jobs/submit.py writes this into their scripts), where the environment is the job's and goes in whole:
#
#   containers/run.sh --job --image IMAGE.sif [--dev] [--gpu] --writable RUNS [--bind FOLDER[:INSIDE[:ro]]]... -- python ...
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
INSIDE=/opt/stillhouse

refuse() {
    echo "run.sh: $*" >&2
    exit 2
}

dev='' gpu='' job='' network=none show='' writable=() binds=() facts=() words=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
        --dev) dev=yes ;;
        --gpu) gpu=yes ;;
        --job) job=yes ;;
        --online) network=host ;;
        --show) show=yes ;;
        --image) IMAGE=${2:-} && shift ;;
        --bind) binds+=("${2:-}") && shift ;;
        --writable) writable+=("${2:-}") && shift ;;
        *) refuse "given $1, allowed: --dev, --gpu, --online, --show, and -- before the command; in a job also" \
            "--job, --image, --writable, --bind" ;;
    esac
    shift || refuse "--image, --writable and --bind each need a word behind them"
done
[ $# -gt 1 ] || refuse "no command; as in: containers/run.sh -- python train/train_cnn.py data=digits"
shift

# --- which image, which engine ------------------------------------------------------------------------------------

IMAGE=${IMAGE:-$([ -e stillhouse.sif ] && echo stillhouse.sif || echo stillhouse)}

first_of() {
    local each all=$*
    for each in "$@"; do command -v "$each" >/dev/null && echo "$each" && return; done
    refuse "no ${all// / or } on $(hostname), which $IMAGE needs"
}

apptainer_for_file() {
    case ${ENGINE:-} in
        '') first_of apptainer singularity ;;
        apptainer | singularity) first_of "$ENGINE" ;;
        *) refuse "ENGINE=$ENGINE, allowed for $IMAGE: apptainer" ;;
    esac
}

# Of a file, as containers/build.sh and jobs/submit.py write it beside the image; an older one is of another image.
file_digest() {
    [ -s "$1.sha256" ] && [ ! "$1" -nt "$1.sha256" ] && cut -d' ' -f1 "$1.sha256"
}

case $IMAGE in
    *://*)
        ENGINE=$(apptainer_for_file) || exit 2
        digest=''
        ;;
    *.sif | /*)
        [ -e "$IMAGE" ] || refuse "no image $IMAGE on $(hostname); containers/build.sh apptainer makes one"
        [ -r "$IMAGE" ] || refuse "image $IMAGE cannot be read on $(hostname)"
        ENGINE=$(apptainer_for_file) || exit 2
        digest=$(file_digest "$IMAGE") || digest=''
        ;;
    *) # docker is often there as a client alone, without an engine
        for engine in ${ENGINE:-docker podman}; do
            digest=$("$engine" image inspect --format '{{.Id}}' "$IMAGE" 2>/dev/null) && ENGINE=$engine && break
        done
        [ "${digest:-}" ] || refuse "no image $IMAGE with ${ENGINE:-docker or podman} on $(hostname);" \
            "containers/build.sh ${ENGINE:-docker} makes it, and IMAGE=FILE.sif names a file for apptainer"
        ;;
esac

has_gpu() { [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; }

[ -z "$gpu" ] || has_gpu || refuse "no GPU driver on $(hostname), and a GPU was asked for"

# --- what it sees -------------------------------------------------------------------------------------------------

told() { facts+=("$1=$2"); } # the suite inside reads it, for the run's provenance

told STILLHOUSE_IMAGE "$IMAGE"
told STILLHOUSE_IMAGE_DIGEST "${digest#sha256:}"
if commit=$(git -C "$HERE" rev-parse HEAD 2>/dev/null) && changes=$(git -C "$HERE" status --porcelain 2>/dev/null); then
    told STILLHOUSE_COMMIT "$commit"
    told STILLHOUSE_DIRTY "$([ -n "$changes" ] && echo true || echo false)"
fi

there() { # FOLDER: made where it is missing
    mkdir -p "$1" 2>/dev/null || [ -e "$1" ] || refuse "no folder $1 on $(hostname), and it cannot be made"
}

written() { # FOLDER: likewise, and a run can write to it
    there "$1"
    [ -w "$1" ] || refuse "$1 cannot be written to on $(hostname); a run's files go there"
}

bind_as() { binds+=("$(cd "$1" && pwd):$2"); } # FOLDER INSIDE

if [ "$job" ]; then
    for each in "${writable[@]}"; do written "$each" && binds+=("$each"); done
    for each in "${binds[@]}"; do there "${each%%:*}"; done
    unset PYTHONPATH PYTHONHOME # of the modules of the site, for another Python
else
    RUNS=${STILLHOUSE_RUNS:-runs} DATA=${STILLHOUSE_DATA:-data} RESULTS=${RESULTS:-results} WEIGHTS=${HF_HOME:-weights}
    written "$RUNS" && bind_as "$RUNS" $INSIDE/runs
    written "$RESULTS" && bind_as "$RESULTS" $INSIDE/results
    there "$DATA" && bind_as "$DATA" $INSIDE/data
    there "$WEIGHTS" && bind_as "$WEIGHTS" /opt/weights
    facts+=(HF_HOME=/opt/weights "HF_HUB_OFFLINE=$([ "$network" = none ] && echo 1 || echo 0)")
fi
if [ "$dev" ]; then
    mkdir -p "$HERE"/{runs,data,results} # what is bound into a folder must be there
    binds=("$HERE:$INSIDE" "${binds[@]}")
fi

# --- how it is called ---------------------------------------------------------------------------------------------

each_as() { # FLAG VALUE... : the flag before each of the values
    local flag=$1 each
    shift
    for each in "$@"; do words+=("$flag" "$each"); done
}

with_docker() {
    # As who types this, with a name that Python finds; labels of SELinux would keep it out of the folders.
    words=("$ENGINE" run --rm --no-healthcheck --read-only --tmpfs /tmp "--network=$network" --ipc=host
        --security-opt label=disable --workdir "$INSIDE")
    if [ "$ENGINE" = podman ] && [ "$(id -u)" != 0 ]; then
        words+=(--userns=keep-id)
    else
        words+=(--user "$(id -u):$(id -g)")
    fi
    if [ -t 0 ] && [ -t 1 ]; then words+=(-it); fi
    if has_gpu; then
        if [ "$ENGINE" = docker ]; then words+=(--gpus all); else words+=(--device nvidia.com/gpu=all); fi
    fi
    each_as --volume "${binds[@]}"
    each_as --env HOME=/tmp USER=stillhouse "${facts[@]}"
}

with_apptainer() {
    words=("$ENGINE" exec)
    if [ "$job" ]; then # in its own folder, whose modules are not the image's
        facts+=(PYTHONSAFEPATH=1)
    else
        words+=(--pwd "$INSIDE" --cleanenv --no-home)
    fi
    if has_gpu; then words+=(--nv); fi
    each_as --bind "${binds[@]}"
    each_as --env "${facts[@]}"
}

case $ENGINE in
    docker | podman) with_docker ;;
    apptainer | singularity) with_apptainer ;;
    *) refuse "ENGINE=$ENGINE, allowed: docker, podman, apptainer" ;;
esac
words+=("$IMAGE" "$@")

if [ "$show" ]; then
    printf '%q ' "${words[@]}"
    echo
else
    exec "${words[@]}"
fi
