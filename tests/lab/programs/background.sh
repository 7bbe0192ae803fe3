# A script with background jobs, pipes, traps and a coprocess: copies stdin to stdout line by line, with a number from
# one child and a sum from another.

set -euo pipefail
trap 'echo "the end: $lines lines"' EXIT
lines=0

coproc sums { sum=0; while read -r number; do sum=$((sum + number)) && echo "$sum"; done; }
mkfifo numbers
(i=0; while :; do echo "$((i += 1))"; done) >numbers 2>/dev/null &
writer=$!
exec {numbers}<numbers

while read -r word part rest; do
    ((++lines % 100)) || {
        read -r number <&"$numbers"
        echo "$number" >&"${sums[1]}"
        read -r sum <&"${sums[0]}"
        # Now and then a process or two.
        ((lines % 2000)) || echo "$(echo "$rest" | tr a-z A-Z) $(jobs -rp | wc -l)"
        echo "$number $sum $word $part"
    }
done
kill "$writer"
wait "$writer" || echo "the writer ended with $?"
