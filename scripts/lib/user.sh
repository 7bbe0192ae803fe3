# The ordinary user of one run of demo or tests, whose id the machine's own users do not have.

# shellcheck shell=bash

unset OM_USER

# Makes the user om-run-PID, with PID the script's own, and sets OM_USER to that name. There is no home directory:
# /srv is, where each lab host has files of its own.
make_user() {
    local name
    while IFS=: read -r name _; do
        # Left by a run that was killed.
        [[ $name != om-run-* || -d /proc/${name##*-} ]] || userdel "$name"
    done </etc/passwd
    export OM_USER=om-run-$$
    useradd --no-create-home --home-dir /srv --shell /bin/bash -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 "$OM_USER"
}

remove_user() {
    [[ ! ${OM_USER-} ]] || ! id "$OM_USER" >/dev/null 2>&1 || userdel "$OM_USER"
}
