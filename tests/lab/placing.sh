#!/bin/bash
# Where jobs start and where their users let them run, on two hosts with a CPU each: the best place at start, lists of
# nodes, the owner's priority, and a scheduler in another language.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

# So long a scheduler that would do something wrong is given to do it.
readonly TEMPTATION=6

main() {
    if (($(nproc) < 2)); then
        echo "skip where jobs start: this machine has one CPU"
        return
    fi
    "$HERE/lab" up 2 --cpus own
    trap stop_lab EXIT
    start_nodes h1 h2
    copy_programs
    cp examples/python/scheduler.py "$OM_BIN"
    until_ok are_heard

    try "a job that finds this node busy starts on the idle one" starts_where_it_is_idle
    try "with --here, --lock and --stay it starts here" starts_here
    try "a job started elsewhere is what it would be here" is_started_the_same
    try "a command that is not there is 127 and one that cannot be executed 126 elsewhere too" commands_that_fail
    try "where the other node does not take it, it starts here, once" falls_back
    try "without a scheduler it starts here at once" without_scheduler
    try "a job runs on the nodes that its user names, and nowhere else" on_named_nodes
    try "om move and the om files refuse other nodes, and say why" refuses_other_nodes
    try "names that nobody has are refused before anything starts" unknown_names
    try "guests leave while the owner's own load wants the CPU" owner_comes_first
    try "om history tells what a move has brought" history_tells
    stop_daemon om-sched h1
    stop_daemon om-sched h2
    try "a scheduler in Python moves jobs by the om files" python_moves
}

are_heard() { [[ $(on h1 om nodes --json --wait 200) == *'"host_name":"h2"'* ]]; }

hog() { start_job "$@" -- python3 -c 'while True: pass'; }

# Waits until the schedulers know no job any more.
calm() {
    on h1 pkill -KILL -u "$OM_USER" || :
    until_ok eval '[[ ! $(on h1 sh -c "ls $ROOT | grep [0-9]") && ! $(on h2 sh -c "ls $ROOT | grep [0-9]") ]]'
    sleep 3
}

# A locked job keeps h1's CPU busy, and h1's scheduler knows it.
busy() {
    calm
    start_in_shell 'exec om run --lock python3 -c "while True: pass"'
    sleep 2
}

hosts_of() { # COUNT OPTION…
    local i
    for ((i = 0; i < $1; i++)); do
        as_user h1 om run "${@:2}" cat /proc/sys/kernel/hostname
    done
}

starts_where_it_is_idle() {
    busy
    local seen
    seen=$(hosts_of 5 | sort | uniq -c)
    [[ $seen == *"h2"* ]] || fail "none of five started on h2: $seen"
    until_ok eval '[[ $(hosts_of 1) == h2 ]]'
    hog
    until_is "$SECOND" om_file where
    is 'its moves' "$(om_file nmigs)" 0
    until_ok eval '[[ $(on h1 om why "$pid") == *"starts there, 1 asked in "*" ms, got "*"; may get "* ]]'
}

starts_here() {
    busy
    local option
    for option in --here --lock --stay; do
        is "with $option" "$(hosts_of 1 $option)" h1
    done
}

is_started_the_same() {
    calm
    local here there
    here=$(tell_self 'in a directory' nice -n 7 om run --here)
    there=$(tell_self 'in a directory' nice -n 7 om run --on h2)
    [[ $here == *end ]] || fail "$here"
    [[ $there == "$here" ]] || fail "$(diff <(echo "$here") <(echo "$there"))"
    is input "$(echo words | as_user h1 om run --on h2 tr a-z A-Z)" WORDS
    is status "$(as_user h1 om run --on h2 sh -c 'kill -TERM $$' || echo $?)" 143
    local report
    report=$(as_user h1 om run --time --on h2 cat /proc/sys/kernel/hostname 2>&1)
    [[ $report == h2*real*moves\ 0* ]] || fail "$report"
}

commands_that_fail() {
    local said
    said=$(as_user h1 om run --on h2 no-such-command 2>&1 || echo "$?")
    is said "$said" $'om: no-such-command: command not found\n127'
    said=$(as_user h1 om run --on h2 /srv/programs/ticker.py 2>&1 || echo "$?")
    [[ $said == 'om: /srv/programs/ticker.py: cannot be executed'*$'\n126' ]] || fail "$said"
}

