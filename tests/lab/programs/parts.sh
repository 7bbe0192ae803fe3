# Writes text and numbers, in four parts of so many lines, the last three when there are the files go-1, go-2 and go-3.
#
# usage: parts.sh LINES

for part in 0 1 2 3; do
    until ((part == 0)) || [[ -e go-$part ]]; do sleep 0.02; done
    seq -f "part $part number %.0f and some more" $((part * 77777)) $((part * 77777 + $1))
    touch "part-$part"
done
