#!/bin/bash
# The units in examples/systemd say what systemd understands, and omd and om-sched work within what they allow.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

readonly UNITS=examples/systemd
# Of 10, as systemd-analyze security has it.
readonly MOST_EXPOSED=2.0

main() {
    try "systemd finds nothing wrong with the units" verified
    try "omd and om-sched are exposed little" exposed
    try "the account and the directory of the daemons are made as the README says" account
    start_lab 2 om-migd
    try "omd and om-sched work without privileges where they can write nothing" confined
    try "omd and om-sched make no system call that their units forbid" system_calls
}

needs() { # PROGRAM
    command -v "$1" >/dev/null || skip "$1 is not installed"
}

# The units with the programs where they are now.
units() { # DIRECTORY
    local unit
    for unit in "$UNITS"/*.service; do
        sed "s|/usr/local/bin/|$OM_BIN/|" "$unit" >"$1/${unit##*/}"
    done
}

verified() {
    needs systemd-analyze
    local directory said
    directory=$(mktemp --directory)
    units "$directory"
    said=$(systemd-analyze verify "$directory"/*.service 2>&1) || fail "$said"
    rm --recursive "$directory"
    # Releases before 254 do not know this one and go on without.
    said=$(grep --invert-match "'DelegateSubgroup'" <<<"$said") || :
    is 'what it says' "$said" ''
}

exposed() {
    needs systemd-analyze
    local name said
    for name in omd om-sched; do
        said=$(systemd-analyze security --no-pager --offline=true --threshold="${MOST_EXPOSED/./}" "$UNITS/$name.service" 2>&1) ||
            fail "$(tail -n 1 <<<"$said")"
    done
}

account() {
    needs systemd-sysusers
    needs systemd-tmpfiles
    local root
    root=$(mktemp --directory)
    mkdir "$root/etc"
    systemd-sysusers --root="$root" "$PWD/$UNITS/sysusers.conf"
    grep --quiet '^om:' "$root/etc/passwd"
    grep --quiet '^om:' "$root/etc/group"
    systemd-tmpfiles --root="$root" --create "$PWD/$UNITS/tmpfiles.conf"
    is 'mode' "$(stat --format %a:%u:%g "$root/run/om")" "1775:0:$(grep '^om:' "$root/etc/group" | cut -d : -f 3)"
    rm --recursive "$root"
}

# Starts a daemon as its unit does: nothing can be written but /run/om, no capability, no way to one.
start_confined() { # DAEMON HOST
    on -d "$2" unshare --mount --propagation slave bash -euc '
        mount --rbind /run/om /run/om
        while read -r _ _ _ _ point _; do
            case $point in
                /dev | /dev/* | /proc | /proc/* | /sys | /sys/* | /run/om | /run/om/*) ;;
                *) mount -o remount,bind,ro "$point" 2>/dev/null || : ;;
            esac
        done </proc/self/mountinfo
        ! touch /run/x /srv/x /tmp/x 2>/dev/null
        exec setpriv --reuid "$1" --regid "$1" --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$2"' \
        bash "$OM_DAEMON" "$1" >"$(pid_file "$1" "$2")"
}

confined() {
    local host
    for host in h1 h2; do
        # As systemd has it: what is mounted later is mounted for the units, too.
        on "$host" mount --make-rshared /run
        start_confined omd "$host"
        start_confined om-sched "$host"
    done
    until_ok on h1 sh -c 'om nodes | grep -q "^10.77.0.1 .* migrates"'
    until_ok on h1 sh -c 'om nodes | grep -q "^10.77.0.2 .* migrates"'
    start_job sleep 1000
    until_ok on h1 om why "$pid"
    # An om-migd that starts after them.
    stop_daemon om-migd h1
    start_daemon om-migd h1
    until_ok on h1 om ps
    as_user h1 kill "$pid"
    # One that om-sched cannot have seen before.
    start_job sleep 1000
    until_ok on h1 om why "$pid"
    # A node that sends guests away: its own om-sched finds them another place, or om-migd sends them home.
    as_user h1 kill "$pid"
    for host in h1 h2; do
        stop_daemon om-sched "$host"
        stop_daemon omd "$host"
    done
}

# The calls in a set of systemd's, and in the sets in it.
calls_in() { # SET
    local word
    while read -r word _; do
        case $word in
            '#'* | "$1" | '') ;;
            @*) calls_in "$word" ;;
            *) echo "$word" ;;
        esac
    done < <(systemd-analyze --no-pager syscall-filter "$1")
}

system_calls() {
    needs systemd-analyze
    needs strace
    local name allowed forbidden=() set
    for set in privileged resources; do
        mapfile -t -O "${#forbidden[@]}" forbidden < <(calls_in "@$set")
    done
    allowed=$(comm -23 <({ calls_in @default && calls_in @system-service; } | sort --unique) <(printf '%s\n' "${forbidden[@]}" | sort --unique))
    for name in omd om-sched; do
        on h1 timeout --preserve-status 4 strace -f -qq -u "$OM_DAEMON" -o "/srv/$name" "$name" || :
        is "what $name calls" "$(comm -23 <(on h1 sed --quiet --regexp-extended 's/^[0-9]+ +([a-z0-9_]+)\(.*/\1/p' "/srv/$name" | sort --unique) \
            <(printf '%s\n' "$allowed"))" ''
    done
}

main
