# What a lab is made of: a switch in a network namespace of its own, and hosts, each a PID 1 (lab-host) in namespaces
# of its own and a cgroup with every process of that host. Needs say.sh, and HERE: where the scripts are.
#
# /run/om-lab           a tmpfs; the first lab makes it, the last one removes it
#   .made               directories of the machine that were made to mount on, and are removed with it
#   .cgroup             the cgroup2 tree, where the machine has none
#   LAB/net             the switch's network namespace
#   LAB/key             the cluster's key, if it has one
#   LAB/complete        there once the lab is up
#   LAB/HOST/pid        PID 1 of the host
#   LAB/HOST/cpus       the CPUs that it runs on
#   LAB/HOST/groups     its cgroups in hierarchies of version 1, where this machine has them
#   LAB/HOST/boot_id    its kernel's name for this boot
#   LAB/HOST/disk/…     its own directories
#   LAB/HOST/console    what PID 1 and detached commands print
#   LAB/HOST/cut        there while it is cut off

# shellcheck shell=bash

readonly LABS=/run/om-lab

# The directories that every host has for itself and that outlive it.
readonly OWN_DIRECTORIES=(/srv /etc/om /var/lib/om)

# The lab that the other functions work on.
select_lab() { # LAB
    readonly lab=$1 state=$LABS/$1
}

# Keeps others from making or removing labs and hosts until this script ends.
lock_labs() {
    exec {lock}</run
    flock "$lock"
}

# --- the lab ---

make_lab() { # [KEY]
    local directory
    if ! mountpoint --quiet "$LABS"; then
        mkdir --parents "$LABS"
        mount -t tmpfs -o mode=755 om-lab "$LABS"
        mount --make-private "$LABS"
    fi
    if [[ -z $(cgroup_root) ]]; then
        mkdir "$LABS/.cgroup"
        mount -t cgroup2 cgroup2 "$LABS/.cgroup"
    fi
    for directory in "${OWN_DIRECTORIES[@]}"; do
        [[ ! -d $directory ]] || continue
        echo "$directory" >>"$LABS/.made"
        mkdir "$directory"
    done

    mkdir "$state"
    [[ -z ${1-} ]] || (umask 077 && od -An -v -tx1 -w32 -N32 /dev/urandom | tr -d ' ' >"$state/key")
    touch "$state/net"
    unshare --net="$state/net" bash -c '
        [[ ! -d /proc/sys/net/ipv6 ]] || echo 1 | tee /proc/sys/net/ipv6/conf/{all,default}/disable_ipv6 >/dev/null
        ip link add switch up type bridge mcast_snooping 0 forward_delay 0'
}

# A lab whose making was broken off, or all of whose hosts have died, is not running.
lab_is_running() {
    local host
    [[ -e $state/complete ]] || return 1
    for host in $(lab_hosts); do
        ! is_running "$host" || return 0
    done
    return 1
}

lab_hosts() { (cd "$state" && printf '%s\n' h+([0-9])) 2>/dev/null | sort --version-sort; }

