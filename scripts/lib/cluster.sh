# Hosts of a lab made into nodes of a cluster: om's daemons, and commands of root and of the ordinary user. Needs say.sh,
# HERE: where the scripts are, and what stage.sh sets.

# shellcheck shell=bash

# Runs CMD as root.
on() { # HOST CMD…
    (cd / && PATH=$OM_BIN:$PATH exec "$HERE/lab" exec "$@")
}

# Runs CMD as the ordinary user, in /srv, where the host has files of its own.
as_user() { # HOST CMD…
    (cd /srv && PATH=$OM_BIN:/usr/local/bin:/usr/bin:/bin exec "$HERE/lab" exec --user "$OM_USER" "$@")
}

# Starts omd, om-sched and om-migd, or the named ones only, and returns once they are up.
start_nodes() { # HOST… [-- DAEMON…]
    local hosts=() host name names=(om-migd omd om-sched)
    while (($#)) && [[ $1 != -- ]]; do
        hosts+=("$1")
        shift
    done
    (($# < 2)) || names=("${@:2}")
    for host in "${hosts[@]}"; do
        prepare_node "$host"
        for name in "${names[@]}"; do
            start_daemon "$name" "$host"
        done
    done
    [[ " ${names[*]} " != *' om-migd '* ]] || for host in "${hosts[@]}"; do
        await "om-migd on $host" 20 on "$host" test -S /run/om/migd.sock
    done
}

# What an installation does: the daemons' user owns the key, and its group may move every job. The hosts of a lab share the
# machine's control groups: a weight for guests would be one for those of all hosts together.
prepare_node() { # HOST
    # shellcheck disable=SC2016 # the host's shell fills it in
    on "$1" bash -euc '
        printf "%s\n" "group = \"$1\"" "guest-cpu-weight = 0" >/etc/om/migd.toml
        [[ ! -e /etc/om/key ]] || chown "$1:" /etc/om/key
        install -d -o root -g "$1" -m 1775 /run/om' bash "$OM_DAEMON"
}

start_daemon() { # NAME HOST [OPTION…]
    local user=$OM_DAEMON
    [[ $1 != om-migd ]] || user=root
    on -d --user "$user" "$2" "$1" "${@:3}" >"$(pid_file "$1" "$2")"
}

# Where the daemon's pid on the host is written down, while it has not been stopped.
pid_file() { echo "/run/om-lab/$OM_LAB/$2/$1.pid"; } # NAME HOST

is_started() { [[ -e $(pid_file "$1" "$2") ]]; } # NAME HOST

pid_of() { cat "$(pid_file "$1" "$2")"; } # NAME HOST

# Ends the daemon with SIGTERM, or with another signal, and returns when it has gone.
stop_daemon() { # NAME HOST [SIGNAL]
    # shellcheck disable=SC2016 # the host's shell fills it in
    on "$2" bash -c 'kill -s "$2" "$1"; while [[ -d /proc/$1 ]]; do sleep 0.02; done' bash "$(pid_of "$1" "$2")" "${3:-TERM}"
    rm "$(pid_file "$1" "$2")"
}

# Waits until CMD succeeds, at most so long.
await() { # WHAT SECONDS CMD…
    local deadline=$((SECONDS + $2))
    until "${@:3}" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || {
            warn "$1: not within $2 s"
            return 1
        }
        sleep 0.1
    done
}
