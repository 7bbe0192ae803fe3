#!/bin/bash
# A job that a node cannot take is refused before anything is frozen, and goes on where it is.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    start_lab 2 om-migd

    try "a node whose CPU lacks something refuses and says what" another_cpu
    try "a job under a baseline goes wherever that is" a_baseline
    try "a program under a baseline does not see more of the CPU" a_baseline_is_kept
    try "what is no baseline is refused with those that there are" no_baseline
    try "a node that is short of memory refuses, with figures" short_of_memory
}

# Makes h2's CPU look as if it had no AVX2, until the test ends.
pretend_to_be_old() {
    grep --quiet --max-count 1 '^flags.* avx2' /proc/cpuinfo || skip "this machine's CPU has no AVX2 that could be hidden"
    on h2 sh -c 'sed "s/ avx2\>//" /proc/cpuinfo >/run/cpuinfo && mount --bind /run/cpuinfo /proc/cpuinfo'
    trap 'on h2 umount /proc/cpuinfo' EXIT
}

another_cpu() {
    pretend_to_be_old
    start_job python3 /srv/programs/ticker.py
    refused_with "$SECOND refuses: this node's CPU lacks avx2"
}

# A move fails so, and the job runs on.
refused_with() { # TEXT
    local said before
    said=$(as_user h1 om move "$pid" "$SECOND" 2>&1) && fail "it was taken: $said"
    [[ $said == *"$1"* ]] || fail "said: $said"
    [[ $(om_file result) == "failed $SECOND "*"$1"* ]] || fail "result: $(om_file result)"
    is where "$(om_file where)" home
    before=$(on h1 wc --lines "$dir/ticks")
    until_ok on h1 sh -c "test \"\$(wc --lines $dir/ticks)\" != '$before'"
}

a_baseline() {
    pretend_to_be_old
    start_in_shell 'exec om run --cpu x86-64-v2 python3 /srv/programs/ticker.py'
    pid=$(content pid)
    until_ok on h1 test -e "$ROOT/$pid/om/where"
    om_file stat | grep --quiet --line-regexp 'cpu x86-64-v2' || fail "stat: $(om_file stat)"
    move_to "$SECOND"
    move_to home
    as_user h1 sh -c "echo 0 >$dir/end"
    has_ended 0
}

a_baseline_is_kept() {
    local loader=/lib64/ld-linux-x86-64.so.2
    [[ $($loader --help 2>/dev/null) == *'x86-64-v3 (supported'* ]] || skip "this C library or CPU has no x86-64-v3 to hide"
    start_in_shell "exec om run --cpu x86-64-v2 $loader --help"
    has_ended 0
    content out | grep --quiet 'x86-64-v2 (supported' || fail "x86-64-v2 is missing"
    ! content out | grep 'x86-64-v3 (supported' || fail "x86-64-v3 is seen"
}

no_baseline() {
    local said
    said=$(as_user h1 om run --cpu pentium true 2>&1) && fail "it was taken"
    [[ $said == *"'pentium' is no baseline: native, x86-64, x86-64-v2"* ]] || fail "said: $said"
}

short_of_memory() {
    limit_memory 256M
    start_in_shell 'exec om run python3 -c "
import os, time
memory = bytearray(os.urandom(1 << 20)) * 200
while not os.path.exists(\"end\"):
    with open(\"ticks\", \"a\") as file: print(file=file)
    time.sleep(0.02)"'
    pid=$(content pid)
    until_ok on h1 test -s "$dir/ticks"
    refused_with 'MiB of memory'
    unlimit_memory
    move_to "$SECOND"
    as_user h1 touch "$dir/end"
    has_ended 0
}

# Puts om-migd of h2, and all that it starts from now on, into a cgroup with little memory.
limit_memory() { # BYTES
    local v1=/sys/fs/cgroup/memory
    if [[ -e $v1/memory.limit_in_bytes ]]; then
        memory_limit=$v1/om-$OM_LAB-memory/memory.limit_in_bytes
        trap remove_memory_limit EXIT
        mkdir "${memory_limit%/*}"
        on h2 sh -c "echo $(pid_of om-migd h2) >${memory_limit%/*}/cgroup.procs"
    else
        memory_limit=$(dirname "$(on h2 sh -c 'find /sys/fs/cgroup /run/om-lab/.cgroup -name memory.max -path "*$1-h2*" 2>/dev/null | head -n 1' sh "$OM_LAB")")/memory.max
        [[ -e $memory_limit ]] || skip "there is no memory controller here that a host could be limited with"
    fi
    echo "$1" >"$memory_limit"
}

unlimit_memory() {
    case $memory_limit in
        *.max) echo max >"$memory_limit" ;;
        *) echo -1 >"$memory_limit" ;;
    esac
}

# Version 1: what was put into the cgroup goes back, so that it can be removed.
remove_memory_limit() {
    local member
    while read -r member; do
        echo "$member" >"/sys/fs/cgroup/memory/cgroup.procs" || :
    done <"${memory_limit%/*}/cgroup.procs"
    rmdir "${memory_limit%/*}"
}

main
