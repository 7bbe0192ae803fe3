#!/bin/bash
# Real programs move from node to node while they work, and their output is that of a run without om.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    # Nothing moves by itself here.
    start_lab 3 om-migd

    try "objects of the kernel's move along: System V IPC, signalfd, inotify, locks, stopped children…" objects
    try "a shell script with background jobs" travels_through_input 'bash /srv/programs/background.sh' 4000
    try "xz with two threads" travels_through_input 'xz -6 -T2 --block-size=1MiB -c'
    try "sort, in a pipeline" travels_through_input 'sort --parallel=2 -S 3M | tail -n +20'
    try "Python with numpy" travels 'python3 /srv/programs/matrices.py'
    try "Node.js" travels 'env UV_USE_IO_URING=0 node /srv/programs/chain.js'
    try "Java" travels 'java -XX:ActiveProcessorCount=2 /srv/programs/Chain.java'
    try "a Go program" travels_through_input 'fzf --filter=4711'
    try "gcc, building with make" a_build
    try "ffmpeg" travels_through_input "$FFMPEG"
}

# Video of 160 × 120 points from stdin, as a file whose bytes depend on nothing else.
FFMPEG='ffmpeg -nostdin -v error -threads 2 -f rawvideo -pix_fmt yuv420p -s 160x120 -i pipe:0'
FFMPEG+=' -c:v mpeg4 -threads 2 -flags +bitexact -fflags +bitexact -f matroska pipe:1'
readonly FFMPEG

# The job goes round, and says in its directory where it has come to: it must not end before.
goes_round() {
    local number=1 place
    for place in "$SECOND" "$THIRD" home; do
        move_to "$place"
        as_user h1 touch "$dir/go-$number"
        number=$((number + 1))
    done
}

# Runs COMMAND, which waits for go-1, go-2 and go-3 in its own way, without om and with it.
travels() { # COMMAND
    start_in_shell "touch go-1 go-2 go-3; $1"
    has_ended 0
    local expected=$dir/out
    start_pipe "om run $1"
    goes_round
    has_ended 0
    same_output "$expected"
}

# The same with a command that reads stdin: it gets a part of it on each node, and works on it while it moves.
travels_through_input() { # COMMAND [LINES]
    local expected parts="bash /srv/programs/parts.sh ${2:-60000}"
    start_in_shell "touch go-1 go-2 go-3; $parts | $1"
    has_ended 0
    expected=$dir/out
    start_pipe "$parts | om run $1"
    until_ok on h1 test -e "$dir/part-0"
    goes_round
    has_ended 0
    same_output "$expected"
}

same_output() { # FILE
    on h1 test -s "$1" || fail "there is no output"
    on h1 cmp "$1" "$dir/out" || fail "another output than without om"
}

objects() {
    local place host
    start_job python3 /srv/programs/objects.py
    for place in home:h1 "$SECOND:h2" "$THIRD:h3" home:h1; do
        host=${place#*:}
        [[ $(om_file where) == "${place%:*}" ]] || move_to "${place%:*}"
        until_ok on h1 grep --quiet "^round [0-9]* $host$" "$dir/out"
    done
    as_user h1 touch "$dir/end"
    has_ended 0
}

a_build() {
    start_in_shell 'cp /srv/programs/build/* .; touch go-1 go-2 go-3; make --silent -j2 && ./built'
    has_ended 0
    local expected=$dir
    start_pipe 'cp /srv/programs/build/* .; om run make --silent -j2 && ./built'
    goes_round
    has_ended 0
    same_output "$expected/out"
    on h1 cmp "$expected/built" "$dir/built" || fail "another program than without om"
}

main
