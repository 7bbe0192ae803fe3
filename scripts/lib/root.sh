# Who a script runs as. Needs say.sh.

# shellcheck shell=bash

# Starts the script again through sudo, with the same arguments, unless root runs it already.
become_root() { # ARG…
    ((EUID != 0)) || return 0
    command -v sudo >/dev/null || die "needs root, and there is no sudo here: please run it as root"
    warn "needs root: starting again through sudo"
    # sudo has a PATH of its own, in which the caller's cargo is not found, and drops om's settings.
    local name settings=()
    for name in PATH CI "${!OM_@}"; do
        [[ ! -v $name ]] || settings+=("$name=${!name}")
    done
    exec sudo -- env "${settings[@]}" "$0" "$@"
}

# In front of a command: run it as the user who called sudo, if somebody did, so that what it makes in the work tree and
# in ~/.cargo is that user's.
AS_CALLER=()
if [[ ${SUDO_USER:-root} != root ]]; then
    # shellcheck disable=SC2034 # scripts that build use it
    AS_CALLER=(sudo --user "$SUDO_USER" --set-home -- env "PATH=$PATH")
fi
