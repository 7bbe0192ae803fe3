#!/bin/bash
# A guest gets at nothing of the node where it is, whatever it tries, and nobody gets at more through a job than he had
# without it.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

readonly NOBODY=(setpriv --reuid nobody --regid nogroup --clear-groups)

main() {
    start_lab 2 om-migd
    lay_out

    try "a job has its caller's groups, capabilities, limits and privileges, no more" as_the_caller
    try "what confines a caller and cannot confine its job is a reason to refuse" confined_callers
    try "who is not allowed starts no job, and nobody too many" starters
    try "the right to write an om file is that of who opened it" opened_by_another
    try "om run reads and writes for its user, not as root" streams
    try "a job is in its caller's control groups, and again when it is back" callers_groups
    try "guests have a limit of memory, and the job that exceeds it goes on at home" guests_memory
    try "guests have a limit of processes, and the node goes on" guests_tasks
    try "guests get little of the CPUs that the node's own work wants" guests_weight
    try "a guest has no priority above the node's own work, whatever it has at home" rank
    try "a user id that is another person's does not come" uid_map
    try "a group of the system's is left at home, and home's files do not need it here" groups
    try "a guest reaches nothing of its node" hostile_guest
    try "a guest reaches nothing of another guest" two_guests
    try "a working directory that om run would never send leads nowhere out of the job's root" odd_directory
    try "a name that leads elsewhere by now opens nothing, at home or away" swapped_names
    try "a guest of another user id than was offered never runs" false_images
}

# What a guest would like to have.
lay_out() {
    local host
    for host in h1 h2; do
        on "$host" sh -c 'umask 077; printf %0100d 7 >/var/lib/om/secret'
    done
    on h2 touch /var/lib/om/only-here
    on h1 sh -c 'cp "$(command -v id)" /srv/suid && chmod 4755 /srv/suid'
    on h2 bash -euc 'touch /dev/shm/om-test
        mkdir "$2/om-test-users"
        chown --recursive "$1" /dev/shm/om-test "$2/om-test-users"' bash "$OM_USER" "$(own_cgroup h2)"
    on -d --user "$OM_USER" h2 python3 -c 'import ctypes, os, signal, socket
libc, librt = ctypes.CDLL(None), ctypes.CDLL("librt.so.1")
libc.shmget(0x6F6D, 4096, 0o1600)
librt.mq_open(b"/om-test-queue", os.O_CREAT | os.O_RDWR, 0o600, None)
s = socket.socket(socket.AF_UNIX)
s.bind("\0om-test-abstract")
s.listen()
signal.pause()' >/dev/null
    until_ok on h2 grep --quiet om-test-abstract /proc/net/unix
    on -d h2 python3 -c 'import os, signal, socket
s = socket.socket(socket.AF_UNIX)
s.bind("/run/om-test.sock")
os.chmod("/run/om-test.sock", 0o666)
s.listen()
signal.pause()' >/dev/null
}

# The cgroup v2 directory of a host, as the host sees it.
own_cgroup() { # HOST
    on "$1" bash -euc 'read -r _ directory _ < <(grep " cgroup2 " /proc/mounts)
        echo "$directory$(sed -n "s/^0:://p" /proc/self/cgroup)"'
}

# Runs CMD as the ordinary user on h1, with these options of setpriv.
with_privileges() { # OPTIONS CMD…
    # shellcheck disable=SC2086 # several options
    on h1 bash -c 'cd /srv && exec setpriv --reuid "$1" --regid "$1" "${@:2}"' bash "$OM_USER" $1 "${@:2}"
}

as_the_caller() {
    is groups "$(with_privileges --clear-groups om run id -G)" "$(id -g "$OM_USER")"
    is groups "$(with_privileges '--groups 4242' om run id -G)" "$(id -g "$OM_USER") 4242"
    is no_new_privs "$(with_privileges '--clear-groups --no-new-privs' om run sh -c 'grep NoNewPrivs /proc/self/status')" $'NoNewPrivs:\t1'
    is no_new_privs "$(with_privileges --clear-groups om run sh -c 'grep NoNewPrivs /proc/self/status')" $'NoNewPrivs:\t0'
    local status
    for status in Uid CapInh CapPrm CapEff CapBnd CapAmb; do
        is "$status" "$(with_privileges '--clear-groups --bounding-set -net_raw' om run grep "^$status" /proc/self/status)" \
            "$(with_privileges '--clear-groups --bounding-set -net_raw' grep "^$status" /proc/self/status)"
    done
    is 'open files' "$(as_user h1 bash -c 'ulimit -n 50; om run sh -c "ulimit -Hn; ulimit -n 51"' 2>/dev/null || :)" 50
    is nice "$(as_user h1 nice -n 5 om run nice)" 5
    is oom_score_adj "$(as_user h1 sh -c 'echo 300 >/proc/self/oom_score_adj; om run cat /proc/self/oom_score_adj')" 300
    is 'set-user-id at home' "$(as_user h1 om run ./suid -u)" 0
    is 'set-user-id without privileges' "$(with_privileges '--clear-groups --no-new-privs' om run ./suid -u)" "$(id -u "$OM_USER")"
}

