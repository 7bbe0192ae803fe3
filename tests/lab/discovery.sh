#!/bin/bash
# Nodes find each other, say goodbye, and are missed: omd on three hosts, heard by a reader of the wire format that
# shares no code with it.

# shellcheck source-path=SCRIPTDIR/../../scripts
# shellcheck disable=SC2016 # awk's own variables
set -euo pipefail
HERE=$(realpath scripts)
source "$HERE/lib/say.sh"
source "$HERE/lib/cluster.sh"

heard=$(mktemp)
trap 'scripts/lab down; rm "$heard"' EXIT

main() {
    scripts/lab up 3
    start_nodes h1 h2 -- omd

    hear h3 2 ask
    answers_come_in_time
    all_is_told
    a_monitoring_node_tells_of_no_migration_daemon
    both_families_carry_the_same
    few_bytes_are_sent
    a_new_node_is_heard_within_a_second
    a_goodbye_is_heard
    other_transports_reach_the_same_listeners
    a_cut_node_is_silent_and_comes_back
    an_interface_that_comes_back_is_noticed
    a_node_that_is_started_again_is_a_new_one
}

# What HOST hears, in $heard; hear.py gives the columns.
hear() { # HOST SECONDS [ask]
    on "$1" python3 "$PWD/tests/lab/hear.py" "${@:2}" >"$heard"
}

# The same in the background; returns once something was heard.
start_hearing() { # HOST SECONDS
    : >"$heard"
    hear "$@" &
    listener=$!
    await 'the listener' 5 test -s "$heard"
}

# Whether a datagram was heard for which the awk expression holds.
was_heard() { awk "$1 { found = 1 } END { exit !found }" "$heard"; }

result() { # NAME CMD…
    if "${@:2}"; then
        echo "ok $1"
    else
        echo "not ok $1"
        sed 's/^/# /' "$heard"
    fi
}

answers_come_in_time() {
    result 'two nodes answer a question within a second' were_both_heard_by 1000
}

were_both_heard_by() { # MILLISECONDS
    was_heard "\$1 <= $1 && \$4 == \"10.77.0.1\" && \$8 ~ /1,2\$/" &&
        was_heard "\$1 <= $1 && \$4 == \"10.77.0.2\" && \$8 ~ /1,2\$/"
}

all_is_told() {
    # Load, memory, capacity, identity, machine: by their tags.
    result 'the answer tells everything' was_heard '$3 == "report" && $8 == "4,5,3,1,2"'
}

a_monitoring_node_tells_of_no_migration_daemon() {
    result 'a node without om-migd tells of no migration' tells_of_none
}

tells_of_none() { was_heard '$3 == "report"' && ! was_heard '$8 ~ /(^|,)6(,|$)/'; }

both_families_carry_the_same() {
    result 'each report comes over IPv4 and IPv6' comes_twice
}

comes_twice() {
    awk '$3 == "report" { seen[$4, $5, $6] = seen[$4, $5, $6] $2 }
        END { for (each in seen) if (seen[each] == "v4v6" || seen[each] == "v6v4") twice++; exit !(twice >= 2) }' "$heard"
}

few_bytes_are_sent() {
    hear h3 20
    result 'a node sends at most 300 bytes a second' is_quiet
}

is_quiet() {
    awk '$4 == "10.77.0.1" { bytes += $7 } END { exit !(bytes > 0 && bytes <= 300 * 20) }' "$heard"
}

a_new_node_is_heard_within_a_second() {
    start_hearing h1 4
    start_nodes h3 -- omd
    wait "$listener"
    result 'a new node is heard within a second of its start' was_heard '$4 == "10.77.0.3" && $9 <= 1000'
}

a_goodbye_is_heard() {
    start_hearing h1 4
    stop_daemon omd h3
    wait "$listener"
    result 'a node that stops says goodbye' was_heard '$3 == "goodbye" && $4 == "10.77.0.3"'
    result 'nothing follows a goodbye' nothing_follows
}

nothing_follows() {
    awk '$4 == "10.77.0.3" && $3 == "goodbye" { gone = 1 } gone && $4 == "10.77.0.3" && $3 == "report" { after = 1 }
        END { exit after }' "$heard"
}

other_transports_reach_the_same_listeners() {
    on h3 tee /etc/om/omd.toml <<<'transport = "broadcast"' >/dev/null
    start_nodes h3 -- omd
    hear h1 3
    result 'a node that broadcasts is heard' was_heard '$2 == "broadcast" && $3 == "report" && $4 == "10.77.0.3"'
    on h3 tee /etc/om/omd.toml <<<'transport = "peers"
        peers = ["10.77.0.1", "fd77::2"]' >/dev/null
    stop_daemon omd h3
    start_nodes h3 -- omd
    hear h1 3
    result 'a node that tells its peers one by one is heard by all their listeners, IPv4' was_heard '$4 == "10.77.0.3" && $2 == "v4"'
    hear h2 3
    result 'a node that tells its peers one by one is heard by all their listeners, IPv6' was_heard '$4 == "10.77.0.3" && $2 == "v4"'
    stop_daemon omd h3
}

a_cut_node_is_silent_and_comes_back() {
    scripts/lab cut h2
    hear h1 4
    result 'a node that is cut off is heard no more' is_missing
    start_hearing h1 6
    scripts/lab heal h2
    wait "$listener"
    result 'a node whose cable is back is heard again' was_heard '$4 == "10.77.0.2"'
}

an_interface_that_comes_back_is_noticed() {
    on h2 ip link set eth0 down
    start_hearing h1 6
    sleep 3
    on h2 ip link set eth0 up
    wait "$listener"
    result 'on a network that has come back a node says again who it is' was_heard '$4 == "10.77.0.2" && $8 ~ /1,2$/'
}

is_missing() { was_heard '$4 == "10.77.0.1"' && ! was_heard '$4 == "10.77.0.2"'; }

a_node_that_is_started_again_is_a_new_one() {
    hear h1 2
    local before
    before=$(epoch_of_h2)
    stop_daemon omd h2 KILL
    start_nodes h2 -- omd
    hear h1 2
    result 'a node that is started again has a greater epoch' test "$(epoch_of_h2)" -gt "$before"
}

epoch_of_h2() { awk '$4 == "10.77.0.2" { epoch = $5 } END { print epoch }' "$heard"; }

main
