#!/bin/bash
# Moves that fail halfway: the job runs on where it was, or waits frozen for who knows. The keepers of debug builds can be
# held at named steps of a move (crates/om-migd/src/keeper/step.rs).

# shellcheck disable=SC2016 # the hosts' shells fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

export OM_STEPS=/run/om/steps

main() {
    # Nothing moves by itself here.
    start_lab 3 om-migd
    local step host
    for host in h1 h2 h3; do
        on "$host" mkdir "$OM_STEPS"
    done

    for step in offered received restored; do
        try "a target that dies at '$step' leaves the job running" target_dies "$step"
    done
    try "a target without memory to let the job run dies before it has it" starved
    try "a source in doubt waits for home, and destroys nothing" in_doubt_without_home
    try "a source in doubt that cannot reach home is told by the target" told_by_the_target
    try "a stopped job that may go on during its move goes on where it has come" continued_in_a_move
    try "a stopped job that may go on while it cannot be reached goes on" continued_out_of_reach
    try "a job whose om run dies while it cannot be reached is killed later" killed_out_of_reach
    try "signals for a job that cannot be reached arrive later, and once" signalled_out_of_reach
    try "a job that the kernel does not let run is let run later" refused_by_the_kernel
}

# Lets the next keeper on this host that comes to the step be held there.
set_trap() { on "$1" touch "$OM_STEPS/$2"; } # HOST STEP
is_held() { on "$1" test -e "$OM_STEPS/$2.reached"; } # HOST STEP
release() { on "$1" rm --force "$OM_STEPS/$2" "$OM_STEPS/$2.reached"; } # HOST STEP

target_dies() { # STEP
    local before ms
    start_job python3 /srv/programs/ticker.py
    has_printed '10 h1'
    set_trap h2 "$1"
    write_om_file where "$SECOND"
    until_ok is_held h2 "$1"
    on h2 pkill -KILL -f '^/proc/self/exe keeper'
    before=$(on h1 wc --lines "$dir/ticks") ms=$(date +%s%3N)
    until_ok on h1 sh -c "test \"\$(wc --lines $dir/ticks)\" != '$before'"
    ms=$(($(date +%s%3N) - ms))
    # A second, and something for a machine that is busy.
    ((ms < 4000)) || fail "it stood still for $ms ms"
    until_is home om_file where
    [[ $(om_file result) == "failed $SECOND "* ]] || fail "result: $(om_file result)"
    release h2 "$1"
    is nmigs "$(om_file nmigs)" 0
    move_to "$SECOND"
    as_user h1 kill "$pid"
}

