"""One cluster of the chaos run: three lab hosts whose jobs move all the time, while faults happen to the hosts.

usage: cluster.py LAB FAULTS SEED DIRECTORY

Of the environment: OM_BIN the directory with om's programs, OM_USER the jobs' user. The lab is made and removed. In
DIRECTORY are put: `result`, a line "FAULTS MOVES LOST DOUBLED CORRUPT TROUBLES"; `events`, everything that was done and
seen; and if something is wrong also what the hosts printed and the jobs' files. Exit status 1 if something is wrong.

The seed decides which faults happen, to whom and for how long; what the machine is doing at that moment it does not.
Jobs have their homes on h1 and h2. h3 is sometimes killed as a whole, and h2 now and then. The guests of such a host
are lost by design, and all that is asked of those is that their `om run` ends and says so; jobs whose home it was must
end wherever they are.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAB_SCRIPT = HERE.parent / "lab"
BIN, USER = os.environ["OM_BIN"], os.environ["OM_USER"]
PATH = BIN + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OM_FILES = "run/om/proc"

HOSTS, HOMES, MORTALS = ["h1", "h2", "h3"], ["h1", "h2"], ["h3", "h3", "h2"]
JOBS = 3
# How often each happens compared with the others.
FAULTS = {"kill": 5, "stop": 4, "restart": 3, "cut": 5, "pause": 3, "fill /run": 2, "fill memory": 2, "kill node": 1}
# How long hosts are cut off or pause: time-outs are in between.
SILENCES = [(0.2, 2.5), (0.2, 2.5), (3, 8), (9, 13)]
# Seconds after which a silent node counts as dead: longer than any cut with all that it takes to connect again.
GRACE = 30
# Seconds without a step, and without a fault, after which a job counts as lost.
PATIENCE = 90
# Seconds between the ends of two long cuts or pauses, so that the second does not just go on with the first.
CUT_PAUSE = 12


class Lab:
    """The lab and what runs on its hosts, looked at from outside: nothing here waits for a host."""

    def __init__(self, name, events):
        self.name, self.events = name, events
        self.state = Path("/run/om-lab") / name
        self.daemons = {}

    def script(self, *words, directory="/", path=PATH):
        return subprocess.run(
            [LAB_SCRIPT, "--name", self.name, *words], cwd=directory, env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
        ).stdout

    def up(self):
        self.script("up", str(len(HOSTS)))
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        self.cgroups = Path(next(mount[1] for mount in mounts if mount[2] == "cgroup2"))
        for host in HOSTS:
            (self.disk(host) / "etc/om/migd.toml").write_text("grace-s = %d\n" % GRACE)
            self.start_daemon(host)

    def down(self):
        self.script("down")

    def disk(self, host):
        return self.state / host / "disk"

    def cgroup(self, host):
        return self.cgroups / ("om-lab-%s-%s" % (self.name, host))

    def root(self, host):
        """The host's file system."""
        return Path("/proc", (self.state / host / "pid").read_text().strip(), "root")

    def start_daemon(self, host):
        # The line in the log tells one om-migd from the next.
        inner = self.script(
            "exec", "-d", host, "env", "RUST_LOG=" + os.environ.get("RUST_LOG", "info,om_migd=debug"),
            "sh", "-c", "echo; echo --- om-migd $$; exec om-migd",
        ).strip()
        self.daemons[host] = self.outer_pid(host, inner)

    def await_daemon(self, host):
        """Waits until om-migd serves its files."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                return os.listdir(self.root(host) / OM_FILES / "hpc/admin")
            except OSError:
                time.sleep(0.05)
        self.events.trouble("om-migd on %s is not ready within 30 s" % host)

    def outer_pid(self, host, inner):
        for pid in self.pids(self.cgroup(host)):
            if namespace_pid(pid) == inner:
                return pid
        return None

    def kill_daemon(self, host, number):
        pid = self.daemons[host]
        if pid is None or not Path("/proc", str(pid)).exists():
            return self.events.trouble("om-migd on %s has ended by itself" % host)
        os.kill(pid, number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            deadline = time.monotonic() + 20
            while Path("/proc", str(pid)).exists():
                if time.monotonic() > deadline:
                    return self.events.trouble("om-migd on %s does not end" % host)
                time.sleep(0.01)

    def pids(self, cgroup):
        try:
            return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def copies(self, job, hosts=HOSTS):
        """Where the job's processes are: (host, cgroup, whether they may run)."""
        found = []
        for host in hosts:
            for cgroup in sorted(self.cgroup(host).glob("om-*")):
                if any(job.marker in command_line(pid) for pid in self.pids(cgroup)):
                    try:
                        frozen = "frozen 1" in (cgroup / "cgroup.events").read_text()
                    except OSError:
                        continue
                    found.append((host, cgroup.name, not frozen))
        return found

    def has_copy(self, job, host):
        """Whether there is a process of the job on this host, also one that is just being restored."""
        cgroups = [self.cgroup(host), *self.cgroup(host).glob("*/")]
        return any(job.marker in command_line(pid) for cgroup in cgroups for pid in self.pids(cgroup))

    def remains(self):
        """What is there of jobs: nothing, once all have ended."""
        found = []
        for host in HOSTS:
            daemon = self.daemons[host]
            for pid in self.pids(self.cgroup(host)):
                if pid != daemon and namespace_pid(pid) != "1" and command_line(pid):
                    found.append("%s: process %d: %s" % (host, pid, command_line(pid)[:100]))
            found += ["%s: cgroup %s" % (host, path.name) for path in self.cgroup(host).glob("om-*/")]
            found += ["%s: socket %s" % (host, path.name) for path in (self.root(host) / "run/om/keepers").glob("*")]
            try:
                mounts = Path("/proc", str(daemon), "mountinfo").read_text().splitlines()
                found += ["%s: mount %s" % (host, line) for line in mounts if "om-root" in line]
            except OSError:
                pass
        return found


