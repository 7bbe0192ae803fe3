# What tests on lab hosts have in common: a lab of nodes, jobs of the ordinary user on h1, and a way to say what was
# tried. A test is a function; it fails at the first command that fails.
#
#   source tests/lab/lib.sh
#   a_job_ends() { start_job sleep 1 && has_ended 0; }
#   start_lab 2
#   try "a job ends" a_job_ends
#
# With an argument such a script tries only what has it in its name.

# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR/../../scripts

set -euo pipefail
shopt -s nullglob extglob
readonly TESTS=${BASH_SOURCE[0]%/*}
# shellcheck disable=SC2034 # cluster.sh uses it
HERE=$(realpath "$TESTS/../../scripts")
source "$HERE/lib/say.sh"
source "$HERE/lib/cluster.sh"

: "${OM_BIN:?}" "${OM_LAB:?}" "${OM_USER:?}" "${OM_DAEMON:?}"

# What the machine is given time for, in seconds: far more than it needs, since others may keep it busy.
readonly PATIENCE=${OM_PATIENCE:-30}

readonly ROOT=/run/om/proc
# shellcheck disable=SC2034 # tests use them
readonly HOME_NODE=10.77.0.1 SECOND=10.77.0.2 THIRD=10.77.0.3

readonly ONLY=${1-}

jobs_started=0 dir='' pid=''

# A lab of nodes, with these daemons each.
start_lab() { # HOSTS [DAEMON…]
    local hosts
    "$HERE/lab" up "$1"
    trap stop_lab EXIT
    mapfile -t hosts < <(seq --format 'h%g' "$1")
    start_nodes "${hosts[@]}" ${2+-- "${@:2}"}
    copy_programs
}

# The work tree may be closed to ordinary users, and /srv is h1's own.
copy_programs() {
    as_user h1 mkdir programs
    tar --create --directory "$TESTS/programs" . | as_user h1 tar --extract --directory programs
}

stop_lab() { "$HERE/lab" down; }

# Runs a test and says how it went.
try() { # NAME CMD…
    [[ $1 == *"$ONLY"* ]] || return 0
    local output status
    set +e
    output=$(set -e; "${@:2}" 2>&1)
    status=$?
    set -e
    case $status in
        0) echo "ok $1" ;;
        75) echo "skip $1: ${output##*$'\n'}" ;;
        *)
            printf '%s\n' "$output" | sed 's/^/    /'
            echo "not ok $1"
            ;;
    esac
    # The jobs of a test that broke off.
    on h1 pkill -KILL -u "$OM_USER" || :
}

# Ends a test that cannot be done here.
skip() { # WHY
    echo "$*"
    exit 75
}

fail() {
    echo "$*"
    show_job
    exit 1
}

is() { # WHAT ACTUAL EXPECTED
    [[ $2 == "$3" ]] || fail "$1: '$2', not '$3'"
}

# Waits until CMD succeeds.
until_ok() { # CMD…
    local deadline=$((SECONDS + PATIENCE))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "never: $*"
        sleep 0.05
    done
}

# Waits until CMD prints just this.
until_is() { # EXPECTED CMD…
    local deadline=$((SECONDS + PATIENCE)) actual=
    until actual=$("${@:2}" 2>/dev/null) && [[ $actual == "$1" ]]; do
        ((SECONDS < deadline)) || fail "${*:2}: '$actual', never '$1'"
        sleep 0.05
    done
}

# --- the job of a test ---
#
# It runs in a directory of its own below /srv, which has home's own files. There are also the stdin, stdout and stderr
# of om run, in the files in, out and err, and its exit status, in the file status.

# Starts a job on h1 and returns when it has its om files, or has ended: sets dir, and pid, that of om run.
start_job() { # CMD…
    start_in_shell "exec om run $(printf '%q ' "$@")"
    pid=$(content pid)
    until_ok on h1 sh -c "test -e $dir/status || test -e $ROOT/$pid/om/where"
}

# The same with a shell's words, as 'cat big | om run sort'. There must be no other job.
start_pipe() { # COMMANDS
    start_in_shell "$1"
    until_ok on h1 sh -c "test -e $dir/status || ls $ROOT/[1-9]*/om/where"
    pid=$(on h1 sh -c "cd $ROOT && echo [1-9]*")
}

start_in_shell() { # COMMANDS
    jobs_started=$((jobs_started + 1))
    dir=/srv/job-$BASHPID-$jobs_started
    # shellcheck disable=SC2016 # the host's shell fills it in
    on -d --user "$OM_USER" h1 env "PATH=$OM_BIN:/usr/local/bin:/usr/bin:/bin" bash -c '
        mkdir "$1" && cd "$1" && touch in && (echo "$BASHPID" >pid && eval "$2") <in >out 2>err
        echo "$?" >status.new
        mv status.new status' bash "$dir" "$1" >/dev/null
    until_ok on h1 test -s "$dir/pid"
}

# What is in one of the job's files on home.
content() { on h1 cat "$dir/$1"; } # FILE

# The om files of the job.
om_file() { on h1 cat "$ROOT/$pid/om/$1"; } # FILE
write_om_file() { as_user h1 bash -c "echo '$2' >$ROOT/$pid/om/$1"; } # FILE TEXT

# Waits for the job's end.
has_ended() { # STATUS
    until_ok on h1 test -e "$dir/status"
    is "exit status" "$(content status)" "$1"
}

# Waits until the job is there and its last move has succeeded.
is_at() { # ADDRESS|home
    local address=$1
    [[ $1 != home ]] || address=$HOME_NODE
    until_is "$1" om_file where
    is result "$(om_file result | cut -d ' ' -f 1-2)" "ok $address"
}

# Moves the job by its om file and waits until it is there.
move_to() { # ADDRESS|home
    write_om_file where "$1"
    is_at "$1"
}

# Waits until the job has printed this line.
has_printed() { # LINE
    until_ok on h1 grep --quiet --line-regexp --fixed-strings -- "$1" "$dir/out"
}

# What self.py says in a setting, without om and with it. There are groups besides the user's own, and bytes that are no
# text.
tell_self() { # PREFIX…
    # shellcheck disable=SC2016 # the host's shell fills it in
    on h1 setpriv --reuid "$OM_USER" --regid "$OM_USER" --groups "$(id --group "$OM_USER"),4004,4020,4024" \
        env --ignore-environment PATH="$OM_BIN:/usr/bin:/bin" EMPTY= 'WITH BLANK=a b' NEWLINE=$'a\nb' BYTES=$'\xff\xfe' \
        bash -c 'mkdir -p "/srv/$1" && cd "/srv/$1" && umask 0027 && ulimit -n 300 && ulimit -S -s 4096 && ulimit -c 0 &&
            "${@:2}" python3 /srv/programs/self.py "" "a  b" "x
y" "$(printf "\\377")" --time -- "*"' bash "$@"
}

# What helps to see why a test failed.
show_job() {
    [[ ${dir-} ]] || return 0
    local file
    for file in out err status; do
        on h1 sh -c "test ! -e $dir/$file || { echo '--- $file' && tail -n 5 $dir/$file; }" || :
    done
    for file in where result stay stat; do
        on h1 sh -c "test ! -e $ROOT/$pid/om/$file || { echo '--- om/$file' && cat $ROOT/$pid/om/$file; }" || :
    done
}
