#!/usr/bin/env bash
# Apptainer on a Debian that has none, in a folder of its own: source FOLDER/env.sh, and it is on the PATH.
#
#   install-apptainer.sh FOLDER
#
# Debian has it in its unstable suite alone, built for a newer C library. That library is unpacked beside it, and its two
# programs are told to use it. The system stays as it is: apt works in a state of its own, and nothing is installed.
# Needs root, apt-get, dpkg and patchelf; to work later also squashfs-tools, squashfuse, libseccomp2 and libsqlite3-0.
set -euo pipefail

folder=$1
programs=("$folder/usr/bin/apptainer" "$folder/usr/lib/x86_64-linux-gnu/apptainer/bin/starter")

fetch() {
    local work mirror
    work=$(mktemp -d)
    trap 'rm -rf "$work"' RETURN
    mkdir -p "$work"/{lists/partial,cache/archives/partial,preferences}
    # shellcheck disable=SC1091,SC2016 # $(REPO_URI) is apt's
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' \
        "Codename: $(. /etc/os-release && echo "$VERSION_CODENAME")")
    for suite in trixie sid; do
        echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
    done >"$work/sources.list"
    local apt=(apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::PreferencesParts="$work/preferences" -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache"
        -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd "$work" && "${apt[@]}" download apptainer/sid libc6/trixie)
    dpkg -x "$work"/apptainer_*.deb "$folder"
    dpkg -x "$work"/libc6_*.deb "$folder/libc"
}

adapt() {
    local libraries=$folder/libc/usr/lib/x86_64-linux-gnu program
    for program in "${programs[@]}"; do
        patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath \
            --set-rpath "$libraries:/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu" "$program"
    done
    # Moved, they look for their settings and state below usr, and the starter below usr/lib.
    mv "$folder/etc" "$folder/usr/etc"
    mkdir -p "$folder/usr/var/lib/apptainer/mnt/session"
    ln -s ../etc ../var "$folder/usr/lib/"
}

# By default root gets every capability, which fails where it has not got them all. In virtual machines it is the one to
# exceed limits that may be missing (bit 24): then root gets those that a build needs.
limit_capabilities() {
    local have
    have=$(awk '/^CapPrm/ {print "0x" $2}' /proc/self/status)
    (((have >> 24) & 1)) && return
    sed -i 's/^root default capabilities = full/root default capabilities = file/' "$folder/usr/etc/apptainer/apptainer.conf"
    "${programs[0]}" --silent capability add --user root "$(printf 'CAP_%s,' CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER \
        FSETID KILL SETGID SETUID SETPCAP SYS_CHROOT MKNOD SETFCAP)CAP_SYS_ADMIN"
    echo "export APPTAINER_DROP_CAPS=CAP_SYS_RESOURCE" # a build's %post does not ask that file
}

if [ ! -e "$folder/env.sh" ]; then
    mkdir "$folder" # which must be new
    trap '[ -e "$folder/env.sh" ] || rm -rf "$folder"' EXIT
    fetch
    adapt
    {
        echo "export PATH=$folder/usr/bin:\$PATH"
        limit_capabilities
    } >"$folder/.env.sh"
    mv "$folder/.env.sh" "$folder/env.sh"
fi
"${programs[0]}" --version
