"""One cluster of the chaos run: three lab hosts whose jobs move all the time, while faults happen to the hosts.

usage: cluster.py LAB FAULTS SEED DIRECTORY

Of the environment: OM_BIN the directory with om's programs, OM_USER the jobs' user. The lab is made and removed. In
DIRECTORY are put: `result`, a line "FAULTS MOVES LOST DOUBLED CORRUPT TROUBLES"; `events`, everything that was done and
seen; and if something is wrong also what the hosts printed and the jobs' files. Exit status 1 if something is wrong.

The seed decides which faults happen, to whom, at which step of a move and for how long; what the machine is doing at
that moment it does not. Debug builds of om-migd can be held at named steps (keeper/step.rs): half of the faults begin
while a keeper is held there, the others at a random moment.

Jobs have their homes on h1 and h2. h3 is sometimes killed as a whole, and h2 now and then. The guests of such a host
are lost by design, and all that is asked of those is that their `om run` ends and says so; jobs whose home it was must
end wherever they are.
"""

import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True

from faults import Faults
from hosts import GRACE, HOSTS, Events, Lab
from job import Job

JOBS = 3


class Chaos(Faults):
    def __init__(self, name, faults, seed, directory):
        self.faults, self.directory = faults, directory
        # Two, since when a job begins depends on the machine.
        number = name.rsplit("-", 1)[-1]
        self.chance = random.Random("%s %s" % (seed, number))
        self.jobs_chance = random.Random("%s %s jobs" % (seed, number))
        self.events = Events(name, directory)
        self.lab = Lab(name, self.events)
        self.jobs, self.moves, self.started = [], 0, 0
        # A short run must not wait long for its last jobs.
        self.most_steps = min(1500, 100 + 25 * faults)
        self.active = {}
        self.quiet_since = time.monotonic()
        self.next_cut = 0
        self.stopping = False

    def run(self):
        try:
            self.lab.up()
            for host in HOSTS:
                self.lab.await_daemon(host)
            threading.Thread(target=self.watch_copies, daemon=True).start()
            for number in range(1, self.faults + 1):
                self.wait(self.chance.uniform(0.3, 2.5))
                self.choose(number)
            while self.active:
                self.wait(0.2)
            self.events.tell("no more faults, %d jobs are to end" % len(self.jobs))
            self.stopping = True
            while self.jobs:
                self.wait(0.2)
            self.look_for_remains()
        finally:
            self.stopping = True
            if sum(self.events.count.values()):
                self.keep_logs()
            self.lab.down()
        count = self.events.count
        (self.directory / "result").write_text("%d %d %d %d %d %d\n" % (
            self.faults, self.moves, count["lost"], count["doubled"], count["corrupt"], count["trouble"]))
        return int(any(count.values()))

    def wait(self, seconds):
        """Lets time pass, and sees after the jobs meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            quiet_since = time.monotonic() if self.active else self.quiet_since
            for job in list(self.jobs):
                job.look(quiet_since)
                if job.ended:
                    self.jobs.remove(job)
                    self.moves += job.moves
            while len(self.jobs) < JOBS and not self.stopping:
                self.started += 1
                job = Job(self.started, self.lab, self.jobs_chance, self.events, self.most_steps)
                self.start_job(job)
            rest = deadline - time.monotonic()
            if rest <= 0:
                return
            time.sleep(min(rest, 0.1))

    def start_job(self, job):
        # Where no om-migd is, no job can be started; that is another test's matter.
        while job.home in self.active:
            time.sleep(0.05)
        job.begin()
        self.jobs.append(job)

    def watch_copies(self):
        """Nothing may ever run twice."""
        while not self.stopping or self.jobs:
            for job in list(self.jobs):
                running = [copy for copy in self.lab.copies(job) if copy[2]]
                if len(running) < 2:
                    continue
                time.sleep(0.05)
                still = [copy for copy in self.lab.copies(job) if copy[2]]
                if len(set(running) & set(still)) > 1:
                    self.events.bad("doubled", "job %d runs twice: %s" % (job.number, still))
            time.sleep(0.1)

    # --- the end ---

    def look_for_remains(self):
        # A candidate that home has never answered waits for the grace.
        deadline = time.monotonic() + GRACE + 15
        began = time.monotonic()
        while remains := self.lab.remains():
            if time.monotonic() > deadline:
                self.lab.keep_images(self.directory)
                return self.events.trouble("left behind: " + "; ".join(remains))
            time.sleep(0.2)
        self.events.log("nothing is left after %.1f s" % (time.monotonic() - began))

    def keep_logs(self):
        for host in HOSTS:
            shutil.copy(self.lab.state / host / "console", self.directory / (host + ".log"))
            for path in (self.lab.disk(host) / "srv").glob("job-*"):
                sockets = shutil.ignore_patterns("*.sock")
                shutil.copytree(path, self.directory / path.name, ignore=sockets, dirs_exist_ok=True)


def main():
    name, faults, seed, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    directory.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    status = Chaos(name, faults, seed, directory).run()
    sys.stdout.flush()
    # Threads that hang in a host's files need not be waited for.
    os._exit(status)


if __name__ == "__main__":
    main()