# om run says why it does not.
is_refused() { # WORD CMD…
    local said status=0
    said=$("${@:2}" 2>&1) || status=$?
    is "exit status ($said)" "$status" 125
    [[ $said == "om: "*"$1"* && $said != *$'\n'* ]] || fail "$said"
}

confined_callers() {
    is_refused mounts on h1 unshare --mount "${NOBODY[@]}" om run true
    is_refused network on h1 unshare --net "${NOBODY[@]}" om run true
    is_refused 'user namespace' on h1 "${NOBODY[@]}" unshare --user om run true
    on h1 bash -ec 'for name in bin lib lib64 proc run tmp usr; do
        [[ ! -d /$name ]] || { mkdir --parents "/srv/root/$name" && mount --rbind "/$name" "/srv/root/$name"; }
    done'
    is_refused 'root directory' on h1 chroot --userspec nobody:nogroup /srv/root "$OM_BIN/om" run true
    is_refused seccomp as_user h1 python3 -c 'import ctypes, os, struct
libc = ctypes.CDLL(None)
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(allow)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
os.execvp("om", ["om", "run", "true"])'
    on h1 sh -c 'cp "$(command -v om)" /srv/om-suid && chmod 4755 /srv/om-suid'
    is_refused 'one user id' as_user h1 ./om-suid run true
}

# Starts om-migd of h1 with these lines in its configuration.
configure() { # LINES
    stop_daemon om-migd h1
    on h1 sh -c 'cp /etc/om/migd.toml /etc/om/test.toml && echo "$1" >>/etc/om/test.toml' sh "$1"
    start_daemon om-migd h1 --config /etc/om/test.toml
    until_ok on h1 om ps
}

as_before() {
    stop_daemon om-migd h1
    start_daemon om-migd h1
    until_ok on h1 om ps
}

starters() {
    configure 'allow-users = ["nobody"]'
    is_refused allow-users as_user h1 om run true
    on h1 "${NOBODY[@]}" om run true
    on h1 om run true
    configure "allow-groups = [\"$OM_USER\"]
user-job-limit = 1"
    is_refused allow-groups on h1 "${NOBODY[@]}" om run true
    start_job sleep 1000
    is_refused user-job-limit as_user h1 om run true
    on h1 om run true
    as_user h1 kill "$pid"
    as_before
}

opened_by_another() {
    start_job sleep 1000
    # As a set-user-id program that is given the file as its stdout.
    on h1 python3 -c 'import os, sys
os.seteuid(65534)
files = [(os.open(path, os.O_WRONLY), text) for path, text in zip(sys.argv[1::2], sys.argv[2::2])]
os.seteuid(0)
for file, text in files:
    try:
        os.write(file, text.encode())
        sys.exit("written")
    except PermissionError:
        pass' "$ROOT/$pid/om/where" "$SECOND" "$ROOT/$pid/om/lock" 1 "$ROOT/hpc/admin/block" 1
    is where "$(om_file where)" home
    is lock "$(om_file lock)" 0
    as_user h1 kill "$pid"
}

# What some files say depends on who reads them, and whom a socket's message is from on who sends it.
streams() {
    local said
    said=$(as_user h1 sh -c 'om run cat </proc/1/stat')
    is 'addresses of a process of root' "$(cut -d ' ' -f 26-28 <<<"$said")" "$(as_user h1 cut -d ' ' -f 26-28 /proc/1/stat)"
    is 'the sender' "$(as_user h1 python3 -c 'import os, socket, struct, subprocess
ours, theirs = socket.socketpair()
ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
subprocess.run(["om", "run", "echo", "text"], stdout=theirs)
data, control, _, _ = ours.recvmsg(100, 100)
assert data == b"text\n"
print(*struct.unpack("iII", control[0][2])[1:])')" "$(id -u "$OM_USER") $(id -g "$OM_USER")"
}

