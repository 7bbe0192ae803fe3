#!/bin/bash
# What om run promises: the command is started as a shell would start it, stays so over a move, and ends as it would
# without om.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    start_lab 2 om-migd omd

    try "a command is started with everything that its caller has" is_started_like_the_caller
    try "a move changes nothing of that" stays_as_it_was
    try "exit statuses are the command's" exit_statuses
    try "a command that is not there: 127; that cannot be executed: 126" commands_that_fail
    try "signals that the caller ignores are ignored" ignored_signals
    try "a terminal is the job's terminal, here and there" a_terminal
    try "a process that the command leaves behind lives on and moves" left_behind
    try "a locked job stays" locked
    try "thirty jobs at once" many_jobs
    try "a job of root runs, and stays" a_job_of_root
    try "om ps shows what a job is and where" shown_by_om_ps
}

is_started_like_the_caller() {
    local without with
    without=$(tell_self 'in a directory' nice -n 7)
    with=$(tell_self 'in a directory' nice -n 7 om run)
    [[ $without == *end && $without == *"'a  b', b'x"* ]] || fail "$without"
    [[ $with == "$without" ]] || fail "$(diff <(echo "$without") <(echo "$with"))"
}

stays_as_it_was() {
    on h1 rm --recursive --force /srv/self
    as_user h1 mkdir self
    as_user h1 touch self/wait
    local told job before
    told=$(mktemp)
    tell_self self nice -n 7 om run >"$told" &
    job=$!
    until_ok grep --quiet '^end$' "$told"
    pid=$(on h1 sh -c "cd $ROOT && echo [1-9]*")
    move_to "$SECOND"
    as_user h1 touch self/again
    wait "$job"
    before=$(sed '/^end$/q' "$told")
    [[ $(sed '1,/^end$/d' "$told") == "$before" ]] || fail "$(cat "$told")"
    rm "$told"
}

exit_statuses() {
    local status
    for status in 0 1 42 255; do
        start_job sh -c "exit $status"
        has_ended "$status"
    done
    start_job sh -c 'kill -KILL $$'
    has_ended 137
    start_job sh -c 'kill -TERM $$'
    has_ended 143
}

commands_that_fail() {
    start_job no-such-command --really
    has_ended 127
    is 'lines on stderr' "$(content err)" "om: no-such-command: command not found"
    start_job /srv/programs/ticker.py
    has_ended 126
    one_line /srv/programs/ticker.py
    start_job /srv
    has_ended 126
    one_line /srv
    start_job /srv/programs/ticker.py/x
    [[ $(content status || :) ]] || has_ended 127
    one_line ticker.py/x
}

one_line() { # WITH
    local said
    said=$(content err)
    [[ $said == 'om: '*"$1"* && $said != *$'\n'* ]] || fail "stderr: $said"
}

ignored_signals() {
    start_pipe "trap '' INT USR1; exec om run sh -c 'while [ ! -e end ]; do sleep 0.05; done; echo survived'"
    move_to "$SECOND"
    as_user h1 kill -s INT "$pid"
    as_user h1 kill -s USR1 "$pid"
    as_user h1 touch "$dir/end"
    has_ended 0
    has_printed survived
}

a_terminal() {
    as_user h1 python3 /srv/programs/terminal.py "$SECOND"
}

left_behind() {
    start_job sh -c '(until [ -e end ]; do sleep 0.05; done; cat /proc/sys/kernel/hostname >late) >/dev/null 2>&1 &'
    has_ended 0
    as_user h1 touch "$dir/end"
    until_ok on h1 test -s "$dir/late"
    is "where it ended" "$(content late)" h1
    # It has moved with the command that leaves it behind.
    start_job sh -c '(until [ -e end ]; do sleep 0.05; done; cat /proc/sys/kernel/hostname >late) >/dev/null 2>&1 &
        until [ -e go ]; do sleep 0.05; done'
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_ended 0
    as_user h1 touch "$dir/end"
    until_ok on h1 test -s "$dir/late"
    is "where it ended" "$(content late)" h2
}

locked() {
    start_pipe 'exec om run --lock sh -c "until [ -e end ]; do sleep 0.05; done"'
    is lock "$(om_file lock)" 1
    ! as_user h1 om move "$pid" "$SECOND" || fail "it has moved"
    is where "$(om_file where)" home
    as_user h1 om unlock "$pid"
    as_user h1 om move "$pid" "$SECOND"
    as_user h1 om lock "$pid"
    is lock "$(om_file lock)" 1
    ! as_user h1 om move "$pid" home || fail "it has moved"
    as_user h1 om unlock "$pid"
    as_user h1 om move "$pid" home
    as_user h1 touch "$dir/end"
    has_ended 0
}

many_jobs() {
    start_in_shell 'for i in {1..30}; do om run sh -c "until [ -e end ]; do sleep 0.2; done; echo $i; exit $i" & p[i]=$!; done
        for i in {1..30}; do wait "${p[i]}"; echo "$i $?" >>statuses; done'
    until_is 30 on h1 sh -c "ls $ROOT | grep --count '[0-9]'"
    local number
    number=0
    for pid in $(on h1 sh -c "cd $ROOT && echo [1-9]*"); do
        number=$((number + 1))
        ((number % 6)) || move_to "$SECOND"
    done
    as_user h1 touch "$dir/end"
    has_ended 0
    is statuses "$(content statuses)" "$(for ((i = 1; i <= 30; i++)); do echo "$i $i"; done)"
    is outputs "$(content out | sort -n)" "$(seq 30)"
}

a_job_of_root() {
    local said
    is output "$(on h1 om run id --user)" 0
    on h1 om run sh -c 'touch /srv/started; until [ -e /srv/end-of-root ]; do sleep 0.05; done' &
    local job=$!
    until_ok on h1 test -e /srv/started
    pid=$(on h1 sh -c "cd $ROOT && echo [1-9]*")
    ! said=$(on h1 om move "$pid" "$SECOND" 2>&1) || fail "it has moved"
    [[ $said == *allow-root* ]] || fail "$said"
    on h1 touch /srv/end-of-root
    wait "$job"
}

shown_by_om_ps() {
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    as_user h1 om ps --json | python3 -c 'import json, sys
pid, second = int(sys.argv[1]), sys.argv[2]
job, = json.load(sys.stdin)["jobs"]
expected = {"pid": pid, "where": second, "guest": False, "moves": 1, "state": "running", "locked": False,
            "stay_reasons": [], "command": "python3 /srv/programs/ticker.py", "home_address": "10.77.0.1"}
for key, value in expected.items():
    assert job[key] == value, (key, job[key], value)
assert job["threads"] >= 1 and job["rss_bytes"] > 1 << 20 and job["age_ms"] > 0' "$pid" "$SECOND"
    [[ $(as_user h1 om ps) == *"$pid"*"$SECOND"*ticker.py* ]] || fail "$(as_user h1 om ps)"
    [[ $(as_user h2 om ps) == *"guest of $HOME_NODE"*ticker.py* ]] || fail "$(as_user h2 om ps)"
    as_user h1 touch "$dir/end"
    has_ended 0
    is 'jobs left' "$(as_user h1 om ps --json)" '{"jobs":[]}'
}

main
