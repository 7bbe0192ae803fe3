# What one run of demo, benchmarks or tests has on this machine for itself: a directory with om's programs, two users,
# and labs. Needs say.sh, user.sh, and HERE: where the scripts are.

# shellcheck shell=bash

unset OM_BIN OM_LAB

# Makes it for a run of this kind, from the programs that cargo has built with PROFILE. Sets, for those who are started
# too:
#   OM_BIN   the directory with om's programs, which any user may run
#   OM_LAB   a name for scripts/lab that nobody else uses; further ones may begin with it
# and what make_users sets.
make_stage() { # KIND PROFILE
    remove_leftovers "$1"
    export OM_LAB=$1-$$
    # The work tree may be closed to ordinary users.
    OM_BIN=$(mktemp --directory "/tmp/om-$OM_LAB.XXXXXX")
    export OM_BIN
    chmod 755 "$OM_BIN"
    find "${CARGO_TARGET_DIR:-$HERE/../target}/$2" -maxdepth 1 -type f -executable -exec cp --target-directory "$OM_BIN" {} +
    make_users
}

remove_stage() {
    remove_labs
    remove_users
    rm --recursive --force "${OM_BIN:-/nonexistent}"
}

remove_labs() {
    local state
    [[ ! ${OM_LAB-} ]] || for state in /run/om-lab/"$OM_LAB"*/; do
        "$HERE/lab" --name "$(basename "$state")" down
    done
}

# What runs of this kind have left that were killed.
remove_leftovers() { # KIND
    local path pid
    for path in /run/om-lab/"$1"-* /tmp/om-"$1"-*; do
        pid=${path##*/"om-$1-"} pid=${pid##*/"$1-"} pid=${pid%%[!0-9]*}
        [[ $pid && ! -e /proc/$pid/exe ]] || continue
        case $path in
            /tmp/*) rm --recursive --force "$path" ;;
            *) "$HERE/lab" --name "${path##*/}" down ;;
        esac
    done
}
