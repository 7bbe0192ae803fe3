#!/bin/bash
# Schedulers on two hosts with a CPU each: jobs spread by themselves, and never to a node that cannot take them.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

# So long a scheduler that would do something wrong is given to do it: it looks at the jobs four times a second.
readonly TEMPTATION=6

main() {
    if (($(nproc) < 2)); then
        echo "skip jobs spread by themselves: this machine has one CPU"
        return
    fi
    # h2 only monitors at first.
    "$HERE/lab" up 2 --cpus own
    trap stop_lab EXIT
    start_nodes h1
    start_nodes h2 -- omd
    copy_programs

    try "a new node is told of by om nodes within a second" discovered_in_time
    try "a monitoring node is seen, and is never a target" monitoring_node_is_no_target
    start_nodes h2 -- om-migd om-sched
    try "four jobs of one node spread over two" four_jobs_spread
    try "a locked job stays where it is" locked_job_stays
    try "a blocked node gets nothing" blocked_node_gets_nothing
    try "om why and om history tell what was decided" decisions_are_told
    try "a scheduler in a dry run tells what it would do and does nothing" dry_run_tells
    try "jobs that were called home stay there until they may go" idle_node_is_filled
}

discovered_in_time() {
    local attempt start
    # The machine may be busy: the best of five counts.
    for attempt in 1 2 3 4 5; do
        stop_daemon omd h2
        until_ok eval '! is_heard'
        start=${EPOCHREALTIME/[.,]/}
        start_daemon omd h2
        until_ok is_heard
        ((${EPOCHREALTIME/[.,]/} - start >= 1000000)) || return 0
    done
    fail "not within a second in $attempt attempts"
}

is_heard() { [[ $(on h1 om nodes --json --wait 100) == *'"address":"10.77.0.2"'* ]]; }

# Starts so many jobs on h1 that never end by themselves.
start_hogs() { # COUNT
    local i
    for ((i = 0; i < $1; i++)); do
        start_job --here python3 -c 'while True: pass'
    done
}

# Where the jobs of h1 are, as "2 here, 2 away".
places() {
    on h1 sh -c "cat $ROOT/[1-9]*/om/where" |
        awk '$1 == "home" { here++ } /^[0-9]/ { away++ } END { print here + 0 " here, " away + 0 " away" }'
}

moves() { on h1 sh -c "cat $ROOT/[1-9]*/om/nmigs" | awk '{ sum += $1 } END { print sum + 0 }'; }

monitoring_node_is_no_target() {
    local roles
    roles=$(on h1 om nodes | awk '$1 == "10.77.0.2" { print $NF }')
    is 'roles of h2' "$roles" monitor
    start_hogs 3
    sleep "$TEMPTATION"
    is 'jobs' "$(places)" '3 here, 0 away'
    is 'moves' "$(moves)" 0
}

four_jobs_spread() {
    start_hogs 4
    until_is '2 here, 2 away' places
}

locked_job_stays() {
    start_in_shell 'exec om run --lock python3 -c "while True: pass"'
    local locked
    locked=$(content pid)
    start_hogs 1
    until_is "$SECOND" om_file where
    pid=$locked
    is 'the locked one' "$(om_file where)" home
}

blocked_node_gets_nothing() {
    on h2 om block
    start_hogs 3
    sleep "$TEMPTATION"
    is 'jobs' "$(places)" '3 here, 0 away'
    on h2 om block off
    until_ok eval '[[ $(places) != *" 0 away" ]]'
}

decisions_are_told() {
    start_hogs 2
    until_is '1 here, 1 away' places
    local history
    history=$(on h1 om history)
    [[ $history == *"$SECOND"* ]] || fail "$history"
    [[ $(on h1 om why "$pid") ]] || fail "om why says nothing"
}

dry_run_tells() {
    stop_daemon om-sched h1
    start_daemon om-sched h1 --dry-run
    start_hogs 3
    until_ok eval '[[ $(on h1 om history) == *"$SECOND"* ]]'
    sleep "$TEMPTATION"
    is 'jobs' "$(places)" '3 here, 0 away'
    is 'moves' "$(moves)" 0
    [[ $(on h1 om why "$pid") == *'dry run'* ]] || fail "om why: $(on h1 om why "$pid")"
    stop_daemon om-sched h1
    start_daemon om-sched h1
    until_ok eval '[[ $(places) != *" 0 away" ]]'
}

idle_node_is_filled() {
    start_hogs 3
    until_ok eval '[[ $(places) == "2 here, 1 away" || $(places) == "1 here, 2 away" ]]'
    on h1 om bring # and keep them
    until_is '3 here, 0 away' places
    on h1 om bring off
    until_ok eval '[[ $(places) != *" 0 away" ]]'
}

main
