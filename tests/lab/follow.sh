#!/bin/bash
# A job's memory comes behind it: into the restored processes before they run, or, by choice, while they run.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    # CRIU hands memory out through large pipes.
    local before
    before=$(</proc/sys/fs/pipe-max-size)
    ((before >= 8388608)) || echo 8388608 >/proc/sys/fs/pipe-max-size
    start_lab 3 om-migd omd
    # shellcheck disable=SC2064 # the value of now
    trap "stop_lab; echo $before >/proc/sys/fs/pipe-max-size" EXIT

    try "memory streams into the restored processes" streamed
    try "a job runs on while its memory is still coming, and keeps every byte" lazily
    try "a job cannot move on before all of its memory has come" not_before_all
    try "a job whose memory was still on a node that dies is lost, and om run says so" source_dies
    try "a job whose memory is still coming when the link breaks ends, and nothing of it is left anywhere" link_breaks_behind_it
    try "a link that breaks while memory streams leaves the job whole where it was" link_breaks_in_a_stream
    try "a frozen copy that is lent when home dies is gone, and CRIU too" home_dies_while_lent
}

# A job with so much random memory, of which it tells a checksum whenever it is asked.
start_large() { # MIB
    start_in_shell "exec om run python3 -c '
import hashlib, os, sys, time
memory = bytearray()
for _ in range($1): memory += os.urandom(1 << 20)
print(hashlib.sha256(memory).hexdigest(), flush=True)
while not os.path.exists(\"end\"):
    if os.path.exists(\"ask\"):
        os.remove(\"ask\")
        print(hashlib.sha256(memory).hexdigest(), flush=True)
    with open(\"ticks\", \"a\") as file: print(os.uname().nodename, file=file)
    time.sleep(0.02)'"
    pid=$(content pid)
    until_ok on h1 test -s "$dir/ticks"
}

# The job says that its memory is what it was.
same_memory() {
    local before
    before=$(on h1 sh -c "wc --lines <$dir/out")
    as_user h1 touch "$dir/ask"
    until_is "$((before + 1))" on h1 sh -c "wc --lines <$dir/out"
    is 'different checksums' "$(on h1 sh -c "sort --unique $dir/out | wc --lines")" 1
}

move_by() { # ADDRESS|home MODE
    write_om_file where "$1 $2"
    is_at "$1"
}

streamed() {
    start_large 120
    move_by "$SECOND" stream
    same_memory
    as_user h1 touch "$dir/end"
    has_ended 0
}

lazily() {
    start_large 120
    as_user h1 om move --lazy "$pid" "$SECOND"
    until_ok on h1 grep --quiet h2 "$dir/ticks"
    same_memory
    moves_on "$THIRD" --lazy
    until_ok on h1 grep --quiet h3 "$dir/ticks"
    moves_on home --lazy
    as_user h1 touch "$dir/end"
    has_ended 0
}

# As soon as it can, which is when all of its memory has come.
moves_on() { # ADDRESS|home [OPTION…]
    until_ok as_user h1 om move "${@:2}" "$pid" "$1"
}

not_before_all() {
    start_large 800
    write_om_file where "$SECOND lazy"
    until_is "$SECOND" om_file where
    # Home may not have heard yet that it stays; then the node where it is says so.
    ! write_om_file where home || until_ok on h1 grep --quiet "^failed .*still coming from $HOME_NODE" "$ROOT/$pid/om/result"
    is where "$(om_file where)" "$SECOND"
    moves_on home
    same_memory
    as_user h1 touch "$dir/end"
    has_ended 0
}

source_dies() {
    start_large 800
    move_by "$SECOND" copy
    write_om_file where "$THIRD lazy"
    until_is "$THIRD" om_file where
    "$HERE/lab" kill h2
    has_ended 137
    until_ok on h3 sh -c "! ls $ROOT/[1-9]* && ! grep -q om-root /proc/*/mountinfo"
    "$HERE/lab" start h2
    start_nodes h2 -- om-migd
    until_ok on h2 om ps
}

link_breaks_behind_it() {
    start_large 800
    move_by "$SECOND" copy
    write_om_file where "$THIRD lazy"
    until_is "$THIRD" om_file where
    "$HERE/lab" cut h2
    has_ended 137
    until_ok has_nothing h3
    "$HERE/lab" heal h2
    until_ok has_nothing h2
}

# Whether nothing of any job is left on a host.
has_nothing() { # HOST
    on "$1" sh -c "! pgrep -x criu && ! pgrep -f '^/proc/self/exe keeper' && ! pgrep -u $OM_USER &&
        ! ls $ROOT/[1-9]* && ! grep -q om-root /proc/*/mountinfo"
}

link_breaks_in_a_stream() {
    start_large 800
    write_om_file where "$SECOND stream"
    # It is restored but for its memory.
    until_ok on h2 pgrep -u "$OM_USER"
    "$HERE/lab" cut h2
    until_is home om_file where
    [[ $(om_file result) == "failed $SECOND "* ]] || fail "result: $(om_file result)"
    same_memory
    "$HERE/lab" heal h2
    until_ok has_nothing h2
    as_user h1 touch "$dir/end"
    has_ended 0
}

# Nobody asks for the rest of it, though the connection stands.
home_dies_while_lent() {
    local keepers
    start_large 800
    move_by "$SECOND" copy
    write_om_file where "$THIRD lazy"
    until_is "$THIRD" om_file where
    mapfile -t keepers < <(on h3 pgrep -f '^/proc/self/exe keeper')
    on h3 kill -STOP "${keepers[@]}"
    on h2 pgrep -x criu >/dev/null || fail "all of its memory has come already"
    "$HERE/lab" kill h1
    "$HERE/lab" start h1
    start_nodes h1 -- om-migd
    until_ok has_nothing h2
    on h3 kill -CONT "${keepers[@]}"
    until_ok has_nothing h3
}

main
