"""Counts until there is a file `end`, whose content is the exit status.

Prints each number with the name of the node it runs on, and writes the numbers to the files ticks too, as it does
"error NUMBER" to stderr.
"""

import os
import sys
import time


def node():
    with open("/proc/sys/kernel/hostname") as file:
        return file.read().strip()


number = 0
with open("ticks", "w", buffering=1) as ticks:
    while not os.path.exists("end"):
        print(number, node(), flush=True)
        print("error", number, file=sys.stderr, flush=True)
        print(number, file=ticks)
        number += 1
        time.sleep(0.01)
with open("end") as end:
    sys.exit(int(end.read() or 0))
