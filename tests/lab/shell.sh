#!/bin/bash
# What shells, their users and the tools around a command do to it, they do to `om run` with the same effect.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    start_lab 2 om-migd

    local scene
    for scene in stopped_and_continued signals_itself deaf_to_stops an_editor a_pager keys_for_a_pipeline \
        killed_as_a_group some_of_the_streams a_shell_inside; do
        try "at a terminal: ${scene//_/ }" as_user h1 python3 /srv/programs/shell.py "$scene" "$SECOND"
    done

    local name script
    while IFS=: read -r name script; do
        try "in a script: $name" the_same "$script"
    done <<'END'
statuses: RUN true && echo yes; RUN false || echo no; ! RUN sh -c 'exit 3' && echo "$?"
a signal that ends it: RUN sh -c 'kill -SEGV $$'; echo "$?"; RUN sh -c 'kill -TERM $$'; echo "$?"
redirections: RUN sh -c 'echo out; echo err >&2' >o 2>e; cat o e; RUN cat <o >>e; RUN cat e e 2>&1 | wc -l; RUN wc -l <<<text
a substitution: x=$(RUN sh -c 'echo inner; exit 4'); echo "$? $x"
pipes: set -o pipefail; seq 2000000 | RUN sort -n | head -n 3; echo "${PIPESTATUS[*]} $?"; RUN yes | head -n 1; echo "${PIPESTATUS[*]}"
a writer whose reader leaves: (trap '' PIPE; seq 2000000 2>e; echo "$?" >s) | RUN head -n 1; cat s; wc -l <e
a loop over a file: seq 5 >list; while read -r x; do RUN echo "got $x"; done <list; { RUN sh -c 'read -r x; echo "[$x]"'; cat; } <list
background jobs: RUN sh -c 'exit 5' & wait "$!"; echo "$?"; RUN sleep 100 & kill "$!"; wait "$!"; echo "$?"
timeout: timeout 0.5 RUN sleep 100; echo "$?"; timeout -k 0.5 0.5 RUN sh -c 'trap "" TERM; sleep 100; sleep 100'; echo "$?"
nohup: nohup RUN sh -c 'kill -HUP $$; echo survived' 2>/dev/null; cat nohup.out 2>/dev/null; true
nice and taskset: nice -n 5 RUN nice; taskset -c 0 RUN grep Cpus_allowed_list /proc/self/status
limits: (ulimit -c 0 -f 8; RUN sh -c 'head -c 100000 /dev/zero >f; echo $?'; ulimit -S -t 1; RUN sh -c 'while :; do :; done'; echo "$?") 2>/dev/null
limits of memory and files: (ulimit -v 300000; RUN python3 -c 'bytearray(1 << 30)' 2>&1 | tail -n 1); (ulimit -n 20; RUN sh -c 'ulimit -n')
xargs and find: seq 3 | xargs -n 1 RUN echo; touch a.x b.x; find . -name '*.x' -exec RUN basename {} \; | sort
sessions: setsid -w RUN sh -c 'echo in it; exit 6'; echo "$?"; RUN setsid -w sh -c 'exit 7'; echo "$?"
traps: trap '' INT; RUN sh -c 'kill -INT $$; echo deaf'; trap 'echo trapped' EXIT; RUN sh -c 'exit 9'
exec: (exec RUN sh -c 'echo last; exit 8'); echo "$?"; coproc RUN cat; echo there >&"${COPROC[1]}"; read -r x <&"${COPROC[0]}"; echo "$x"
END
    try "all signals that can be caught arrive, here, there and in between" all_signals
    try "a job that is confined to a CPU at home is so again when it comes back" confined
    try "a loop over a file goes on where a command has left off, also if that ended elsewhere" a_loop_that_moves
}

# The script says and leaves the same without om, and with it.
the_same() { # SCRIPT
    local run without
    for run in '' 'om run '; do
        start_in_shell "${1//RUN /$run}"
        until_ok on h1 test -e "$dir/status"
        [[ $run ]] || without=$dir
    done
    on h1 test -s "$without/out" || fail "it says nothing without om"
    on h1 diff "$without/out" "$dir/out" || fail "another output"
    on h1 diff "$without/status" "$dir/status" || fail "another status"
    until_ok on h1 sh -c "! ls $ROOT/[1-9]*"
}

all_signals() {
    local number numbers=() place
    for number in {1..64}; do
        # Those that cannot be caught, those of the C library, SIGCHLD, and SIGCONT, which takes stops away that wait.
        [[ $number == @(9|17|18|19|32|33) ]] || numbers+=("$number")
    done
    start_job python3 /srv/programs/all-signals.py
    has_printed ready
    for place in "$SECOND" home; do
        write_om_file where "$place"
        as_user h1 bash -c 'for number in "${@:2}"; do kill -s "$number" "$1"; done' bash "$pid" "${numbers[@]}"
        is_at "$place"
    done
    until_ok on h1 grep --quiet '^64 2$' "$dir/out"
    as_user h1 touch "$dir/end"
    has_ended 0
    for number in "${numbers[@]}"; do
        on h1 grep --quiet --line-regexp "$number [12]" "$dir/out" || fail "signal $number has not come"
        ! on h1 grep --quiet --line-regexp "$number 3" "$dir/out" || fail "signal $number has come too often"
    done
    for number in {34..64}; do
        on h1 grep --quiet --line-regexp "$number 2" "$dir/out" || fail "signal $number has come once"
    done
}

confined() {
    (($(nproc) > 1)) || skip "there is only one CPU"
    start_pipe 'exec taskset -c 0 om run sh -c "while [ ! -e end ]; do grep Cpus_allowed_list /proc/self/status; sleep 0.1; done"'
    local expected=0
    is "CPUs at home" "$(cpus)" "$expected"
    move_to "$SECOND"
    until_is "$(on h2 sh -c "grep Cpus_allowed_list /proc/self/status | tr -d '[:alpha:]_:\t'")" cpus
    move_to home
    until_is "$expected" cpus
    as_user h1 touch "$dir/end"
    has_ended 0
}

cpus() { on h1 sh -c "tail -n 1 $dir/out | tr -d '[:alpha:]_:\t'"; }

a_loop_that_moves() {
    start_pipe 'seq 3 >list; while read -r x; do om run sh -c "while [ ! -e go-$x ]; do sleep 0.05; done; echo $x; read -r y; echo \$y"; done <list'
    move_to "$SECOND"
    as_user h1 touch "$dir/go-1"
    has_printed 2
    as_user h1 touch "$dir/go-3"
    has_ended 0
    is output "$(content out | paste -s -d ' ')" '1 2 3 '
}

main
