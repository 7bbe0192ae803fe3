"""Prints the name of each signal that it catches with how often it has come, until there is a file `end`."""

import os
import signal
import time

CAUGHT = ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "WINCH"]
counts = dict.fromkeys(CAUGHT, 0)


def handle(number, _):
    name = signal.Signals(number).name.removeprefix("SIG")
    counts[name] += 1
    print(name, counts[name], flush=True)


for name in CAUGHT:
    signal.signal(getattr(signal, "SIG" + name), handle)
print("ready", flush=True)
while not os.path.exists("end"):
    time.sleep(0.05)