# A directory of a hierarchy that om moves nothing out of by itself: of version 2, and of version 1 where there is that of memory.
make_group() { # NAME
    on h1 bash -euc '
        for directory in "$2" $(sed -n "s/^[^ ]* \([^ ]*\) cgroup [^ ]*\bmemory\b.*/\1/p" /proc/mounts | head -n 1); do
            [[ $directory == "$2" ]] || directory+=$(sed -n "s/^[0-9]*:memory://p" /proc/self/cgroup)
            mkdir --parents "$directory/$1"
            echo "$directory/$1/cgroup.procs"
        done >"/srv/$1"' bash "$1" "$(own_cgroup h1)"
}

callers_groups() {
    make_group om-test-session
    start_in_shell "true"
    until_ok on h1 test -e "$dir/status"
    on -d h1 bash -c 'while read -r group; do echo $$ >"$group"; done </srv/om-test-session
        cd "$2" && exec setpriv --reuid "$1" --regid "$1" --clear-groups om run sh -c "cat /proc/self/cgroup; exec sleep 1000" >out' \
        bash "$OM_USER" "$dir" >/dev/null
    until_ok on h1 sh -c "ls $ROOT/[1-9]*/om/where"
    pid=$(on h1 sh -c "cd $ROOT && echo [1-9]*")
    until_ok on h1 grep --quiet '^0:' "$dir/out"
    local groups
    groups=$(on h1 sh -c 'wc -l </srv/om-test-session')
    is 'groups' "$(content out | grep --count om-test-session)" "$groups"
    move_to "$SECOND"
    move_to home
    is 'groups after its return' "$(on h1 bash -c 'for process in /proc/[1-9]*; do
        [[ $(readlink "$process/root") != /run/om-root || $(tr "\0" " " <"$process/cmdline") != "sleep 1000 " ]] || cat "$process/cgroup"
    done' | grep --count om-test-session)" "$groups"
    on h1 kill "$pid"
    until_ok on h1 sh -c "! test -e $ROOT/$pid"
    # Nothing is left in them.
    until_ok on h1 sh -c 'while read -r group; do rmdir "${group%/*}" || exit; done </srv/om-test-session'
}

configure_second() { # LINES
    stop_daemon om-migd h2
    on h2 sh -c 'cp /etc/om/migd.toml /etc/om/test.toml && echo "$1" >>/etc/om/test.toml' sh "$1"
    start_daemon om-migd h2 --config /etc/om/test.toml
    until_ok on h2 om ps
}

guests_memory() {
    configure_second 'guest-memory-mib = 200'
    ! grep --quiet 'no limit of memory' <(tail -n 2 "/run/om-lab/$OM_LAB/h2/console") ||
        { configure_second ''; skip "there is no controller for memory"; }
    start_job python3 -c 'import os, time
memory = os.urandom(256 << 20)
print("ready", flush=True)
while not os.path.exists("end"): time.sleep(0.02)
print(len(memory), flush=True)'
    has_printed ready
    is_not_moved "$SECOND"
    is where "$(om_file where)" home
    as_user h1 touch "$dir/end"
    has_ended 0
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    as_user h1 touch "$dir/end"
    has_ended 0
    configure_second ''
}

# Starts om-migd of h2 with these lines in its configuration, in control groups of its own: other labs share the machine's.
start_apart() { # LINES
    stop_daemon om-migd h2
    on h2 sh -c 'grep --invert-match guest-cpu-weight /etc/om/migd.toml >/etc/om/test.toml; echo "$1" >>/etc/om/test.toml' sh "$1"
    on -d h2 bash -euc '
        # Of version 2 the directory with limits has no processes in it; that of om-migd is below it.
        mkdir --parents "$2/$1/om-migd"
        echo "$2/$1/om-migd" >/srv/apart
        for controller in memory pids cpu; do
            directory=$(sed -n "s/^[^ ]* \([^ ]*\) cgroup [^ ]*\b$controller\b.*/\1/p" /proc/mounts | head -n 1)
            [[ $directory ]] || continue
            directory+=$(sed -n "s/^[0-9]*:$controller://p" /proc/self/cgroup)
            mkdir --parents "$directory/$1"
            echo "$directory/$1" >>/srv/apart
        done
        while read -r group; do echo $$ >"$group/cgroup.procs"; done </srv/apart
        exec om-migd --config /etc/om/test.toml' bash "om-test-$OM_LAB" "$(own_cgroup h2)" >"$(pid_file om-migd h2)"
    until_ok on h2 om ps
}

