#!/bin/bash
# Whatever is wrong is said in one clear line, with the documented exit status, and a job goes on where it is.

# shellcheck disable=SC2016 # the shells on the hosts fill it in
# shellcheck source-path=SCRIPTDIR/../..
source tests/lab/lib.sh

main() {
    start_lab 2 om-migd omd

    try "unknown and malformed configuration: 78" wrong_configuration
    try "a key that others can read, or that is none: 78" wrong_key
    try "a port in use: om-migd says so and ends" port_in_use
    try "a second om-migd is refused" second_om_migd
    try "only root can run om-migd" om_migd_as_user
    try "wrong usage of om: 2" wrong_usage
    try "a move of no job, to no address or no such node" wrong_moves
    try "another user's job cannot be moved" strangers_job
    try "without om-migd om run says so: 125" without_om_migd
    try "without CRIU jobs run and stay" without_criu
    try "on a kernel that CRIU cannot work with jobs run and stay" kernel_without_support
    try "without the key jobs run and stay" without_key
    try "omd goes on without multicast, and is heard when it is back" without_multicast
    try "a full tmpfs at the target harms no job" full_target
    try "a full disk at home is an error of the guest's write, nothing else" full_home
    try "a target that is no om-migd, or is dead: the job goes on at home" no_such_target
    try "garbage on every port is dropped and slows nobody" garbage
}

# Runs CMD, which must fail with this status and say one line that has every one of the words.
complains() { # STATUS 'WORD…' CMD…
    local said status=0 word
    said=$("${@:3}" 2>&1 >/dev/null) || status=$?
    is "exit status of '${*:3}' ($said)" "$status" "$1"
    [[ $said && $said != *$'\n'* ]] || fail "not one line: $said"
    for word in $2; do
        [[ ${said,,} == *"${word,,}"* ]] || fail "no '$word' in: $said"
    done
}

# Runs a daemon with a configuration until it ends.
configured() { # DAEMON TOML
    on h1 bash -c 'cat >"/tmp/om-test-$$.toml" <<<"$2"
        timeout --kill-after=1 10 "$1" --config "/tmp/om-test-$$.toml"
        status=$?; rm "/tmp/om-test-$$.toml"; exit "$status"' bash "$1" "$2"
}

wrong_configuration() {
    local daemon
    for daemon in omd om-sched om-migd; do
        complains 78 "toml no-such-key" configured "$daemon" 'no-such-key = 1'
        complains 78 "toml" configured "$daemon" 'this is no TOML'
        complains 78 "toml" configured "$daemon" '= "'
        complains 78 "/nonexistent" on h1 "$daemon" --config /nonexistent/file.toml
    done
    complains 78 'toml line 1 70000' configured omd 'port = 70000'
    complains 78 'period' configured omd 'period = 0'
    complains 78 'address' configured omd 'address = "10.77.0"'
    complains 78 'policy' configured om-sched 'policy = "nonsense"'
    complains 78 'port' configured om-migd 'port = 0'
    complains 78 'address' configured om-migd 'address = "300.1.1.1"'
    complains 78 'address' configured om-migd 'address = "0.0.0.0"'
    complains 78 'run-dir absolute' configured om-migd 'run-dir = "run"'
    # All that is wrong at once.
    complains 78 'port key-file' configured om-migd $'port = 0\nkey-file = "key"'
}

wrong_key() {
    local daemon
    on h1 sh -c 'cp /etc/om/key /etc/om/open && chmod 644 /etc/om/open && (umask 077 && echo 123 >/etc/om/short)'
    for daemon in omd om-sched; do
        complains 78 "/etc/om/open 0644" configured "$daemon" 'key-file = "/etc/om/open"'
        complains 78 "/etc/om/short line" configured "$daemon" 'key-file = "/etc/om/short"'
    done
    stop_daemon om-migd h1
    complains 78 "/etc/om/open 0644" configured om-migd 'key-file = "/etc/om/open"'
    start_daemon om-migd h1
    until_ok on h1 om ps
}

