#!/bin/bash
# Real processes move between three nodes, and nothing that uses them notices.

# shellcheck disable=SC2016 # awk and the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    # Nothing moves by itself here.
    start_lab 3 om-migd omd

    try "a job moves out, onward to a third node, and home" moves_by_om_files
    try "om move moves by address, by name, to the best node, and home" moves_by_command
    try "a guest's node can send it home" moves_by_guest_entry
    try "what is no address or may not be done is refused with the right error" refusals_of_where
    try "a second move while one goes on is refused" two_moves_at_once
    try "the command's exit status comes from wherever it ends" exit_statuses
    try "signals reach the command wherever it is" signals_everywhere
    try "a signal in the middle of a move comes once" signal_during_a_move
    try "signals that nobody catches end the job with 128+n" deadly_signals
    try "killing om run kills the job on the node where it is" kill_everywhere
    try "stopping om run stops the job, also over a move" stop_and_continue
    try "a stream goes through a job that moves, byte by byte" a_stream_through_a_moving_job
    try "cat big | om run sha256sum" big_input
    try "a reader that leaves ends the job by SIGPIPE, here and there" broken_pipes
    try "stdin can be empty, closed or the null device" other_inputs
    try "stdout and stderr that are one file keep their order" joined_outputs
    try "what a guest writes is in home's files" files_at_home
    try "threads, children, shared memory, deleted files move along" a_zoo
    try "many moves in a row do no harm" many_moves
    try "fifty processes move along, and can move again" many_processes
    try "om-migd may be killed and started again at both ends" without_om_migd
    try "om run --time counts what was used on all nodes" time_of_all_nodes
}

# --- how to ask for a move ---

moves_by_om_files() {
    start_job python3 /srv/programs/ticker.py
    is_at_home_at_first
    move_to "$SECOND"
    is nmigs "$(om_file nmigs)" 1
    runs_only_on h2
    until_ok on h1 grep --quiet h2 "$dir/out"
    move_to "$THIRD"
    runs_only_on h3
    until_ok on h1 grep --quiet h3 "$dir/out"
    move_to home
    runs_only_on h1
    end_ticker 0
    visited 'h1 h2 h3 h1'
}

is_at_home_at_first() {
    is where "$(om_file where)" home
    is nmigs "$(om_file nmigs)" 0
    is home "$(om_file home)" "$HOME_NODE"
    is stay "$(om_file stay)" ''
}

# The job's processes are on this node and on no other; those of om run are not the job's.
runs_only_on() { # HOST
    local host expected
    for host in h1 h2 h3; do
        expected=0
        [[ $host != "$1" ]] || expected=1
        until_is "$expected" on "$host" sh -c "pgrep --count --full '^python3 /srv/programs' || :"
    done
}

# Ends the ticker and looks at what it has left: every number once, on stdout, on stderr and in its file.
end_ticker() { # STATUS
    as_user h1 sh -c "echo $1 >$dir/end"
    has_ended "$1"
    on h1 awk '$1 != NR - 1 { exit 1 }' "$dir/out" || fail "stdout has gaps"
    on h1 awk '$1 != "error" || $2 != NR - 1 { exit 1 }' "$dir/err" || fail "stderr has gaps"
    on h1 sh -c "cut -d ' ' -f 1 $dir/out | cmp - $dir/ticks" || fail "the file differs from stdout"
    on h1 sh -c "cut -d ' ' -f 2 $dir/err | cmp - $dir/ticks" || fail "the file differs from stderr"
}

# The nodes in the order in which the ticker has seen them.
visited() { # 'HOST…'
    is nodes "$(on h1 sh -c "cut -d ' ' -f 2 $dir/out | uniq | paste -s -d ' '")" "$1"
}

moves_by_command() {
    start_job python3 /srv/programs/ticker.py
    as_user h1 om move "$pid" "$SECOND"
    is where "$(om_file where)" "$SECOND"
    until_ok on h1 grep --quiet h2 "$dir/out"
    as_user h1 om move "$pid" h3
    is where "$(om_file where)" "$THIRD"
    until_ok on h1 grep --quiet h3 "$dir/out"
    as_user h1 om move "$pid" home
    is where "$(om_file where)" home
    as_user h1 om move "$pid" home # it is there: nothing to do
    is nmigs "$(om_file nmigs)" 3
    as_user h1 om move "$pid" best
    end_ticker 0
}

