#!/bin/bash
# Nodes that die take jobs along: whoever waits for those is told, at once where it is certain, else after the grace. A
# node that is drained first takes none along.

# shellcheck disable=SC2016 # the hosts' shells fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    # Nothing moves by itself here; om drain hears who takes guests.
    start_lab 3 om-migd omd

    try "a job ends with its keeper, and om run says so at once" a_keeper_is_killed
    try "keepers that are killed take their jobs along, every one" keepers_are_killed
    try "a job ends with its node, and om run says so as soon as that is back" a_node_is_started_again
    try "guests end as soon as their home is back without them" a_home_is_started_again
    try "a node that is silent counts as dead after the grace, on both sides" a_node_is_silent
    try "om drain sends guests home and calls own jobs home" drains
    try "a guest goes elsewhere if home does not take it" goes_elsewhere
    try "om drain names what cannot move" names_what_stays
    try "a drain is forgotten when om-migd is started again" is_forgotten
}

# --- deaths ---

a_keeper_is_killed() {
    start_job sleep 1000
    move_to "$SECOND"
    on h2 pkill -KILL -f '^/proc/self/exe keeper'
    is_lost
    until_ok on h2 sh -c "! pgrep -u $OM_USER"
}

keepers_are_killed() {
    local number
    for number in {1..12}; do
        start_job sleep 1000
    done
    on h1 pkill -KILL -f '^/proc/self/exe keeper'
    until_ok on h1 sh -c "! pgrep -u $OM_USER && ! ls /run/om/cgroups | grep ."
}

# om run has ended long before the grace of 60 s, and has said why.
is_lost() {
    has_ended 125
    [[ $(content err) == *"the job is lost: the node $SECOND"* ]] || fail "it says: $(content err)"
}

a_node_is_started_again() {
    start_job sleep 1000
    move_to "$SECOND"
    restart_host h2
    is_lost
}

restart_host() { # HOST
    "$HERE/lab" kill "$1"
    "$HERE/lab" start "$1"
    start_nodes "$1" -- om-migd omd
}

a_home_is_started_again() {
    start_job sleep 1000
    move_to "$SECOND"
    restart_host h1
    until_ok on h2 sh -c "! pgrep -u $OM_USER && ! ls $ROOT/[1-9]*"
}

a_node_is_silent() {
    local host
    for host in h1 h2; do
        on "$host" sh -c 'echo "grace-s = 5" >>/etc/om/migd.toml'
        stop_daemon om-migd "$host"
        start_daemon om-migd "$host"
        until_ok on "$host" om ps
    done
    start_job sleep 1000
    move_to "$SECOND"
    "$HERE/lab" cut h2
    has_ended 125
    [[ $(content err) == *'is silent'* ]] || fail "it says: $(content err)"
    until_ok on h2 sh -c "! pgrep -u $OM_USER"
    "$HERE/lab" heal h2
}

# --- leaving ---

drains() {
    # Of h2, a guest of h1's on it, and a job of its own on h3.
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    own_job_on_third
    on h2 om drain
    is "own job" "$(on h2 cat "$ROOT/$own/om/where")" home
    is where "$(om_file where)" home
    is_refused_by_second
    on h2 om drain off
    until_is off on h2 om expel show
    move_to "$SECOND"
    as_user h2 kill "$own"
    as_user h1 kill "$pid"
}

own_job_on_third() {
    on -d --user "$OM_USER" h2 om run sleep 1000 >/dev/null
    until_ok on h2 pgrep -x -u "$OM_USER" om
    # The first of its two processes is the deputy.
    own=$(on h2 pgrep -o -x -u "$OM_USER" om)
    until_ok as_user h2 om move "$own" "$THIRD"
}

is_refused_by_second() {
    local said
    said=$(as_user h1 om move "$pid" "$SECOND" 2>&1) && fail "it takes guests"
    [[ $said == *'takes no guests'* ]] || fail "$said"
}

goes_elsewhere() {
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    # Home has no memory for it, as far as it can see.
    on h1 sh -c "sed 's/^MemAvailable:.*/MemAvailable: 70000 kB/' /proc/meminfo >/run/meminfo && mount --bind /run/meminfo /proc/meminfo"
    on h2 om drain
    is where "$(om_file where)" "$THIRD"
    on h1 umount /proc/meminfo
    on h2 om drain off
    as_user h1 kill "$pid"
}

names_what_stays() {
    start_job python3 /srv/programs/stay.py listening begin
    move_to "$SECOND"
    as_user h1 touch "$dir/begin"
    has_printed ready
    local guest said
    guest=$(on h2 sh -c "cd $ROOT && echo [1-9]*")
    said=$(on h2 om drain --within 1 2>&1) && fail "nothing is left, it says"
    is message "$said" "om: not moved within 1 s: $guest (socket)"
    on h2 om drain off
    as_user h1 touch "$dir/end"
}

is_forgotten() {
    on h2 om drain
    is drain "$(on h2 om drain show)" on
    stop_daemon om-migd h2
    start_daemon om-migd h2
    until_ok on h2 om ps
    is drain "$(on h2 om drain show)" off
    is block "$(on h2 om block show)" off
    # Only systemd knows whether it is a restart, and here is none.
    on h2 om drain --unless-restarting om-migd.service
    is drain "$(on h2 om drain show)" on
    on h2 om drain off
}

main
