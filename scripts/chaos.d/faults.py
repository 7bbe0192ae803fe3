"""What happens to the hosts of a cluster, and when."""

import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from hosts import HARMS, HOSTS, MORTALS, started

# How often each happens compared with the others.
FAULTS = {
    "kill": 5, "stop": 4, "restart": 3, "cut": 5, "pause": 3, "fill /run": 2, "fill nests": 2, "fill memory": 2,
    "kill node": 1,
}
# Steps of a move at which a keeper can be held, and the role of its host.
STEPS = {
    "offered": "target", "accepted": "source", "frozen": "source", "dumped": "source", "sent": "source",
    "received": "target", "restored": "target", "decided": "home", "granted": "home",
}
# Seconds within which some move comes to a step.
STEP_PATIENCE = 4
# How long hosts are cut off or pause: time-outs are in between.
SILENCES = [(0.2, 2.5), (0.2, 2.5), (3, 8), (9, 13)]
# Seconds between the ends of two long cuts or pauses, so that the second does not just go on with the first.
CUT_PAUSE = 12
# The memory controller of cgroup v1, where there is one.
MEMORY = Path("/sys/fs/cgroup/memory")


class Faults:
    """Chooses faults and lets them happen. Who inherits has `lab`, `events`, `jobs`, `chance`, `active`, `next_cut`,
    `quiet_since`, and lets time pass by `wait`."""

    def choose(self, number):
        """Lets a fault happen; it ends by itself."""
        kind = self.chance.choices(list(FAULTS), FAULTS.values())[0]
        role = self.chance.choice(["source", "target", "home"])
        step = self.chance.choice(list(STEPS)) if self.chance.random() < 0.5 else None
        in_a_move, delay, amount = self.chance.random() < 0.8, self.chance.uniform(0, 0.4), self.chance.random()
        shortest, longest = self.chance.choice(SILENCES)
        fallback, mortal = self.chance.choice(HOSTS), self.chance.choice(MORTALS)
        while (kind == "kill node" and self.active) or "kill node" in self.active.values() or (
                kind in ("cut", "pause") and time.monotonic() < self.next_cut):
            self.wait(0.1)
        if kind in ("fill memory", "fill nests"):
            # When the target has said yes, and not more than that.
            role, step = "target", "accepted"
        moving = self.await_step(step) if step else self.await_move() if in_a_move else None
        if not moving and step:
            step = None
        host = moving.roles[role] if moving else fallback
        if kind == "kill node":
            host = mortal
        while host in self.active:
            if step:
                self.lab.release(step)
            self.wait(0.1)
        silence = shortest + amount * (longest - shortest)
        seconds = {
            "kill": amount * 2, "stop": 0.5 + amount * 1.5, "restart": 0, "cut": silence, "pause": silence,
            "fill /run": 0.5 + 3 * amount, "fill nests": 0.5 + 3 * amount, "fill memory": 0.5 + 3 * amount,
            "kill node": 0.5 + amount * 3,
        }[kind]
        if kind in ("cut", "pause"):
            self.next_cut = time.monotonic() + seconds + (CUT_PAUSE if seconds > 3 else 2)
        whose = "the %s of job %d" % (role, moving.number) if moving and host == moving.roles[role] else "by chance"
        when = ", at %s" % step if step else ""
        text = "fault %d: %s %s for %.1f s (%s%s)" % (number, kind, host, seconds, whose, when)
        self.active[host] = kind
        words = kind, host, seconds, delay if moving and not step else 0, step, text
        threading.Thread(target=self.fault, args=words, daemon=True).start()

    def await_step(self, step):
        """A job whose move is held at this step."""
        self.lab.set_trap(step)
        deadline = time.monotonic() + STEP_PATIENCE
        while time.monotonic() < deadline:
            host = self.lab.trapped(step)
            for job in self.jobs if host else []:
                if job.moving.is_set() and job.roles[STEPS[step]] == host:
                    return job
            self.wait(0.02)
        self.lab.release(step)
        return None

    def await_move(self):
        """A job that has just begun to move."""
        for job in self.jobs:
            job.moving.clear()
        for _ in range(60):
            moving = [job for job in self.jobs if job.moving.is_set()]
            if moving:
                return moving[0]
            self.wait(0.05)
        return None

    def fault(self, kind, host, seconds, delay, step, text):
        harm = {"host": host, "end": float("inf")}
        try:
            time.sleep(delay)
            self.events.tell(text)
            if kind in HARMS:
                self.lab.harms.append(harm)
            with getattr(self, kind.replace(" ", "_").replace("/", ""))(host):
                if step:
                    self.lab.release(step)
                time.sleep(seconds)
            self.events.log("end of %s" % text)
        except Exception as error:  # the run must tell of it and go on
            self.events.trouble("%s: %s%s" % (text, error, getattr(error, "output", "") or ""))
        finally:
            self.quiet_since = harm["end"] = time.monotonic()
            del self.active[host]

    @contextmanager
    def kill(self, host):
        self.lab.kill_daemon(host, signal.SIGKILL)
        yield
        self.lab.start_daemon(host)
        self.lab.await_daemon(host)

    @contextmanager
    def restart(self, host):
        self.lab.kill_daemon(host, signal.SIGTERM)
        self.lab.start_daemon(host)
        self.lab.await_daemon(host)
        yield

    @contextmanager
    def stop(self, host):
        self.lab.kill_daemon(host, signal.SIGSTOP)
        yield
        self.lab.kill_daemon(host, signal.SIGCONT)

    @contextmanager
    def cut(self, host):
        self.lab.script("cut", host)
        yield
        self.lab.script("heal", host)

    @contextmanager
    def pause(self, host):
        """As with a virtual machine: only the kernel answers, and then it goes on with what it knew."""
        freezer = self.lab.cgroup(host) / "cgroup.freeze"
        freezer.write_text("1")
        yield
        freezer.write_text("0")

    @contextmanager
    def fill_run(self, host):
        """Not one byte is left on the tmpfs /run."""
        fill = "mount -o remount,size=1M /run; head -c 2M /dev/zero >/run/filler || :"
        self.lab.script("exec", host, "sh", "-c", fill)
        yield
        self.lab.script("exec", host, "sh", "-c", "rm /run/filler; mount -o remount,size=50% /run")

    @contextmanager
    def fill_nests(self, host):
        """Not one byte more of a job fits into the tmpfs where it is received."""
        self.resize_nests(host, "4k")
        yield
        self.resize_nests(host, "50%")

    def resize_nests(self, host, size):
        for nest in self.lab.nests(host):
            # One that has just gone is no matter.
            subprocess.run(
                ["nsenter", "--mount=%s" % nest, "mount", "-o", "remount,size=" + size, "/run"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    @contextmanager
    def fill_memory(self, host):
        """The youngest keeper and what it starts get not one page more, and are killed if they ask: that of a job that
        is arriving. Where there is no memory controller for that, the host is short of memory as far as it can see."""
        young = self.arriving_keeper(host)
        if not young:
            with self.pretend_to_fill_memory(host):
                yield
            return
        limited = MEMORY / ("om-chaos-%d" % young)
        limited.mkdir()
        try:
            (limited / "cgroup.procs").write_text(str(young))
            (limited / "memory.limit_in_bytes").write_text("1M")
            yield
        finally:
            while limited.exists():
                for pid in self.lab.pids(limited):
                    with suppress(OSError):
                        (MEMORY / "cgroup.procs").write_text(str(pid))
                with suppress(OSError):
                    limited.rmdir()

    def arriving_keeper(self, host):
        """One that has no job yet, whose death harms none."""
        keepers = self.lab.keepers(host)
        at_home = [job for job in self.jobs if job.home == host and job.moving.is_set()]
        if not keepers or at_home or not (MEMORY / "memory.limit_in_bytes").exists():
            return None
        young = keepers[-1]
        # A job comes to its node some seconds after its keeper at most, and a job's own keeper is older than its move.
        age = float(Path("/proc/uptime").read_text().split()[0]) - started(young) / os.sysconf("SC_CLK_TCK")
        return young if age < 3 and not self.lab.has_job(host, young) else None

    @contextmanager
    def pretend_to_fill_memory(self, host):
        lie = "sed 's/^MemAvailable:.*/MemAvailable: 70000 kB/' /proc/meminfo >/run/meminfo"
        self.lab.script("exec", host, "sh", "-c", lie + " && mount --bind /run/meminfo /proc/meminfo")
        yield
        self.lab.script("exec", host, "umount", "/proc/meminfo")

    @contextmanager
    def kill_node(self, host):
        # The cable goes first, or the kernel would close the host's connections on its way out.
        self.lab.script("cut", host)
        # Nobody comes or goes between the look and the end. No program is run meanwhile: it would close what others have
        # open, om files too, and wait for the host.
        (self.lab.cgroup(host) / "cgroup.freeze").write_text("1")
        now = time.monotonic()
        for job in list(self.jobs):
            if job.home == host:
                job.orphan_since = now
                self.events.log("job %d has lost its home" % job.number)
            elif self.lab.has_copy(job, host):
                job.may_be_lost_since = now
                self.events.log("job %d may be lost" % job.number)
        (self.lab.cgroup(host) / "cgroup.kill").write_text("1")
        yield
        self.lab.script("start", host)
        self.lab.script("heal", host)
        self.lab.start_daemon(host)
        self.lab.await_daemon(host)