moves_by_guest_entry() {
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    local guest
    guest=$(on h2 sh -c "cd $ROOT && echo [1-9]*")
    is "where on the guest's node" "$(on h2 cat "$ROOT/$guest/om/where")" "$HOME_NODE"
    is "home on the guest's node" "$(on h2 cat "$ROOT/$guest/om/home")" "$HOME_NODE"
    until_ok on h1 grep --quiet h2 "$dir/out"
    on h2 sh -c "echo $THIRD >$ROOT/$guest/om/where"
    is_at "$THIRD"
    guest=$(on h3 sh -c "cd $ROOT && echo [1-9]*")
    until_ok on h1 grep --quiet h3 "$dir/out"
    as_user h3 sh -c "echo home >$ROOT/$guest/om/where"
    is_at home
    end_ticker 0
    visited 'h1 h2 h3 h1'
}

refusals_of_where() {
    start_job python3 /srv/programs/ticker.py
    local text
    for text in nonsense 10.77.0 10.77.0.2.1 '' 5 h2 -1; do
        refuses "$text" 'Invalid argument'
    done
    refuses 192.0.2.1 'Network is unreachable|No route to host'
    ! on h1 setpriv --reuid "$OM_DAEMON" --clear-groups --regid nogroup \
        bash -c "echo home >$ROOT/$pid/om/where" || fail "a stranger may move it"
    write_om_file lock 1
    refuses "$SECOND" 'Permission denied'
    write_om_file lock 0
    # Where it is already.
    write_om_file where home
    write_om_file where HOME
    write_om_file where "$HOME_NODE"
    is nmigs "$(om_file nmigs)" 0
    end_ticker 0
}

refuses() { # TEXT ERROR
    local said
    said=$(write_om_file where "$1" 2>&1) && fail "'$1' was taken"
    [[ $said =~ $2 ]] || fail "'$1': $said"
}

two_moves_at_once() {
    # Enough memory for a move to take some time.
    start_job python3 -c 'import os, time
memory = os.urandom(300 << 20)
print("ready", flush=True)
while not os.path.exists("end"): time.sleep(0.05)'
    has_printed ready
    local said
    said=$(as_user h1 bash -c 'echo "$2" >"$1"; echo "$3" >"$1"' bash "$ROOT/$pid/om/where" "$SECOND" "$THIRD" 2>&1) || :
    [[ $said == *'Device or resource busy'* ]] || fail "the second was taken: $said"
    is_at "$SECOND"
    is nmigs "$(om_file nmigs)" 1
    as_user h1 touch "$dir/end"
    has_ended 0
}

# --- the end of a job, and signals ---

exit_statuses() {
    local place
    for place in "$SECOND" "$THIRD"; do
        start_job python3 /srv/programs/ticker.py
        move_to "$place"
        end_ticker 7
    done
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    move_to home
    end_ticker 255
    # By a signal that the command sends itself on another node.
    start_job sh -c 'while [ ! -e end ]; do sleep 0.05; done; kill -SEGV $$'
    move_to "$SECOND"
    as_user h1 touch "$dir/end"
    has_ended 139
}

signals_everywhere() {
    start_job python3 /srv/programs/signals.py
    has_printed ready
    local count=0 place name
    for place in home "$SECOND" "$THIRD" home; do
        move_to_unless_there "$place"
        count=$((count + 1))
        for name in HUP INT QUIT USR1 USR2 ALRM TERM WINCH; do
            as_user h1 kill -s "$name" "$pid"
            has_printed "$name $count"
        done
    done
    as_user h1 touch "$dir/end"
    has_ended 0
}

move_to_unless_there() { # ADDRESS|home
    [[ $(om_file where) == "$1" ]] || move_to "$1"
}

