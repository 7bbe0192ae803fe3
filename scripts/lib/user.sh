# The ordinary users of one run of demo or tests, whose ids the machine's own users do not have.

# shellcheck shell=bash

unset OM_USER OM_DAEMON

# Makes two users with the script's own PID in their names: OM_USER, om-run-PID, who starts jobs, and OM_DAEMON,
# om-sys-PID, whom omd and om-sched run as. Neither has a home directory: /srv is, where each lab host has files of its
# own.
make_users() {
    local name
    while IFS=: read -r name _; do
        # Left by a run that was killed.
        [[ $name != om-@(run|sys)-* || -e /proc/${name##*-}/exe ]] || userdel "$name"
    done </etc/passwd
    export OM_USER=om-run-$$ OM_DAEMON=om-sys-$$
    useradd --no-create-home --home-dir /srv --shell /bin/bash --user-group \
        -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 "$OM_USER"
    useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --user-group "$OM_DAEMON"
}

remove_users() {
    local name
    for name in ${OM_USER-} ${OM_DAEMON-}; do
        ! id "$name" >/dev/null 2>&1 || userdel "$name"
    done
}
