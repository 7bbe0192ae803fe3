# Who a script runs as. Needs say.sh.

# shellcheck shell=bash

# become_root ARG…: starts the script again through sudo, with the same arguments, unless it is root's already.
become_root() {
    ((EUID != 0)) || return 0
    command -v sudo >/dev/null || die "needs root; run it as root (there is no sudo here)"
    say "needs root: starting again through sudo"
    # sudo has a PATH of its own, in which the caller's cargo is not found.
    exec sudo -- env "PATH=$PATH" "$0" "$@"
}

# as_caller CMD…: runs CMD as the user who called sudo, so that what it makes in the work tree and in ~/.cargo is
# that user's; as root if nobody did.
as_caller() {
    if [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
        sudo --user "$SUDO_USER" --set-home -- env "PATH=$PATH" "$@"
    else
        "$@"
    fi
}
