# What a script says to its user: one line, with its own name in front.
# Sourced by the scripts beside lib/.

# shellcheck shell=bash

say() { printf '%s: %s\n' "${0##*/}" "$*"; }

warn() { say "$@" >&2; }

die() {
    warn "$@"
    exit 1
}

# die_usage MESSAGE: a mistake on the command line, which has an exit status of its own.
die_usage() {
    warn "$* (see ${0##*/} --help)"
    exit 2
}

# quietly WHAT CMD…: says WHAT and runs CMD; what CMD prints is shown only if it fails.
quietly() {
    local what=$1 output
    shift
    say "$what"
    output=$("$@" 2>&1 </dev/null) && return
    printf '%s\n' "$output" >&2
    warn "failed: $what"
    return 1
}
