"""Prints what the kernel tells of this process, once, and again when there is a file `again`."""

import os
import resource
import sys
import time


def tell():
    mask = os.umask(0)
    os.umask(mask)
    print("arguments", [os.fsencode(argument) for argument in sys.argv[1:]])
    print("environment", sorted(os.environb.items()))
    print("directory", os.getcwdb())
    print("ids", os.getresuid(), os.getresgid(), sorted(os.getgroups()))
    print("mask", oct(mask), "nice", os.nice(0))
    for name in sorted(name for name in dir(resource) if name.startswith("RLIMIT_")):
        print(name, resource.getrlimit(getattr(resource, name)))
    with open("/proc/self/status") as status:
        print(*(line.strip() for line in status if line.startswith(("SigIgn", "SigBlk", "NoNewPrivs", "CapEff"))))
    print("end", flush=True)


tell()
if os.path.exists("wait"):
    while not os.path.exists("again"):
        time.sleep(0.05)
    tell()
