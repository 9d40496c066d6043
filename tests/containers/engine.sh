#!/usr/bin/env bash
# Where podman's defaults do not work, settings under which they do: writes them, and prints the file for CONTAINERS_CONF.
#
#   engine.sh FOLDER
#
# They fail for root inside a virtual machine or container whose cgroups are of version 1, or of both: crun refuses those
# (runc does not), systemd is not there to be asked for groups, limits cannot be raised over the hard ones, and there is no
# bridge to make a network of. On any other machine it prints nothing.
set -euo pipefail

[ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ] || exit 0

files=$(ulimit -Hn) processes=$(ulimit -Hu)
most=$(</proc/sys/kernel/pid_max) # podman's own limit, however high the machine's
if [ "$processes" = unlimited ] || [ "$processes" -gt "$most" ]; then processes=$most; fi
cat >"$1/containers.conf" <<END
[containers]
default_ulimits = ["nofile=$files:$files", "nproc=$processes:$processes"]
netns = "host"
cgroupns = "host"
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
END
echo "$1/containers.conf"
