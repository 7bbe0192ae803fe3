#!/bin/bash
# A short round of scripts/chaos: jobs come through faults of their hosts unharmed.

# shellcheck source-path=SCRIPTDIR/../../scripts

set -euo pipefail

readonly FAULTS=8 SEED=492
logs=$(mktemp --directory)
trap 'rm --recursive "$logs"' EXIT

if python3 scripts/chaos.d/cluster.py "$OM_LAB-1" "$FAULTS" "$SEED" "$logs"; then
    read -r faults moves _ <"$logs/result"
    echo "ok jobs survive faults ($faults faults, $moves moves)"
else
    for log in "$logs"/h?.log; do
        printf '%s\n' "--- ${log##*/}" "$(tail -n 60 "$log")"
    done
    echo "not ok jobs survive faults (seed $SEED)"
    exit 1
fi
