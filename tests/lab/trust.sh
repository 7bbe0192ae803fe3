#!/bin/bash
# Who has no key gets in nowhere, and the key can be carried and changed while everything goes on.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    # h3 is the stranger's: it has no daemon.
    "$HERE/lab" up 3
    trap stop_lab EXIT
    start_nodes h1 h2 -- om-migd omd
    copy_programs

    try "the key gets to another node by the documented command, seen by nobody" carried_key
    try "a key is changed in three steps while jobs move" changed_key
    try "recorded reports bring no dead node back" replayed_reports
    try "connections that say nothing or half of it keep no job from moving" silent_connections
    try "a recorded migration connection is worthless" replayed_connection
    try "who connects for a job and says nothing makes room again" silent_callers
}

carried_key() {
    local command bringing seen=''
    command=$(sed -n "s/^ssh root@NODE '\(.*\)' <.*/\1/p" docs/keys.md)
    [[ $command == *'/etc/om'* ]] || fail "no command in docs/keys.md: $command"
    command=${command/chown om:/chown "$OM_DAEMON":}
    on h3 rm --force /etc/om/key
    # Slowly, so that there is time to look.
    on h1 sh -c 'cat /etc/om/key; sleep 2' | on h3 sh -c "$command" &
    bringing=$!
    until_ok on h3 test -s /etc/om/key.new
    is "mode on the way" "$(on h3 stat --format %a /etc/om/key.new)" 600
    ! grep --quiet --recursive --text "$(on h1 cat /etc/om/key)" /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || seen=yes
    is "seen in a process list" "$seen" ''
    wait "$bringing"
    is "owner and mode" "$(on h3 stat --format '%U %a' /etc/om/key)" "$OM_DAEMON 600"
    is key "$(on h3 cat /etc/om/key)" "$(on h1 cat /etc/om/key)"
}

# Brings h1's key to h2, as the documented command does.
bring_key() {
    on h1 cat /etc/om/key | on h2 sh -c "umask 077; cd /etc/om && cat >key.new && chown $OM_DAEMON: key.new && mv key.new key"
}

signing_keys() { on h1 om nodes --json | grep --only-matching '"key":"[0-9a-f]*"' | sort --unique | wc --lines; }

changed_key() {
    local step before
    before=$(on h1 cat /etc/om/key)
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    for step in add sign drop; do
        on h1 om keygen --rotate "$step"
        # One node is a step ahead of the other, and a job moves both ways.
        move_to home
        move_to "$SECOND"
        bring_key
        move_to home
        move_to "$SECOND"
        [[ $step != sign ]] || until_is 1 signing_keys
    done
    [[ $(on h1 cat /etc/om/key) != *"$before"* ]] || fail "the old key is still live"
    until_ok on h1 sh -c "om nodes | grep -q '^$SECOND '"
    move_to home
    as_user h1 touch "$dir/end"
    has_ended 0
    is "owner" "$(on h1 stat --format '%U %a' /etc/om/key)" "$OM_DAEMON 600"
}

replayed_reports() {
    local recorder
    until_ok on h1 sh -c "om nodes | grep -q '^$SECOND '"
    # What h2 says while it is asked and answers, goodbye included.
    recorder=$(on -d h3 python3 "$PWD/tests/lab/replay.py" record /srv/recorded 10.77.0.2)
    until_ok on h3 sh -c '[ "$(wc -c </srv/recorded)" -gt 1000 ]'
    on h1 om nodes >/dev/null
    until_ok on h3 sh -c '[ "$(wc -c </srv/recorded)" -gt 2000 ]'
    stop_daemon omd h2 KILL
    on h3 kill "$recorder"
    on h3 python3 "$PWD/tests/lab/replay.py" replay /srv/recorded 40 &
    local replaying=$!
    # Those who listen anew never heard of it.
    local deadline=$((SECONDS + 4))
    while ((SECONDS < deadline)); do
        [[ $(on h1 om nodes) != *"$SECOND"* ]] || fail "h2 is dead and is shown: $(on h1 om nodes)"
    done
    kill "$replaying" 2>/dev/null || :
    wait "$replaying" || :
    start_daemon omd h2
    until_ok on h1 sh -c "om nodes | grep -q '^$SECOND '"
}

silent_connections() {
    local flooding
    start_job python3 /srv/programs/ticker.py
    flooding=$(on -d h3 python3 -c 'import socket, time
held = []
while True:
    try:
        connection = socket.create_connection(("10.77.0.2", 2901), 1)
        # The beginning of a preamble, and of nothing else.
        connection.sendall(b"omig\2\0\1\0"[: len(held) % 9])
        held.append(connection)
        held = held[-2000:]
    except OSError:
        time.sleep(0.01)')
    until_ok on h2 sh -c '[ "$(ss --no-header --tcp state established "( sport = :2901 )" | wc -l)" -ge 32 ]'
    move_to "$SECOND"
    move_to home
    move_to "$SECOND"
    # 64 of one address, and what it has open by itself.
    (($(on h2 sh -c "ls /proc/$(pid_of om-migd h2)/fd | wc -l") < 128)) || fail "om-migd holds too many connections"
    on h3 kill "$flooding"
    move_to home
    as_user h1 touch "$dir/end"
    has_ended 0
}

replayed_connection() {
    local relaying said
    start_job python3 /srv/programs/ticker.py
    relaying=$(on -d h3 python3 "$PWD/tests/lab/replay.py" relay /srv/connection 10.77.0.2)
    until_ok on h3 sh -c 'ss -ltn | grep -q :2901'
    # A job that is sent to h3 is answered by h2, which is not h3.
    ! said=$(as_user h1 om move "$pid" "$THIRD" 2>&1) || fail "moved: $said"
    until_ok on h3 test -s /srv/connection
    is where "$(om_file where)" home
    on h3 python3 "$PWD/tests/lab/replay.py" connect /srv/connection 10.77.0.2
    on h3 kill "$relaying"
    is jobs "$(on h2 ls /run/om/keepers | wc -l)" 0
    move_to "$SECOND"
    move_to home
    as_user h1 touch "$dir/end"
    has_ended 0
}

silent_callers() {
    local callers
    callers=$(on -d --user "$OM_USER" h1 python3 -c 'import socket, time
held = []
for _ in range(40):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect("/run/om/migd.sock")
time.sleep(1000)')
    until_is 40 keepers
    until_is 0 keepers
    on h1 kill "$callers"
    start_job true
    has_ended 0
}

keepers() { on h1 pgrep --count --full 'keeper$' || :; }

main
