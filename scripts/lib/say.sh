# What a script says to its user: one line, with its own name in front.

# shellcheck shell=bash

say() { printf '%s: %s\n' "${0##*/}" "$*"; }

warn() { say "$@" >&2; }

die() {
    warn "$@"
    exit 1
}

# A mistake on the command line has an exit status of its own.
die_usage() {
    warn "$* (see --help)"
    exit 2
}

# Says WHAT and runs CMD, whose output is shown only if it fails.
quietly() { # WHAT CMD…
    local what=$1 output
    shift
    say "$what"
    output=$("$@" 2>&1 </dev/null) && return
    printf '%s\n' "$output" >&2
    warn "failed: $what"
    return 1
}