falls_back() {
    calm
    on h2 om block
    as_user h1 rm --force count
    is where "$(as_user h1 om run --on h2 sh -c 'echo once >>/srv/count; cat /proc/sys/kernel/hostname' 2>/dev/null)" h1
    is count "$(as_user h1 cat count)" once
    on h2 om block off
    # The scheduler does not know yet that om-migd is not there any more.
    until_ok eval '[[ $(hosts_of 1 --on h2) == h2 ]]'
    stop_daemon om-migd h2
    is where "$(hosts_of 1 --on h2 2>/dev/null)" h1
    start_daemon om-migd h2
    await "om-migd on h2" 20 on h2 test -S /run/om/migd.sock
    until_ok eval '[[ $(hosts_of 1 --on h2) == h2 ]]'
}

without_scheduler() {
    stop_daemon om-sched h1
    is where "$(hosts_of 1)" h1
    is 'where, with a node named' "$(hosts_of 1 --on "$SECOND")" h2
    start_daemon om-sched h1
    until_ok eval '[[ $(hosts_of 1 --on h2) == h2 ]]'
}

on_named_nodes() {
    calm
    hog --on h2
    is_there_and_stays "$SECOND"
    hog --not-on h2
    hog --not-on h2
    is_there_and_stays home
    hog --stay
    is_there_and_stays home
    local listed
    listed=$(on h1 om ps --all)
    [[ $listed == *"on $SECOND"* && $listed == *"not on $SECOND"* && $listed == *stays* ]] || fail "$listed"
    [[ $(on h1 om ps --json) == *'"on":["10.77.0.2"]'* ]] || fail "$(on h1 om ps --json)"
}

is_there_and_stays() { # WHERE
    until_is "$1" om_file where
    sleep "$TEMPTATION"
    is where "$(om_file where)" "$1"
}

refuses_other_nodes() {
    calm
    start_job --not-on h2 -- sleep 600
    local said
    said=$(as_user h1 om move "$pid" h2 2>&1) && fail "it has moved"
    is said "$said" "om: $pid: it cannot move: its owner does not let it run on $SECOND (om run --not-on)"
    start_job --stay -- sleep 600
    said=$(as_user h1 om move "$pid" h2 2>&1) && fail "it has moved"
    [[ $said == *"its owner keeps it at home (om run --stay)"* ]] || fail "$said"
    start_job --on h2 -- sleep 600
    until_is "$SECOND" om_file where
    as_user h1 om move "$pid" home
    # Where it is not wanted it does not stay.
    until_is "$SECOND" om_file where
}

unknown_names() {
    local said
    said=$(as_user h1 om run --on h7 true 2>&1) && fail "it has run"
    is said "$said" "om: no node called h7 is heard; om nodes shows who is there"
    is status "$(as_user h1 om run --on h7 true 2>/dev/null || echo $?)" 2
}

owner_comes_first() {
    calm
    on h2 sh -c 'echo "owner-first = true" >/etc/om/om-sched.toml'
    on h2 kill -s HUP "$(pid_of om-sched h2)"
    hog --on h2
    until_is "$SECOND" om_file where
    on -d --user "$OM_USER" h2 python3 -c 'while True: pass' >/dev/null
    until_is home om_file where
    sleep "$TEMPTATION"
    is where "$(om_file where)" home
    on h2 pkill -KILL -u "$OM_USER"
    until_is "$SECOND" om_file where
    on h2 rm /etc/om/om-sched.toml
    on h2 kill -s HUP "$(pid_of om-sched h2)"
}

history_tells() {
    calm
    hog --here
    hog --here
    until_ok eval '[[ $(on h1 om history) == *"moved in"*"CPUs before and"*since* ]]'
    [[ $(on h1 om why "$pid") ]] || fail "om why says nothing"
}

python_moves() {
    calm
    on -d --user "$OM_DAEMON" h1 env "PATH=$OM_BIN:$PATH" python3 "$OM_BIN/scheduler.py" >/dev/null
    hog
    hog
    hog
    until_ok eval '[[ $(on h1 sh -c "cat $ROOT/[1-9]*/om/where") == *10.77.0.2* ]]'
}

main
