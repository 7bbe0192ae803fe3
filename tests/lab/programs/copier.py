"""Copies stdin to stdout in blocks, and says on stderr which it has copied, and at the end the checksum of all.

usage: copier.py BYTES PARTS    has at most PART/PARTS of the bytes copied before there is a file go-PART
"""

import hashlib
import os
import sys
import time

size, parts = map(int, sys.argv[1:])
checksum, copied, block = hashlib.sha256(), 0, 0
for part in range(1, parts + 1):
    while data := os.read(0, min(1 << 16, size * part // parts - copied)):
        checksum.update(data)
        copied += len(data)
        while data:
            data = data[os.write(1, data):]
        print("block", block, file=sys.stderr, flush=True)
        block += 1
        time.sleep(0.003)
    while not os.path.exists(f"go-{part}"):
        time.sleep(0.01)
print("checksum", checksum.hexdigest(), file=sys.stderr, flush=True)