# Starts it as before, and leaves nothing of those control groups.
together_again() {
    configure_second ''
    on h2 mv /srv/apart /srv/groups
    until_ok on h2 bash -c 'while read -r group; do
        for part in "$group" "${group%/om-migd}"; do
            [[ ! -d $part/om-guests ]] || rmdir "$part/om-guests" || exit
            [[ ! -d $part || $part != *om-test-* ]] || rmdir "$part" || exit
        done
    done </srv/groups'
}

# What om-migd of h2 says at its start.
guests_have() { grep 'guests have' "/run/om-lab/$OM_LAB/h2/console" | tail -n 1; }

guests_tasks() {
    start_apart 'guest-tasks = 100'
    [[ $(guests_have) != *'no limit of processes'* ]] || { together_again; skip "there is no controller for the number of processes"; }
    start_job python3 -c 'import os, signal, time
def wait_for(name):
    while not os.path.exists(name): time.sleep(0.02)
print("ready", flush=True)
wait_for("go")
children = []
try:
    while len(children) < 1000:
        children.append(os.fork() or signal.pause())
except BlockingIOError:
    pass
print("all" if len(children) > 100 else "held", flush=True)
for child in children: os.kill(child, signal.SIGKILL)
wait_for("end")'
    has_printed ready
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_printed held
    move_to home
    as_user h1 touch "$dir/end"
    has_ended 0
    together_again
}

guests_weight() {
    start_apart 'guest-cpu-weight = 1'
    [[ $(guests_have) != *'same CPU weight'* ]] || { together_again; skip "there is no controller for the weight of CPUs"; }
    start_job python3 /srv/programs/busy.py
    move_to "$SECOND"
    # Two of the node's own for each CPU, where om-migd is. As one process among them a guest would have a third of a CPU.
    local used
    used=$(on h2 bash -c 'while read -r group; do echo $$ >"$group/cgroup.procs"; done </srv/apart; exec python3 -c "$1"' bash 'import os, subprocess, sys, time
def used(pid):
    return sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")")[-1].split()[11:13]))
def words(pid): return open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
guest, = [pid for pid in os.listdir("/proc") if pid.isdigit() and words(pid)[1:2] == [b"/srv/programs/busy.py"]]
own = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
try:
    time.sleep(0.5)
    before = [sum(used(process.pid) for process in own), used(guest)]
    while sum(used(process.pid) for process in own) < before[0] + 200: time.sleep(0.05)
    print(sum(used(process.pid) for process in own) - before[0], used(guest) - before[1])
