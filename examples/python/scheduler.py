#!/usr/bin/env python3
"""A scheduler for om that is not written in Rust: `om nodes --json --follow` and the om files are all that it needs.

As long as another node would run a job faster than this one does, the job here that has used the most CPU time goes
there. Run it on every node instead of om-sched, as root or as a member of the group om:

    examples/python/scheduler.py
"""
import json, os, subprocess, time
from pathlib import Path

ROOT = Path(os.environ.get("OM_ROOT", "/run/om/proc"))
REST_S = 5  # After a request: until the nodes' reports tell what came of it.


def read(pid, name):
    return (ROOT / pid / "om" / name).read_text().rstrip("\n")


def jobs():
    """The jobs that run here and may leave, the one that has used the most CPU time first."""
    found = []
    for pid in filter(str.isdigit, os.listdir(ROOT)):
        try:
            may_leave = read(pid, "stay") == "" and read(pid, "lock") == "0"
            if may_leave and read(pid, "where") in ("home", read(pid, "home")):
                stat = dict(line.split(" ", 1) for line in read(pid, "stat").splitlines())
                found.append((int(stat["cpu_us"]), pid))
        except OSError:
            continue  # It has ended.
    return [pid for _, pid in sorted(found, reverse=True)]


def slowdown(node, more):
    """How many times longer than alone on a reference CPU something takes there, with so many more jobs."""
    return max(1, (node["load"] + more) / node["effective_cpus"]) * 1000 / node["speed"]


def takes_guests(node):
    no = {"full", "blocked", "expels", "stale", "unauthenticated"}
    return "migrates" in node["roles"] and not no & {*node["roles"]} and node["load"] is not None and node["speed"]


def decide(here, there):
    best = min(there, key=lambda node: slowdown(node, 1))
    for pid in jobs() if slowdown(best, 1) < 0.8 * slowdown(here, 0) else []:
        try:
            (ROOT / pid / "om" / "where").write_text(best["address"] + "\n")
            return True
        except OSError as error:
            print(f"{pid} stays: {error.strerror}", flush=True)


rests_until = 0
for line in subprocess.Popen(["om", "nodes", "--json", "--follow"], stdout=subprocess.PIPE).stdout:
    nodes = json.loads(line)["nodes"]
    here = [node for node in nodes if node["here"]]
    there = [node for node in nodes if not node["here"] and takes_guests(node)]
    if here and there and time.monotonic() >= rests_until and decide(here[0], there):
        rests_until = time.monotonic() + REST_S