def namespace_pid(pid):
    """The process's pid on its host."""
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
        return next(line.split()[-1] for line in lines if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return ""


def command_line(pid):
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


class Events:
    """What was done and seen, and the count of what is wrong."""

    def __init__(self, name, directory):
        self.name, self.start = name, time.monotonic()
        self.file = open(directory / "events", "w", buffering=1, encoding="utf-8")
        self.lock = threading.Lock()
        self.count = dict.fromkeys(["lost", "doubled", "corrupt", "trouble"], 0)
        self.wrong = []

    def log(self, text):
        clock = time.strftime("%H:%M:%S", time.gmtime())
        with self.lock:
            self.file.write("%s %7.2f %s\n" % (clock, time.monotonic() - self.start, text))

    def tell(self, text):
        self.log(text)
        print("%s: %s" % (self.name, text), flush=True)

    def bad(self, kind, text):
        self.count[kind] += 1
        self.wrong.append(text)
        self.tell("%s: %s" % (kind.upper(), text))

    def trouble(self, text):
        self.bad("trouble", text)


class Job:
    """One job, from its start to its end."""

    def __init__(self, number, lab, chance, events, most_steps):
        self.number, self.lab, self.events = number, lab, events
        self.home = HOMES[number % len(HOMES)]
        self.chance = random.Random(chance.random())
        self.steps = self.chance.randrange(most_steps // 4, most_steps)
        self.megabytes = self.chance.choice([1, 2, 4, 8, 24, 64])
        self.pause = self.chance.choice([0.005, 0.02, 0.04])
        # No job's directory is the beginning of another's.
        self.directory = "/srv/job-%d-of-%s" % (number, lab.name)
        self.marker = self.directory + " "
        self.path = lab.disk(self.home) / self.directory[1:]
        self.may_be_lost_since = self.orphan_since = None
        self.ended = False
        self.moves = 0
        self.roles = None
        self.moving = threading.Event()
        self.size, self.grown_at = 0, time.monotonic()
        self.doubles = 0

    def expected(self):
        checksum, lines = 0, []
        for number in range(self.steps):
            checksum = zlib.crc32(b"%d" % number, checksum)
            lines.append(b"%d %08x\n" % (number, checksum))
        return b"".join(lines)

    def begin(self):
        self.path.mkdir()
        shutil.chown(self.path, USER, USER)
        (self.path / "in").write_text("".join("%d\n" % number for number in range(self.steps)))
        shutil.copy(HERE / "counter.py", self.path)
        words = ["python3", self.directory + "/counter.py", self.directory, self.steps, self.megabytes, self.pause]
        self.lab.script(
            "exec", "-d", "--user", USER, self.home, "bash", "-c",
            'cd "$1" && (echo "$BASHPID" >pid.new && mv pid.new pid && exec om run --time "${@:2}") <in >out 2>err\n'
            'echo "$?" >status.new; mv status.new status',
            "bash", self.directory, *map(str, words), path=BIN + ":/usr/local/bin:/usr/bin:/bin",
        )
        self.events.log("job %d: home %s, %d steps, %d MiB, %g s" % (
            self.number, self.home, self.steps, self.megabytes, self.pause))
        threading.Thread(target=self.move_around, daemon=True).start()

    def om_file(self, name):
        pid = (self.path / "pid").read_text().strip()
        return self.lab.root(self.home) / OM_FILES / pid / "om" / name

    def where(self):
        """home, queued, migrating or an address; nothing if om-migd does not tell."""
        try:
            moves = int(self.om_file("nmigs").read_text())
            self.moves = max(moves, self.moves)
            return self.om_file("where").read_text().strip()
        except (OSError, ValueError):
            return ""

    def move_around(self):
        """Asks for one move after another. May hang where om-migd does."""
        address = {"10.77.0.%s" % host[1:]: host for host in HOSTS}
        while not self.ended and not self.orphan_since:
            time.sleep(self.chance.uniform(0.1, 1.0))
            where = self.where()
            if where in ("", "queued", "migrating"):
                continue
            source = address.get(where, self.home)
            target = self.chance.choice([host for host in HOSTS if host != source])
            self.roles = {"source": source, "target": target, "home": self.home}
            try:
                self.om_file("where").write_text("home" if target == self.home else "10.77.0.%s" % target[1:])
            except OSError as error:
                self.events.log("job %d: %s to %s: %s" % (self.number, source, target, error.strerror))
                continue
            self.moving.set()
            self.events.log("job %d: %s to %s" % (self.number, source, target))
            while not self.ended and self.where() in ("", "queued", "migrating"):
                time.sleep(0.05)
            self.moving.clear()
            try:
                self.events.log("job %d: %s" % (self.number, self.om_file("result").read_text().strip()))
            except OSError:
                pass

    def look(self, quiet_since):
        """Looks whether it has ended, or is stuck: nothing has happened to its nodes since `quiet_since`."""
        now = time.monotonic()
        if self.orphan_since:
            return self.look_at_orphan(now)
        if (self.path / "status").exists():
            self.ended = True
            return self.judge()
        try:
            size = (self.path / "steps").stat().st_size
        except OSError:
            size = 0
        if size != self.size:
            self.size, self.grown_at = size, now
        if now - max(self.grown_at, quiet_since) > PATIENCE:
            self.ended = True
            what = "its node was killed, but om run does not end" if self.may_be_lost_since else "stands still"
            self.events.bad("lost", "job %d %s: %s" % (self.number, what, self.describe()))
            self.end_by_force()
        return None

    def look_at_orphan(self, now):
        """Its home was killed: it must end wherever it is."""
        copies, alone = self.lab.copies(self), now - self.orphan_since
        if not copies:
            self.ended = True
            self.events.log("job %d: has ended %.0f s after its home" % (self.number, alone))
            self.compare(True)
        elif alone > GRACE + 30:
            self.ended = True
            self.events.trouble("job %d: goes on %.0f s after its home: %s" % (self.number, alone, copies))

    def describe(self):
        copies = ["%s %s%s" % (host, cgroup, "" if running else " frozen")
                  for host, cgroup, running in self.lab.copies(self)]
        line = self.content("steps").count(b"\n")
        where = Waiting(self.where).result(3)
        return "after %d of %d steps, where: %s, copies: %s" % (line, self.steps, where, ", ".join(copies) or "none")

    def end_by_force(self):
        try:
            pid = self.lab.outer_pid(self.home, (self.path / "pid").read_text().strip())
            if pid:
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass

    def content(self, name):
        try:
            return (self.path / name).read_bytes()
        except OSError:
            return b""

    def judge(self):
        """Compares what it has left with what it should have."""
        status, said = self.content("status").decode().strip(), self.content("err").decode("utf-8", "replace")
        for line in said.splitlines():
            if line.startswith("moves "):
                self.moves = int(line.split()[1])
        lost = status != "0"
        if not self.compare(lost):
            return None
        if not lost:
            return self.events.log("job %d: is done after %d moves" % (self.number, self.moves))
        said_last = (said.strip().splitlines() or [""])[-1]
        if status == "3" or "corrupt:" in said:
            return self.events.bad("corrupt", "job %d: %s" % (self.number, said_last))
        if self.may_be_lost_since and "lost" in said:
            took = time.monotonic() - self.may_be_lost_since
            return self.events.log("job %d: was lost with its node, told after %.0f s" % (self.number, took))
        return self.events.bad("lost", "job %d: om run ended with %s: %s; %s" % (
            self.number, status, said_last, self.describe()))

    def compare(self, lost):
        """Whether its output is right, as far as it has come if it is lost."""
        expected = self.expected()
        for name in ["out", "steps"]:
            content = self.content(name)
            whole = content[:content.rfind(b"\n") + 1]
            if whole == expected or (lost and expected.startswith(whole)):
                continue
            lines = whole.splitlines()
            kind = "doubled" if len(set(lines)) < len(lines) else "corrupt"
            good = os.path.commonprefix([lines, expected.splitlines()])
            self.events.bad(kind, "job %d: %s is wrong from line %d on: %s" % (
                self.number, name, len(good), lines[len(good):len(good) + 3]))
            return False
        return True


class Waiting:
    """A call that may hang, in a thread of its own."""

    def __init__(self, call):
        self.value = "no answer"
        self.thread = threading.Thread(target=lambda: setattr(self, "value", call()), daemon=True)
        self.thread.start()

    def result(self, seconds):
        self.thread.join(seconds)
        return self.value


class Chaos:
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

    # --- faults ---

    def choose(self, number):
        """Lets a fault happen; it ends by itself."""
        kind = self.chance.choices(list(FAULTS), FAULTS.values())[0]
        role = self.chance.choice(["source", "target", "home"])
        in_a_move, delay, amount = self.chance.random() < 0.8, self.chance.uniform(0, 0.4), self.chance.random()
        shortest, longest = self.chance.choice(SILENCES)
        fallback, mortal = self.chance.choice(HOSTS), self.chance.choice(MORTALS)
        while (kind == "kill node" and self.active) or "kill node" in self.active.values() or (
                kind in ("cut", "pause") and time.monotonic() < self.next_cut):
            self.wait(0.1)
        moving = self.await_move() if in_a_move else None
        host = moving.roles[role] if moving else fallback
        if kind == "kill node":
            host = mortal
        while host in self.active:
            self.wait(0.1)
        silence = shortest + amount * (longest - shortest)
        seconds = {
            "kill": amount * 2, "stop": 0.5 + amount * 1.5, "restart": 0, "cut": silence, "pause": silence,
            "fill /run": 0.5 + 3 * amount, "fill memory": 0.5 + 3 * amount, "kill node": 0.5 + amount * 3,
        }[kind]
        if kind in ("cut", "pause"):
            self.next_cut = time.monotonic() + seconds + (CUT_PAUSE if seconds > 3 else 2)
        whose = "the %s of job %d" % (role, moving.number) if moving and host == moving.roles[role] else "by chance"
        text = "fault %d: %s %s for %.1f s (%s)" % (number, kind, host, seconds, whose)
        self.active[host] = kind
        words = kind, host, seconds, delay if moving else 0, text
        threading.Thread(target=self.fault, args=words, daemon=True).start()

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

    def fault(self, kind, host, seconds, delay, text):
        try:
            time.sleep(delay)
            self.events.tell(text)
            getattr(self, kind.replace(" ", "_").replace("/", ""))(host, seconds)
            self.events.log("end of %s" % text)
        except Exception as error:  # the run must tell of it and go on
            self.events.trouble("%s: %s%s" % (text, error, getattr(error, "output", "") or ""))
        finally:
            self.quiet_since = time.monotonic()
            del self.active[host]

    def kill(self, host, seconds):
        self.lab.kill_daemon(host, signal.SIGKILL)
        time.sleep(seconds)
        self.lab.start_daemon(host)
        self.lab.await_daemon(host)

    def restart(self, host, _seconds):
        self.lab.kill_daemon(host, signal.SIGTERM)
        self.lab.start_daemon(host)
        self.lab.await_daemon(host)

    def stop(self, host, seconds):
        self.lab.kill_daemon(host, signal.SIGSTOP)
        time.sleep(seconds)
        self.lab.kill_daemon(host, signal.SIGCONT)

    def cut(self, host, seconds):
        self.lab.script("cut", host)
        time.sleep(seconds)
        self.lab.script("heal", host)

    def pause(self, host, seconds):
        """As with a virtual machine: only the kernel answers, and then it goes on with what it knew."""
        freezer = self.lab.cgroup(host) / "cgroup.freeze"
        freezer.write_text("1")
        time.sleep(seconds)
        freezer.write_text("0")

    def fill_run(self, host, seconds):
        """Not one byte is left on the tmpfs /run."""
        fill = "mount -o remount,size=1M /run; head -c 2M /dev/zero >/run/filler || :"
        self.lab.script("exec", host, "sh", "-c", fill)
        time.sleep(seconds)
        self.lab.script("exec", host, "sh", "-c", "rm /run/filler; mount -o remount,size=50% /run")

    def fill_memory(self, host, seconds):
        """The host is short of memory, as far as it can see."""
        lie = "sed 's/^MemAvailable:.*/MemAvailable: 70000 kB/' /proc/meminfo >/run/meminfo"
        self.lab.script("exec", host, "sh", "-c", lie + " && mount --bind /run/meminfo /proc/meminfo")
        time.sleep(seconds)
        self.lab.script("exec", host, "umount", "/proc/meminfo")

    def kill_node(self, host, seconds):
        now = time.monotonic()
        for job in list(self.jobs):
            if job.home == host:
                job.orphan_since = now
                self.events.log("job %d has lost its home" % job.number)
            elif self.lab.has_copy(job, host):
                job.may_be_lost_since = now
                self.events.log("job %d may be lost" % job.number)
        self.lab.script("kill", host)
        time.sleep(seconds)
        self.lab.script("start", host)
        self.lab.start_daemon(host)
        self.lab.await_daemon(host)

    # --- the end ---

    def look_for_remains(self):
        # A candidate that home has never answered waits for the grace.
        deadline = time.monotonic() + GRACE + 15
        began = time.monotonic()
        while remains := self.lab.remains():
            if time.monotonic() > deadline:
                return self.events.trouble("left behind: " + "; ".join(remains))
            time.sleep(0.2)
        self.events.log("nothing is left after %.1f s" % (time.monotonic() - began))

    def keep_logs(self):
        for host in HOSTS:
            shutil.copy(self.lab.state / host / "console", self.directory / (host + ".log"))
            for path in (self.lab.disk(host) / "srv").glob("job-*"):
                shutil.copytree(path, self.directory / path.name, dirs_exist_ok=True)


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
