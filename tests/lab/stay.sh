#!/bin/bash
# What cannot move says so before anything is frozen, and moves once the cause is gone. Ordinary programs have no reason
# to stay.

# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    # Nothing moves by itself here.
    start_lab 2 om-migd

    try "ordinary programs have no reason to stay" ordinary_programs
    try "a program that holds what can be moved has none" a_zoo
    try "starting a program is no reason" stays_not starting
    try "a job that starts one program after the other moves" starts_programs

    local word cause
    while read -r word cause; do
        try "$word: $cause" stays "$word" "$cause"
    done <<'END'
socket listening
socket listening6
socket connected
socket datagrams
unix_socket unix
netlink netlink
io_uring io_uring
kernel_object userfaultfd
device device
pidfd pidfd
tty terminal
deleted_file deleted
deleted_file deleted_mapping
hard_link renamed_away
file_lock flock
file_lock inherited_flock
file_lock record_lock
mount queue
inotify watch
packet_pipe packets
dead_proc dead_process
mmap_dev secret
traced traced
unshared_thread own_directory
unshared_thread own_files
END
    # Those that only root can have; root's jobs do not leave home here.
    while read -r word cause; do
        try "$word: $cause" root_stays "$word" "$cause"
    done <<'END'
socket raw
device disk
alarm_timer alarm
ids other_user
ids other_group
namespace namespace
namespace namespace_of_a_thread
rt_sched deadline
END
    try "dead_leader: dead_leader" stays_for_good dead_leader dead_leader
    try "clone_vm: memory" clone_stays clone_vm memory
    try "clone_fs: directory" clone_stays clone_fs directory

    try "a cause that comes up on a guest's node is told at home" stays_away
    try "docs/stay-reasons.md has every reason" all_are_described
}

# --- what moves ---

ordinary_programs() {
    local place
    for place in home "$SECOND"; do
        start_job python3 /srv/programs/ticker.py
        never_stays "$place"
        start_job sh -c 'while :; do seq 1000 | sort -R | tail -n 1 & date >date; wait; done'
        never_stays "$place"
        start_job sh -c 'while :; do head -c 1000000 /dev/urandom | xz -T2 >x.xz; done'
        never_stays "$place"
    done
}

# The job has no reason to stay, however often one looks.
never_stays() { # ADDRESS|home
    local i
    [[ $1 == home ]] || move_to "$1"
    for ((i = 0; i < 40; i++)); do
        is stay "$(om_file stay)" ''
    done
    as_user h1 kill "$pid"
    until_ok on h1 test -e "$dir/status"
}

a_zoo() {
    start_job python3 /srv/programs/zoo.py
    until_ok on h1 grep --quiet '^round' "$dir/out"
    never_stays home
}

# CRIU cannot take hold of a process between vfork and exec: a move looks for another moment.
starts_programs() {
    local i
    start_job python3 -c 'import subprocess
while True: subprocess.run(["/bin/true"])'
    for ((i = 0; i < 8; i++)); do
        move_to "$SECOND"
        move_to home
    done
    as_user h1 kill "$pid"
}

# --- what stays ---

# Starts a program that makes this cause.
start_cause() { # CAUSE [WHEN]
    start_job python3 /srv/programs/stay.py "$@"
    until_ok on h1 grep --quiet --extended-regexp '^(ready|waiting|cannot.*)$' "$dir/out"
    [[ $(content out) != cannot* ]] || skip "$(content out)"
}

# The job has just this reason, and is neither moved nor frozen, whoever asks.
is_refused() { # WORD
    local said
    [[ $(om_file stay) == "$1: "* ]] || fail "stay: '$(om_file stay)', not $1"
    is "number of reasons" "$(om_file stay | wc -l)" 1
    said=$(write_om_file where "$SECOND" 2>&1) && fail "the move was begun"
    [[ $said == *'Permission denied'* ]] || fail "$said"
    said=$(as_user h1 om move "$pid" "$SECOND" 2>&1) && fail "it was moved"
    [[ $said == *"$1: "* ]] || fail "$said"
    is where "$(om_file where)" home
    is result "$(om_file result)" ''
}

undo() {
    as_user h1 touch "$dir/undo"
    has_printed undone
    until_is '' om_file stay
}

end_job() {
    as_user h1 touch "$dir/end"
    has_ended 0
}

# It stays for this reason, and moves without.
stays() { # WORD CAUSE
    start_cause "$2"
    is_refused "$1"
    undo
    move_to "$SECOND"
    end_job
}

root_stays() { # WORD CAUSE
    # shellcheck disable=SC2034 # lib.sh uses it
    local OM_USER=root
    start_cause "$2"
    is_refused "$1"
    undo
    end_job
}

# What cannot be undone.
stays_for_good() { # WORD CAUSE
    start_cause "$2"
    is_refused "$1"
    end_job
}

stays_not() { # CAUSE
    start_cause "$1"
    is stay "$(om_file stay)" ''
    undo
    move_to "$SECOND"
    end_job
}

clone_stays() { # WORD ARGUMENT
    as_user h1 cc -o programs/clone programs/clone.c
    start_job /srv/programs/clone "$2"
    has_printed ready
    is_refused "$1"
    undo
    move_to "$SECOND"
    end_job
}

stays_away() {
    start_cause listening begin
    move_to "$SECOND"
    as_user h1 touch "$dir/begin"
    has_printed ready
    until_ok om_file_has stay 'socket: '
    write_om_file where home || :
    is where "$(om_file where)" "$SECOND"
    undo
    move_to home
    end_job
}

om_file_has() { [[ $(om_file "$1") == "$2"* ]]; } # FILE TEXT

# --- the page about it ---

all_are_described() {
    local word words
    words=$(grep --recursive --no-filename --only-matching 'findings.add("[a-z_]*"' crates/om-migd/src/stay | cut -d '"' -f 2)
    [[ $words ]] || fail "the words are not where they were"
    for word in $words; do
        grep --quiet "^| \`$word\` |" docs/stay-reasons.md || fail "$word is missing"
    done
}

main
