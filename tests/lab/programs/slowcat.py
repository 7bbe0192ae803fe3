"""Copies stdin to stdout, slowly, and says on stderr which block it has copied."""

import sys
import time

block = 0
while data := sys.stdin.buffer.read(1 << 16):
    sys.stdout.buffer.write(data)
    print("block", block, file=sys.stderr, flush=True)
    block += 1
    time.sleep(0.01)