finally:
    for process in own: process.kill()')
    ((${used% *} > 10 * ${used#* })) || fail "ticks of the node's own work, and of the guest: $used"
    as_user h1 kill "$pid"
    until_ok on h1 test -e "$dir/status"
    together_again
}

rank() {
    local nice
    nice=$(on h1 nice -n -15 nice 2>/dev/null)
    ((nice < 0)) || skip "nobody here may have a nice value below 0"
    start_in_shell true
    on -d h1 nice -n -15 setpriv --reuid "$OM_USER" --regid "$OM_USER" --clear-groups env "PATH=$OM_BIN:/usr/bin:/bin" \
        sh -c 'cd "$1" && exec om run python3 -c "
import os, time
for name in (\"home\", \"away\"):
    while not os.path.exists(name): time.sleep(0.02)
    print(name, os.nice(0), flush=True)
" >out' sh "$dir" >/dev/null
    until_ok on h1 sh -c "ls $ROOT/[1-9]*/om/where"
    pid=$(on h1 sh -c "cd $ROOT && echo [1-9]*")
    as_user h1 touch "$dir/home"
    has_printed "home $nice"
    move_to "$SECOND"
    as_user h1 touch "$dir/away"
    has_printed "away 0"
    until_ok on h1 sh -c "! test -e $ROOT/$pid"
}

# Groups of the system's that the ordinary user has nowhere, and one of people's own.
groups() {
    local own
    own=$(id -g "$OM_USER")
    start_in_shell true
    on h1 bash -c 'cd "$1" && echo text >adms && chgrp 4 adms && chmod 640 adms' bash "$dir"
    on -d h1 setpriv --reuid "$OM_USER" --regid "$own" --groups "$own,4,42,4242" env "PATH=$OM_BIN:/usr/bin:/bin" sh -c 'cd "$1" && exec om run python3 -c "
import os, time
for name in (\"home\", \"away\", \"back\"):
    while not os.path.exists(name): time.sleep(0.02)
    print(name, *sorted(os.getgroups()), open(\"adms\").read().strip(), flush=True)
" >out' sh "$dir" >/dev/null
    until_ok on h1 sh -c "ls $ROOT/[1-9]*/om/where"
    pid=$(on h1 sh -c "cd $ROOT && echo [1-9]*")
    as_user h1 touch "$dir/home"
    has_printed "home 4 42 $own 4242 text"
    move_to "$SECOND"
    as_user h1 touch "$dir/away"
    has_printed "away $own 4242 text"
    move_to home
    as_user h1 touch "$dir/back"
    has_printed "back 4 42 $own 4242 text"
    until_ok on h1 sh -c "! test -e $ROOT/$pid"

    # A primary group cannot be left behind.
    on -d h1 setpriv --reuid "$OM_USER" --regid 4 --clear-groups "$OM_BIN/om" run sleep 1000 >/dev/null
    until_ok on h1 sh -c "ls $ROOT/[1-9]*/om/where"
    pid=$(on h1 sh -c "cd $ROOT && echo [1-9]*")
    is_not_moved "$SECOND"
    [[ $(om_file result) == *'group 4 may not come'* ]] || fail "$(om_file result)"
    as_user h1 kill "$pid"
}

uid_map() {
    configure_second "uid-map = [\"$(id -u "$OM_USER") = refuse\", \"* = same\"]"
    start_job sleep 1000
    is_not_moved "$SECOND"
    [[ $(om_file result) == *uid-map* ]] || fail "$(om_file result)"
    configure_second 'min-uid = 60000'
    is_not_moved "$SECOND"
    [[ $(om_file result) == *min-uid* ]] || fail "$(om_file result)"
    configure_second "uid-map = [\"$(id -u "$OM_USER") = same\"]"
    move_to "$SECOND"
    as_user h1 kill "$pid"
    configure_second ''
}

hostile_guest() {
    local attempt attempts=(files descriptors root processes sockets abstract memory keys devices control_groups limits)
    start_job sh -c 'cp /srv/programs/hostile.py . && ln -s /srv/suid suid && exec python3 hostile.py "$@"' sh "${attempts[@]}"
    has_printed ready
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_printed_start "${attempts[-1]}: "
    for attempt in "${attempts[@]}"; do
        [[ $attempt != abstract ]] || has_landlock || continue
        has_printed "$attempt: held"
    done
    move_to home
    as_user h1 touch "$dir/end"
    has_ended 0
}

has_printed_start() { until_ok on h1 grep --quiet "^$1" "$dir/out"; } # TEXT

# Whether the kernel can keep a guest from abstract sockets: Landlock 6.
has_landlock() {
    python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(444, None, 0, 1) < 6)'
}

two_guests() {
    local other
    start_job python3 -c 'import ctypes, os, socket, time
ctypes.CDLL(None).shmget(0x6F6D, 4096, 0o1600)
open("/dev/shm/om-test", "w")
print("ready", flush=True)
while not os.path.exists("go"): time.sleep(0.02)
s = socket.socket(socket.AF_UNIX)
s.bind("\0om-other-guest")
s.listen()
print("listening", flush=True)
while True: time.sleep(1)'
    has_printed ready
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_printed listening
    other=$pid
    start_job sh -c 'sed "s/om-test-abstract/om-other-guest/" /srv/programs/hostile.py >own.py && exec python3 own.py processes memory abstract'
    has_printed ready
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_printed_start 'abstract: '
    has_printed 'processes: held'
    has_printed 'memory: held'
    ! has_landlock || has_printed 'abstract: held'
    as_user h1 kill "$other" "$pid"
}

# Anybody can speak to om-migd's socket without om run, and say what he likes.
odd_directory() {
    local node directory
    for node in "" "$SECOND"; do
        for directory in . .. ../../..; do
            # What is only on h2, and what is only in the namespace around the job's root.
            is "what there is in '$directory', on '$node'" "$(as_user h1 python3 /srv/programs/start.py "$directory" "$node" sh -c '
                pwd -P
                for up in . .. ../../../..; do
                    for file in var/lib/om/only-here run/om-img; do
                        [ ! -e "$up/$file" ] || echo "$up/$file"
                    done
                done' 2>&1)" /
        done
    done
}

# Gives these hosts a CRIU that runs /etc/om/before whenever it is to restore a job.
restore_after() { # HOST…
    local host criu
    for criu in "${OM_CRIU-}" /opt/om/sbin/criu "$(command -v criu || :)"; do
        [[ ! -x $criu ]] || break
    done
    for host; do
        on "$host" bash -euc 'printf "%s\n" "#!/bin/bash -p" "[[ \$1 != restore ]] || /etc/om/before" "exec $1 \"\$@\"" >/etc/om/criu
            chmod 755 /etc/om/criu
            cp /etc/om/migd.toml /etc/om/before.toml
            echo "criu = \"/etc/om/criu\"" >>/etc/om/before.toml' bash "$criu"
        stop_daemon om-migd "$host"
        start_daemon om-migd "$host" --config /etc/om/before.toml
        until_ok on "$host" om ps
    done
}

before_restore() { # HOST PROGRAM
    on "$1" sh -c 'printf "%s\n" "$1" >/etc/om/before && chmod 755 /etc/om/before' sh "$2"
}

# CRIU opens a job's files by name, asks them for size and mode only, and is root. The user may do at that moment what he likes with his
# directories.
swapped_names() {
    before_restore h1 '#!/bin/sh'
    before_restore h2 '#!/bin/sh'
    restore_after h1 h2
    start_job bash -c 'umask 077; mkdir d && printf %0100d 1 >d/secret && exec python3 -c "
import os, time
file = os.open(\"d/secret\", os.O_RDWR)
print(\"ready\", flush=True)
while not os.path.exists(\"end\"): time.sleep(0.02)
print(os.pread(file, 100, 0)[-1:].decode(), flush=True)"'
    has_printed ready
    # Away the link would lead to the guest node's own root.
    put_link h2
    is_not_moved "$SECOND"
    put_back h2
    is where "$(om_file where)" home
    move_to "$SECOND"
    put_link h1
    is_not_moved home
    put_back h1
    is where "$(om_file where)" "$SECOND"
    # A file of root's that the user may rename, not read.
    on h1 sh -c "umask 077; printf %0100d 7 >$dir/roots"
    before_restore h1 "#!/bin/bash -p
mv -T $dir/roots $dir/d/secret"
    is_not_moved home
    is where "$(om_file where)" "$SECOND"
    as_user h1 touch "$dir/end"
    has_ended 0
    is 'what it reads' "$(tail -n 1 <<<"$(content out)")" 1
}

# Puts a link where the job's directory was.
put_link() { # HOST
    local d=/run/om-root$dir/d
    before_restore "$1" "#!/bin/bash -p
mv -T $d $d.aside && ln -s /var/lib/om $d"
}

put_back() { # HOST
    before_restore "$1" '#!/bin/sh'
    on h1 sh -c "rm $dir/d && mv -T $dir/d.aside $dir/d"
}

is_not_moved() { # ADDRESS|home
    local said
    ! said=$(as_user h1 om move "$pid" "$1" 2>&1) || fail "it has moved"
    echo "$said"
}

# Images as a hostile node would send them: of a process of root.
false_images() {
    before_restore h1 '#!/bin/sh'
    before_restore h2 "#!/usr/bin/python3
import glob
def number(n): return bytes([n & 127 | 128, n >> 7])
uid, gid = $(id -u "$OM_USER"), $(id -g "$OM_USER")
own = b''.join(bytes([8 * (2 * i + 1)]) + number(uid) + bytes([8 * (2 * i + 2)]) + number(gid) for i in range(4))
false = own.replace(number(uid), b'\\x80\\0')
for name in glob.glob('/run/om-img/core-*.img'):
    image = open(name, 'rb').read()
    assert own in image
    open(name, 'wb').write(image.replace(own, false))"
    restore_after h2
    start_job python3 /srv/programs/ticker.py
    is_not_moved "$SECOND"
    [[ $(om_file result) == *'Uid 0 0 0 0'* ]] || fail "$(om_file result)"
    is where "$(om_file where)" home
    is_empty
    as_user h1 touch "$dir/end"
    has_ended 0
}

# No process of a guest is left on h2.
is_empty() { until_ok on h2 sh -c '! grep -l "/run/om-root " /proc/[1-9]*/mountinfo'; }

main