signal_during_a_move() {
    start_job python3 /srv/programs/signals.py
    has_printed ready
    local count=0 place
    for place in "$SECOND" "$THIRD" home "$SECOND" home; do
        write_om_file where "$place"
        as_user h1 kill -s USR1 "$pid"
        count=$((count + 1))
        is_at "$place"
        has_printed "USR1 $count"
    done
    as_user h1 touch "$dir/end"
    has_ended 0
    is signals "$(on h1 grep --count USR1 "$dir/out")" "$count"
}

deadly_signals() {
    local name number
    for name in TERM:143 INT:130 HUP:129 USR1:138; do
        number=${name#*:} name=${name%:*}
        start_job sleep 1000
        move_to "$SECOND"
        as_user h1 kill -s "$name" "$pid"
        has_ended "$number"
        nothing_is_left
    done
}

nothing_is_left() {
    local host
    for host in h1 h2 h3; do
        until_ok on "$host" sh -c "! pgrep -u $OM_USER"
        until_ok on "$host" sh -c "! ls $ROOT/[1-9]* && ! grep -q om-root /proc/*/mountinfo"
    done
}

kill_everywhere() {
    local place
    for place in home "$SECOND"; do
        start_job sh -c 'sleep 1000 & sleep 1000'
        move_to_unless_there "$place"
        as_user h1 kill -s KILL "$pid"
        has_ended 137
        nothing_is_left
    done
}

stop_and_continue() {
    start_job python3 /srv/programs/ticker.py
    has_printed '10 h1'
    as_user h1 kill -s STOP "$pid"
    until_is 'state stopped' state
    stands_still
    move_to "$SECOND"
    until_is 'state stopped' state
    stands_still
    as_user h1 kill -s CONT "$pid"
    until_is 'state running' state
    until_ok on h1 grep --quiet h2 "$dir/out"
    as_user h1 kill -s STOP "$pid"
    until_is 'state stopped' state
    stands_still
    move_to home
    stands_still
    as_user h1 kill -s CONT "$pid"
    end_ticker 0
}

state() { om_file stat | grep '^state '; }

stands_still() {
    local before
    sleep 0.3 # what is still on its way
    before=$(on h1 wc --lines "$dir/ticks")
    sleep 0.5
    is 'lines of a stopped job' "$(on h1 wc --lines "$dir/ticks")" "$before"
}

# --- streams ---

a_stream_through_a_moving_job() {
    start_pipe 'head -c 30M /dev/urandom | tee >(sha256sum >sent) | om run python3 /srv/programs/slowcat.py | sha256sum >received'
    move_to "$SECOND"
    until_ok on h1 grep --quiet --line-regexp 'block 100' "$dir/err"
    move_to "$THIRD"
    until_ok on h1 grep --quiet --line-regexp 'block 200' "$dir/err"
    move_to home
    until_ok on h1 grep --quiet --line-regexp 'block 300' "$dir/err"
    move_to "$SECOND"
    has_ended 0
    is checksum "$(content received)" "$(content sent)"
    on h1 awk '$2 != NR - 1 { exit 1 }' "$dir/err" || fail "stderr has gaps"
}

big_input() {
    # Before it starts to read it is a guest already.
    start_pipe 'head -c 40M /dev/urandom >big; cat big | om run sh -c "while [ ! -e go ]; do sleep 0.05; done; sha256sum"'
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_ended 0
    is checksum "$(content out)" "$(on h1 sh -c "sha256sum <$dir/big")"
}

broken_pipes() {
    start_pipe 'om run yes | head -n 5; echo "${PIPESTATUS[*]}" >statuses'
    has_ended 0
    is statuses "$(content statuses)" '141 0'
    is 'lines of head' "$(on h1 grep --count '^y$' "$dir/out")" 5
    start_pipe 'om run sh -c "while [ ! -e go ]; do sleep 0.05; done; exec yes" | head -n 5; echo "${PIPESTATUS[*]}" >statuses'
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_ended 0
    is 'statuses of a guest' "$(content statuses)" '141 0'
    nothing_is_left
}

other_inputs() {
    local redirection
    for redirection in '</dev/null' '<&-' '< <(:)'; do
        start_pipe "om run sh -c 'while [ ! -e go ]; do sleep 0.05; done; cat; echo \$?' $redirection"
        move_to "$SECOND"
        as_user h1 touch "$dir/go"
        has_ended 0
        [[ $(content out) == [01] ]] || fail "$redirection: $(content out)"
    done
}

joined_outputs() {
    start_pipe 'exec om run sh -c "i=0; while [ \$i -lt 400 ]; do echo \$i; i=\$((i + 1)); echo \$i >&2; i=\$((i + 1)); sleep 0.01; done" 2>&1'
    move_to "$SECOND"
    move_to "$THIRD"
    has_ended 0
    on h1 awk '$1 != NR - 1 { exit 1 } END { exit NR != 400 }' "$dir/out" || fail "they are mixed up"
}

# --- files, memory, processes ---

files_at_home() {
    start_job sh -c 'while [ ! -e go ]; do sleep 0.05; done
        mkdir sub && echo written on $(cat /proc/sys/kernel/hostname) >sub/file && ln -s file sub/link && chmod 640 sub/file
        head -c 3000000 in >copy && mv copy moved && cat sub/link && until [ -e end ]; do sleep 0.05; done; cat sub/link'
    on h1 sh -c "head -c 5M /dev/urandom >$dir/in"
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_printed 'written on h2'
    until_ok on h1 test -e "$dir/moved"
    is 'the file at home' "$(content sub/file)" 'written on h2'
    is 'owner, mode and type' "$(on h1 stat --format '%U %a %F' "$dir/sub/file" "$dir/sub/link" | paste -s -d ,)" \
        "$OM_USER 640 regular file,$OM_USER 777 symbolic link"
    on h1 cmp --bytes 3000000 "$dir/in" "$dir/moved"
    ! on h2 test -e "$dir" || fail "the file is on h2"
    move_to home
    as_user h1 touch "$dir/end"
    has_ended 0
}

a_zoo() {
    start_job env OM_TEST=yes python3 /srv/programs/zoo.py
    local place host
    for place in home:h1 "$SECOND:h2" "$THIRD:h3" "$SECOND:h2" home:h1; do
        host=${place#*:}
        move_to_unless_there "${place%:*}"
        until_ok on h1 grep --quiet "^round [0-9]* $host$" "$dir/out"
    done
    as_user h1 touch "$dir/end"
    has_ended 0
}

many_moves() {
    start_job python3 /srv/programs/ticker.py
    local round
    for ((round = 0; round < 5; round++)); do
        move_to "$SECOND"
        move_to "$THIRD"
        move_to home
    done
    is nmigs "$(om_file nmigs)" 15
    end_ticker 0
}

# All of them map the same files, which are opened on the new node at the same moment.
many_processes() {
    start_job python3 -c 'import os, time
for child in range(50):
    if os.fork() == 0:
        break
while not os.path.exists("end"):
    time.sleep(0.05)'
    local round
    for round in 1 2 3; do
        move_to "$SECOND"
        is stay "$(om_file stay)" ''
        move_to home
    done
    as_user h1 touch "$dir/end"
    has_ended 0
}

without_om_migd() {
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    local host before
    for host in h1 h2; do
        stop_daemon om-migd "$host" KILL
        before=$(on h1 wc --lines "$dir/ticks")
        until_ok on h1 sh -c "test \"\$(wc --lines $dir/ticks)\" != '$before'"
        start_daemon om-migd "$host"
        until_ok on "$host" om ps
        until_is "$SECOND" om_file where
    done
    move_to home
    move_to "$THIRD"
    end_ticker 3
}

time_of_all_nodes() {
    start_pipe 'exec om run --time sh -c "while [ ! -e end ]; do :; done"'
    sleep 0.5
    move_to "$SECOND"
    sleep 0.5
    move_to home
    as_user h1 touch "$dir/end"
    has_ended 0
    is moves "$(on h1 sh -c "tail -n 1 $dir/err")" 'moves 2'
    on h1 awk '{ t[$1] = $2 } END { exit !(t["user"] + t["sys"] > 0.1 && t["user"] + t["sys"] <= t["real"] + 0.1) }' "$dir/err" ||
        fail "the times are wrong"
}

main
