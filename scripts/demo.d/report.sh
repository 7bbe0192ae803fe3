# Reports on a web server's log, ten days at a time: busiest clients, bytes a path, size and checksum of what is archived.
# Each figure comes out of a pipe of programs.
#
# usage: report.sh LOG ROUNDS DIR
log=$1 rounds=$2 dir=$3
mkdir -p "$dir"
round=0
while [ "$round" -lt "$rounds" ]; do
    days="$((round % 3))[0-9]"
    grep "\\[$days/Mar/" "$log" >"$dir/part"
    {
        echo "$days: $(wc -l <"$dir/part") requests"
        cut -d ' ' -f 1 "$dir/part" | sort | uniq -c | sort -k 1,1nr -k 2 | head -n 3
        awk '{ split($7, path, "?"); bytes[path[1]] += $NF } END { for (p in bytes) print p, bytes[p] }' "$dir/part" | sort
        for field in 1 4 7; do
            sort -k "$field" "$dir/part" | gzip -9 | tee "$dir/archive.$field.gz" | sha256sum
        done
        wc -c "$dir"/archive.*.gz
    } >>"$dir/report"
    round=$((round + 1))
done
sha256sum "$dir/report"