# Removes all of the lab that there is, however it came to be there.
remove_lab() {
    local directory
    for directory in "$(cgroup_root)/om-lab-$lab"-h+([0-9]); do
        echo 1 >"$directory/cgroup.kill"
    done
    for directory in "$(cgroup_root)/om-lab-$lab"-h+([0-9]); do
        remove_cgroup "h${directory##*-h}"
    done
    if [[ -d $state ]]; then
        ! mountpoint --quiet "$state/net" || umount --lazy "$state/net"
        rm --recursive "$state"
    fi
    local others=("$LABS"/*/)
    ((${#others[@]})) || ! mountpoint --quiet "$LABS" || remove_labs
}

remove_labs() {
    local directory
    if [[ -e $LABS/.made ]]; then
        while read -r directory; do
            rmdir "$directory" 2>/dev/null || : # somebody else uses it now
        done <"$LABS/.made"
    fi
    umount --recursive --lazy "$LABS"
    rmdir "$LABS"
}

at_switch() { nsenter --net="$state/net" "$@"; } # CMD…

# --- its hosts ---

make_host() { # HOST CPUS
    local home=$state/$1 directory
    mkdir "$home" "$home/cgroup"
    for directory in "${OWN_DIRECTORIES[@]}"; do
        mkdir --parents "$home/disk$directory"
    done
    chmod 1777 "$home/disk/srv"
    [[ ! -e $state/key ]] || cp --preserve=mode "$state/key" "$home/disk/etc/om/key"
    echo "$2" >"$home/cpus"
}

# Starts the hosts and returns when they are up.
boot() { # HOST…
    local host trouble
    # The pipe closes when every host is up, or has ended.
    trouble=$(for host; do boot_one "$host" 2>&1 & done)
    [[ -z $trouble ]] || die "$trouble"
    for host; do
        is_running "$host" || die "$host ended at once"
    done
}

boot_one() { # HOST
    local cgroup
    cgroup=$(cgroup_of "$1")
    mkdir "$cgroup"
    own_groups | sed "s|\$|/om-lab-$lab-$1|" >"$state/$1/groups"
    xargs --no-run-if-empty mkdir <"$state/$1/groups"
    join_groups "$1"
    exec env --ignore-environment "PATH=$PATH" setsid taskset --cpu-list "$(<"$state/$1/cpus")" \
        unshare --net --pid --mount --uts --ipc --propagation private \
        sh -c '"$@" &' sh "$HERE/lib/lab-host" "$state" "$1" "${OWN_DIRECTORIES[@]}" {lock}>&-
}

# Becomes CMD on the host: in its namespaces and cgroup, on its CPUs, in this directory if it has it.
enter() { # HOST CMD…
    local home=$state/$1 pid directory=/
    pid=$(<"$home/pid")
    [[ ! -d /proc/$pid/root$PWD ]] || directory=$PWD
    join_groups "$1"
    exec taskset --cpu-list "$(<"$home/cpus")" \
        nsenter --target "$pid" --all --wdns="$directory" -- "${@:2}"
}

is_running() { # HOST
    local pids
    [[ -e $state/$1/pid && -d $(cgroup_of "$1") ]] || return 1
    pids=$(<"$(cgroup_of "$1")/cgroup.procs")
    [[ $'\n'$pids$'\n' == *$'\n'$(<"$state/$1/pid")$'\n'* ]]
}

need_host() { # HOST
    [[ -d $state ]] || die "there is no lab '$lab'"
    [[ $1 == h+([0-9]) && -d $state/$1 ]] || die "there is no host '$1' in lab '$lab'"
}

need_running() { # HOST
    need_host "$1"
    is_running "$1" || die "$1 is not running"
}

# --- their cgroups ---

# Where this machine has cgroup2; nothing if it has it nowhere.
cgroup_root() {
    local directory type
    while read -r _ directory type _; do
        [[ $type != cgroup2 ]] || { echo "$directory" && return; }
    done </proc/mounts
}

cgroup_of() { echo "$(cgroup_root)/om-lab-$lab-$1"; } # HOST

# Kills every process in the host's cgroup and in those below, and removes them all.
remove_cgroup() { # HOST
    local cgroup deadline=$((SECONDS + 10))
    cgroup=$(cgroup_of "$1")
    while [[ -d $cgroup ]]; do
        echo 1 >"$cgroup/cgroup.kill"
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && break
        ((SECONDS < deadline)) || die "some processes of $1 cannot be killed: $(paste --serial "$cgroup/cgroup.procs")"
        sleep 0.005
    done
    [[ ! -e $state/$1/groups ]] || while read -r group; do
        [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} +
    done <"$state/$1/groups"
}

# This script's own cgroups in the hierarchies of version 1 that om limits guests in.
own_groups() {
    local directory type options name path
    while read -r _ directory type options _; do
        for name in memory cpu; do
            [[ $type == cgroup && ,$options, == *,"$name",* ]] || continue
            # In a group without a budget real-time tasks could not run.
            [[ ! -e $directory/cpu.rt_runtime_us ]] || continue
            path=$(sed --quiet --regexp-extended "s/^[0-9]+:([^:]*,)?$name(,[^:]*)?://p" /proc/self/cgroup)
            echo "$directory${path%/}"
        done
    done </proc/mounts | sort --unique
}

# Puts this process into the cgroups of a host.
join_groups() { # HOST
    local group
    while read -r group; do
        echo "$BASHPID" >"$group/cgroup.procs"
    done < <(cgroup_of "$1" && cat "$state/$1/groups")
}

# --- CPUs ---

# The CPUs that this script may use, as a list such as 0-2,5.
usable_cpus() {
    local list
    list=$(taskset --cpu-list --pid "$BASHPID")
    echo "${list##*: }"
}

# The members of such a list, one a line.
each_cpu() { # LIST
    local range
    for range in ${1//,/ }; do
        seq "${range%-*}" "${range#*-}"
    done
}
