#!/usr/bin/env bash
# The suite's image, from this checkout.
#
#   containers/build.sh docker                          image stillhouse, on python:3.11-slim
#   containers/build.sh podman [--volume ... ]          more words go to the engine's build command
#   containers/build.sh apptainer                       stillhouse.sif, without root, docker or podman
#   FROM=docker-archive:stillhouse.tar containers/build.sh apptainer      the same file from what docker built
#   containers/build.sh apptainer --mksquashfs-args "-comp gzip"          for nodes whose Linux is older than 4.14
#   containers/build.sh save                            docker's or podman's image as stillhouse.tar, to carry to a cluster
#
# By environment:
#   IMAGE        name of the image (stillhouse), or the file that apptainer writes (stillhouse.sif)
#   BASE_IMAGE   what it stands on (python:3.11-slim); anything with Python 3.11 or newer, its venv, and useradd
#   FROM         apptainer: where from, as docker://ADDRESS, docker-archive:FILE or localimage:FILE.sif
#                (docker://$BASE_IMAGE); an image of the suite is taken as it is, any other gets the suite installed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim}
COMMIT=$(git rev-parse HEAD 2>/dev/null) || COMMIT=''
DIRTY=null # where nobody knows, as of an unpacked archive
if changes=$(git status --porcelain 2>/dev/null); then DIRTY=$([ -n "$changes" ] && echo true || echo false); fi
LOCK=$(sha256sum requirements.lock | cut -d' ' -f1)

refuse() {
    echo "build.sh: $1" >&2
    exit 2
}

need() {
    local each there=''
    for each in docker podman apptainer; do command -v "$each" >/dev/null && there+=" $each"; done
    command -v "$1" >/dev/null || refuse "no $1 here; this machine has${there:- none of docker, podman, apptainer}"
}

with_engine() {
    local engine=$1
    shift
    need "$engine"
    local format=()
    [ "$engine" = podman ] && format=(--format docker) # or the health check is left out
    "$engine" build "${format[@]}" -f containers/Dockerfile -t "${IMAGE:-stillhouse}" --build-arg "BASE_IMAGE=$BASE_IMAGE" \
        --build-arg "COMMIT=$COMMIT" --build-arg "DIRTY=$DIRTY" --build-arg "LOCK=$LOCK" "$@" .
}

with_apptainer() {
    need apptainer
    local file=${IMAGE:-stillhouse.sif} from=${FROM:-docker://$BASE_IMAGE}
    case $from in
        docker://?* | docker-archive:?* | localimage:?*) ;;
        *) refuse "FROM=$from, allowed: docker://ADDRESS, docker-archive:FILE or localimage:FILE.sif" ;;
    esac
    local address=${from#*:}
    # zstd: every start of a SIF decompresses what it reads, and with gzip it takes half as long again.
    apptainer build --mksquashfs-args "-comp zstd -Xcompression-level 3" \
        --build-arg "BOOTSTRAP=${from%%:*}" --build-arg "FROM=${address#//}" \
        --build-arg "COMMIT=$COMMIT" --build-arg "DIRTY=$DIRTY" "$@" "$file" containers/stillhouse.def
    (cd "$(dirname "$file")" && sha256sum "$(basename "$file")" >"$(basename "$file").sha256") # read by whoever runs it
}

save() {
    local engine image=${IMAGE:-stillhouse}
    [ "$(command -v docker podman)" ] || refuse "no docker or podman here"
    for engine in docker podman; do # docker is often there as a client alone
        "$engine" image inspect "$image" >/dev/null 2>&1 || continue
        "$engine" save -o stillhouse.tar "$image"
        return
    done
    refuse "no image $image with docker or podman; containers/build.sh docker makes it"
}

case ${1:-} in
    docker | podman) with_engine "$@" ;;
    apptainer) shift && with_apptainer "$@" ;;
    save) save ;;
    *) refuse "given ${1:-nothing}, allowed: docker, podman, apptainer, save" ;;
esac