# The keeper gets not one page more when it has restored the job and has yet to tell home.
starved() {
    local limited=/sys/fs/cgroup/memory/$OM_LAB
    [[ -e ${limited%/*}/memory.limit_in_bytes ]] || skip "there is no memory controller of cgroup v1 to starve it by"
    start_job python3 /srv/programs/ticker.py
    has_printed '10 h1'
    set_trap h2 restored
    write_om_file where "$SECOND"
    until_ok is_held h2 restored
    # There may be another, of an earlier job, that is about to end.
    on h2 sh -c 'mkdir "$1" && cd "$1" && echo 0 >memory.swappiness && echo 1M >memory.limit_in_bytes
        for keeper in $(pgrep -f "^/proc/self/exe keeper"); do echo "$keeper" >cgroup.procs || :; done
        rm "$2"' sh "$limited" "$OM_STEPS/restored.reached"
    until_ok on h1 grep --quiet "^failed $SECOND" "$ROOT/$pid/om/result"
    is where "$(om_file where)" home
    goes_on
    until_ok on h2 rmdir "$limited"
    as_user h1 kill "$pid"
}

# A guest on h2 on its way to h3 when the line between home and h2 breaks; home is about to tell both that it has granted.
lose_the_line() {
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    set_trap h1 granted
    write_om_file where "$THIRD"
    until_ok is_held h1 granted
    cut_the_line
    guest=$(on h2 sh -c "cd $ROOT && echo [1-9]*")
    release h1 granted
}

cut_the_line() {
    on h1 ip route add blackhole "$SECOND"
    on h2 ip route add blackhole "$HOME_NODE"
}

mend_the_line() {
    on h1 ip route del blackhole "$SECOND"
    on h2 ip route del blackhole "$HOME_NODE"
}

told_by_the_target() {
    lose_the_line
    is 'where of the guest' "$(on h2 cat "$ROOT/$guest/om/where")" migrating
    # Long before the grace of 60 s.
    until_ok on h2 sh -c "! pgrep -u $OM_USER"
    mend_the_line
    is where "$(om_file where)" "$THIRD"
    until_ok on h1 sh -c "tail -n 1 $dir/out | grep -q h3"
    as_user h1 kill "$pid"
}

in_doubt_without_home() {
    lose_the_line
    # Nor can it reach the target.
    on h2 ip route add blackhole "$THIRD"
    sleep 5
    is 'where of the guest' "$(on h2 cat "$ROOT/$guest/om/where")" migrating
    on h2 pgrep -u "$OM_USER" >/dev/null || fail "the source has destroyed its copy by itself"
    mend_the_line
    on h2 ip route del blackhole "$THIRD"
    until_ok on h2 sh -c "! pgrep -u $OM_USER"
    until_ok on h1 sh -c "tail -n 1 $dir/out | grep -q h3"
    as_user h1 kill "$pid"
}

# --- jobs that their users have stopped ---

stop_job() {
    as_user h1 kill -STOP "$pid"
    until_ok on h1 grep --quiet '^state stopped' "$ROOT/$pid/om/stat"
}

goes_on() {
    local before
    before=$(on h1 wc --lines "$dir/ticks")
    until_ok on h1 sh -c "test \"\$(wc --lines $dir/ticks)\" != '$before'"
}

continued_in_a_move() {
    start_job python3 /srv/programs/ticker.py
    has_printed '10 h1'
    stop_job
    set_trap h1 frozen
    write_om_file where "$SECOND"
    until_ok is_held h1 frozen
    as_user h1 kill -CONT "$pid"
    # Home looks twice a second.
    sleep 2
    release h1 frozen
    is_at "$SECOND"
    goes_on
    as_user h1 kill "$pid"
}

continued_out_of_reach() {
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    stop_job
    cut_the_line
    as_user h1 kill -CONT "$pid"
    until_broken
    mend_the_line
    goes_on
    as_user h1 kill "$pid"
}

killed_out_of_reach() {
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    cut_the_line
    as_user h1 kill -KILL "$pid"
    until_broken
    mend_the_line
    until_ok on h2 sh -c "! pgrep -u $OM_USER"
}

signalled_out_of_reach() {
    start_job bash -c 'trap "echo got" USR1; trap "echo got another" USR2; echo ready; while :; do sleep 0.05; done'
    has_printed ready
    move_to "$SECOND"
    as_user h1 kill -USR2 "$pid"
    has_printed 'got another'
    cut_the_line
    as_user h1 kill -USR1 "$pid"
    as_user h1 kill -USR2 "$pid"
    until_broken
    mend_the_line
    until_ok on h1 sh -c "test \"\$(wc --lines <$dir/out)\" -eq 4"
    # One that came twice would have by now.
    move_to home
    is output "$(content out | sort | uniq --count | tr --squeeze-repeats ' \n' ' ')" ' 1 got 2 got another 1 ready '
    as_user h1 kill -KILL "$pid"
}

# Until both ends have given up every connection over the line, and what was sent over it.
until_broken() {
    until_ok on h1 sh -c "! ss --no-header --tcp state established dst $SECOND | grep ."
    until_ok on h2 sh -c "! ss --no-header --tcp state established dst $HOME_NODE | grep ."
}

refused_by_the_kernel() {
    local cgroups
    cgroups=$(on h1 findmnt --noheadings --output TARGET --types cgroup2 | head -n 1)
    start_job python3 /srv/programs/ticker.py
    has_printed '10 h1'
    stop_job
    on h1 mount --options remount,bind,ro "$cgroups"
    as_user h1 kill -CONT "$pid"
    until_ok grep --quiet 'cannot let it run' "/run/om-lab/$OM_LAB/h1/console"
    on h1 mount --options remount,bind,rw "$cgroups"
    goes_on
    as_user h1 kill "$pid"
}

main
