# A benchmark's table. Needs say.sh.
#
#   bench_begin omd gmond collectd            the benchmark's name, and what it is compared with
#   bench_row 'CPU' % 0.25 le 0.6 0.1 -       measure, unit, figure, le or ge, goal, the others' figures
#   bench_row 'wall time' s 3.2 - - - 4.1     a figure without a goal
#   bench_end
#   bench_rest                                in a trap on EXIT: the rows that there are, if an error came before bench_end
#
# A figure that could not be had is '-'. While measuring, bench_say tells what is going on, away from the table.

# shellcheck shell=bash

bench_rows=()

bench_begin() { # NAME PEER…
    bench_name=$1 bench_peers=("${@:2}") bench_rows=() bench_met=0 bench_missed=0
}

bench_say() { say "$@" >&2; }

bench_row() { # MEASURE UNIT FIGURE OP GOAL PEER…
    local figure=$3 op=$4 goal=$5 verdict=-
    case $op in
        le) awk "BEGIN { exit !($figure <= $goal) }" && verdict=met || verdict=missed ;;
        ge) awk "BEGIN { exit !($figure >= $goal) }" && verdict=met || verdict=missed ;;
    esac
    case $verdict in
        met) bench_met=$((bench_met + 1)) ;;
        missed) bench_missed=$((bench_missed + 1)) ;;
    esac
    local IFS=$'\t'
    bench_rows+=("$1"$'\t'"$2"$'\t'"$figure"$'\t'"$op"$'\t'"$goal"$'\t'"$verdict"$'\t'"${*:6}")
}

bench_end() {
    if [[ ${BENCH_JSON-} ]]; then bench_print_json; else bench_print_table; fi
    bench_rows=()
}

bench_rest() {
    ((${#bench_rows[@]})) || return 0
    bench_say "ended early; what was measured until then:"
    bench_end
}

bench_print_table() {
    {
        local IFS=$'\t'
        printf '%s\t' measure om goal '' "${bench_peers[@]}"
        echo
        local row measure unit figure op goal verdict others
        for row in "${bench_rows[@]}"; do
            IFS=$'\t' read -r measure unit figure op goal verdict others <<<"$row"
            case $op in
                le) goal="≤ $goal" ;;
                ge) goal="≥ $goal" ;;
            esac
            printf '%s, %s\t%s\t%s\t%s\t%s\n' "$measure" "$unit" "$figure" "$goal" "$verdict" "$others"
        done
    } | column --table --separator $'\t'
    echo "bench $bench_name: $bench_met met, $bench_missed missed"
}

bench_print_json() {
    local row rows=() measure unit figure op goal verdict others other peers index
    for row in "${bench_rows[@]}"; do
        IFS=$'\t' read -r measure unit figure op goal verdict others <<<"$row"
        peers=() index=0
        for other in $others; do
            peers+=("\"${bench_peers[index]}\": $(bench_json_number "$other")")
            index=$((index + 1))
        done
        rows+=("{\"measure\": \"$measure\", \"unit\": \"$unit\", \"figure\": $(bench_json_number "$figure"), \"op\": \"$op\", \"goal\": $(bench_json_number "$goal"), \"verdict\": \"$verdict\", \"compared\": {$(bench_join "${peers[@]}")}}")
    done
    printf '{"bench": "%s", "rows": [%s], "met": %d, "missed": %d}\n' \
        "$bench_name" "$(bench_join "${rows[@]}")" "$bench_met" "$bench_missed"
}

bench_json_number() {
    case $1 in
        -) echo null ;;
        *[!0-9.]*) echo "\"$1\"" ;;
        *) echo "$1" ;;
    esac
}

bench_join() {
    local joined=''
    ((!$#)) || printf -v joined ', %s' "$@"
    printf '%s' "${joined:2}"
}