port_in_use() {
    stop_daemon om-migd h1
    local occupier
    occupier=$(on -d h1 python3 -c 'import socket, time
s = socket.create_server(("", 2901))
time.sleep(1000)')
    until_ok on h1 sh -c 'ss -ltn | grep -q :2901'
    local said status=0
    said=$(on h1 timeout 10 om-migd 2>&1 | grep -v ' INFO \| WARN ') || status=$?
    is 'exit status' "$status" 1
    [[ $said == *2901*'in use'* && $said != *$'\n'* ]] || fail "$said"
    on h1 kill "$occupier"
    until_ok on h1 sh -c '! ss -ltn | grep -q :2901'
    start_daemon om-migd h1
    until_ok on h1 om ps
    # omd shares its port with other listeners, unless one wants it for itself.
    occupier=$(on -d h2 python3 -c 'import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5430))
time.sleep(1000)')
    until_ok on h2 sh -c 'ss -lun | grep -q :5430'
    said=$(on h2 timeout 10 om-sched 2>&1 | grep -v ' INFO \| WARN ') || status=$?
    [[ $said == *5430* && $said != *$'\n'* ]] || fail "$said"
    on h2 kill "$occupier"
}

second_om_migd() {
    local said
    ! said=$(on h1 timeout 10 om-migd 2>&1) || fail "it runs"
    [[ $(tail -n 1 <<<"$said") == 'om-migd: '*'om-migd'* ]] || fail "$said"
    until_ok on h1 om ps
}

om_migd_as_user() { complains 1 'om-migd: root' as_user h1 om-migd; }

wrong_usage() {
    local arguments
    for arguments in '' frobnicate 'run' 'move' 'move 1' 'move x home' 'move 99999999999 home' 'ps --frobnicate' \
        'nodes --port 70000' 'block perhaps'; do
        local status=0 said
        # shellcheck disable=SC2086 # several words
        said=$(as_user h1 om $arguments 2>&1 >/dev/null) || status=$?
        is "exit status of 'om $arguments'" "$status" 2
        [[ $said ]] || fail "'om $arguments' says nothing"
    done
}

wrong_moves() {
    start_job sleep 1000
    complains 1 'om: 999999 job' as_user h1 om move 999999 home
    complains 1 "om: no-such-node" as_user h1 om move "$pid" no-such-node
    complains 2 "om: 10.77.0.300" as_user h1 om move "$pid" 10.77.0.300
    complains 1 "om: 192.0.2.7" as_user h1 om move "$pid" 192.0.2.7
    goes_on
}

# The job is at home and has not ended.
goes_on() {
    until_is home om_file where
    ! on h1 test -e "$dir/status" || fail "it has ended"
    on h1 test -d "/proc/$pid" || fail "om run has ended"
}

strangers_job() {
    start_job sleep 1000
    local said
    ! said=$(on h1 setpriv --reuid nobody --regid nogroup --clear-groups om move "$pid" "$SECOND" 2>&1) || fail "it has moved"
    [[ $said == 'om: '*"$pid"* && $said != *$'\n'* ]] || fail "$said"
    ! on h1 setpriv --reuid nobody --regid nogroup --clear-groups sh -c "echo 1 >$ROOT/hpc/admin/block" || fail "he may"
    goes_on
}

without_om_migd() {
    stop_daemon om-migd h1
    complains 125 'om: om-migd /run/om/migd.sock' as_user h1 om run true
    complains 1 'om: om-migd' as_user h1 om ps
    complains 1 'om: om-migd' as_user h1 om move 1 home
    start_daemon om-migd h1
    until_ok on h1 om ps
}

# Starts om-migd of h1 in another way, and a job with it.
with_om_migd() { # [OPTION…]
    stop_daemon om-migd h1
    start_daemon om-migd h1 "$@"
    until_ok on h1 om ps
    start_job python3 /srv/programs/ticker.py
}

as_before() {
    as_user h1 touch "$dir/end"
    has_ended 0
    stop_daemon om-migd h1
    start_daemon om-migd h1
    until_ok on h1 om ps
}

stays_because() { # WORD
    [[ $(om_file stay) == *"$1: "* ]] || fail "stay: $(om_file stay)"
    local said
    ! said=$(as_user h1 om move "$pid" "$SECOND" 2>&1) || fail "it has moved"
    [[ $said == *"$1"* && $said != *$'\n'* ]] || fail "$said"
    goes_on
}

without_criu() {
    on h1 sh -c 'cp /etc/om/migd.toml /etc/om/no-criu.toml && echo "criu = \"/nonexistent/criu\"" >>/etc/om/no-criu.toml'
    with_om_migd --config /etc/om/no-criu.toml
    stays_because no_criu
    as_before
}

# A CRIU that says what the real one says on a kernel that is too new for it.
kernel_without_support() {
    on h1 sh -c 'cp /etc/om/migd.toml /etc/om/bad-criu.toml && echo "criu = \"/etc/om/criu\"" >>/etc/om/bad-criu.toml
        printf "%s\n" "#!/bin/sh" "echo \"Error (criu/cr-check.c:1): this kernel is not supported\" >&2" "exit 1" >/etc/om/criu
        chmod 755 /etc/om/criu'
    with_om_migd --config /etc/om/bad-criu.toml
    stays_because no_criu
    as_before
}

without_key() {
    on h1 mv /etc/om/key /etc/om/no-key
    with_om_migd
    stays_because no_key
    on h1 mv /etc/om/no-key /etc/om/key
    as_before
}

without_multicast() {
    stop_daemon omd h2
    on h2 ip link set eth0 multicast off
    on h2 ip route del 224.0.0.0/4
    start_daemon omd h2
    until_ok on h1 sh -c 'om nodes | grep -q "^10.77.0.1 "'
    on h2 kill -0 "$(pid_of omd h2)"
    on h2 ip link set eth0 multicast on
    on h2 ip route add 224.0.0.0/4 dev eth0
    until_ok on h1 sh -c 'om nodes | grep -q "^10.77.0.2 "'
}

full_target() {
    start_job python3 -c 'import os, time
memory = os.urandom(64 << 20)
print("ready", flush=True)
while not os.path.exists("end"): time.sleep(0.05)'
    has_printed ready
    on h2 mount -o remount,size=100k /run
    on h2 sh -c 'head -c 200k /dev/zero >/run/fill 2>/dev/null || :'
    as_user h1 om move "$pid" "$SECOND" || :
    on h2 rm /run/fill
    on h2 mount -o remount,size=50% /run
    # It may have arrived, since a guest's own tmpfs is another one.
    move_home_if_away
    goes_on
    as_user h1 touch "$dir/end"
    has_ended 0
}

move_home_if_away() { [[ $(om_file where) == home ]] || move_to home; }

full_home() {
    # A file system of the job's own home that is full.
    on h1 sh -c 'mkdir /srv/small && mount -t tmpfs -o size=1m,mode=1777 tmpfs /srv/small'
    start_job sh -c 'until [ -e go ]; do sleep 0.05; done; head -c 5M /dev/zero >/srv/small/file; echo "status $?"; until [ -e end ]; do sleep 0.05; done'
    move_to "$SECOND"
    as_user h1 touch "$dir/go"
    has_printed 'status 1'
    [[ $(content err) == *'No space left on device'* ]] || fail "$(content err)"
    as_user h1 touch "$dir/end"
    has_ended 0
    on h1 umount --lazy /srv/small
}

no_such_target() {
    start_job python3 /srv/programs/ticker.py
    # There is no such host.
    complains 1 'om: 10.77.0.99' as_user h1 om move "$pid" 10.77.0.99
    goes_on
    # There is one, without om-migd.
    stop_daemon om-migd h2
    complains 1 "om: $SECOND" as_user h1 om move "$pid" "$SECOND"
    goes_on
    # Somebody else listens there, says nothing, or nonsense.
    local stranger answer
    for answer in '' 'HTTP/1.1 400 Bad Request\r\n\r\n'; do
        stranger=$(on -d h2 python3 -c 'import socket, sys
server = socket.create_server(("", 2901))
while True:
    connection, _ = server.accept()
    connection.recv(10)
    connection.sendall(sys.argv[1].encode())
    if sys.argv[1]: connection.close()
    else: keep = connection' "$answer")
        until_ok on h2 sh -c 'ss -ltn | grep -q :2901'
        complains 1 "om: $SECOND" as_user h1 om move "$pid" "$SECOND"
        goes_on
        on h2 kill "$stranger"
        until_ok on h2 sh -c '! ss -ltn | grep -q :2901'
    done
    start_daemon om-migd h2
    until_ok on h2 om ps
    move_to "$SECOND"
    move_to home
    as_user h1 sh -c "echo 4 >$dir/end"
    has_ended 4
}

garbage() {
    start_daemon om-sched h1
    start_job python3 /srv/programs/ticker.py
    move_to "$SECOND"
    local before after name
    before=$(cpu_of_daemons)
    # As many as a busy cluster of a thousand nodes sends in twenty seconds, and some connections.
    on h2 python3 -c 'import os, random, socket
random.seed(1)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
real = bytes.fromhex("6f6d")
for number in range(20000):
    data = os.urandom(random.randrange(0, 1400))
    if number % 2: data = real + data
    datagrams.sendto(data, ("10.77.0.1" if number % 3 else "224.0.0.181", 5428 if number % 4 else 5430))
for number in range(200):
    try:
        with socket.create_connection(("10.77.0.1", 2901), 1) as connection:
            connection.sendall(os.urandom(random.randrange(0, 200)))
    except OSError:
        pass'
    after=$(cpu_of_daemons)
    ((after - before < 200)) || fail "$((after - before)) hundredths of a second for garbage"
    for name in omd om-migd om-sched; do
        on h1 kill -0 "$(pid_of "$name" h1)"
    done
    [[ $(on h1 om nodes) == *10.77.0.2* ]] || fail "$(on h1 om nodes)"
    move_to home
    as_user h1 touch "$dir/end"
    has_ended 0
    stop_daemon om-sched h1
}

# Hundredths of a second that the daemons of h1 have used.
cpu_of_daemons() {
    on h1 sh -c 'cat /proc/"$1"/stat /proc/"$2"/stat /proc/"$3"/stat' sh \
        "$(pid_of omd h1)" "$(pid_of om-migd h1)" "$(pid_of om-sched h1)" | awk '{ sum += $14 + $15 } END { print sum }'
}

main
