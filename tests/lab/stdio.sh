#!/bin/bash
# Streams go through a job that moves while om-migd is killed and started again on its source, its target and its home:
# not one byte of stdin, stdout or stderr is lost or doubled. scripts/stdio does the same in full length.

# shellcheck disable=SC2016 # awk and the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

readonly MOVES=${OM_STDIO_MOVES:-6} MEGABYTES=${OM_STDIO_MEGABYTES:-12}

main() {
    start_lab 3 om-migd

    try "$MEGABYTES MiB each way, $MOVES moves, as many deaths of om-migd: not a byte is lost or doubled" streams
}

streams() {
    local size=$((MEGABYTES << 20)) number from=$HOME_NODE to places=("$HOME_NODE" "$SECOND" "$THIRD") victims
    start_pipe "head -c $size /dev/urandom | tee >(sha256sum >sent) |
        om run python3 /srv/programs/copier.py $size $MOVES | sha256sum >received"
    for ((number = 1; number <= MOVES; number++)); do
        to=${places[number % 3]}
        victims=("$from" "$to" "$HOME_NODE")
        moves_while_om_migd_dies "$to" "$number" "h${victims[number / 3 % 3]##*.}" "$((RANDOM % 300))"
        as_user h1 touch "$dir/go-$number"
        from=$to
    done
    has_ended 0
    is 'checksum of stdout' "$(content received)" "$(content sent)"
    is 'checksum of stdin' "$(on h1 tail -n 1 "$dir/err")  -" "checksum $(content sent)"
    on h1 awk '$1 == "block" && $2 != NR - 1 { exit 1 }' "$dir/err" || fail "stderr has gaps"
}

# A move that is broken off by it is asked for again.
moves_while_om_migd_dies() { # ADDRESS NUMBER HOST AFTER-MS
    write_om_file where "$1"
    sleep "0.$(printf '%03d' "$4")"
    stop_daemon om-migd "$3" KILL
    start_daemon om-migd "$3"
    until_ok has_moved_or_asks "$1" "$2"
}

has_moved_or_asks() { # ADDRESS NUMBER
    local where
    where=$(om_file where)
    [[ $where != "$1" && ($where != home || $1 != "$HOME_NODE") || $(om_file nmigs) != "$2" ]] || return 0
    [[ $where == @(queued|migrating) ]] || write_om_file where "$1" || :
    return 1
}

main
