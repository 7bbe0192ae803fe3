"""The lab of a cluster and what runs on its hosts, looked at from outside: nothing here waits for a host."""

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

LAB_SCRIPT = Path(__file__).resolve().parent.parent / "lab"
BIN, USER = os.environ["OM_BIN"], os.environ["OM_USER"]
PATH = BIN + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OM_FILES, STEP_FILES = "run/om/proc", "run/om/steps"

HOSTS, HOMES, MORTALS = ["h1", "h2", "h3"], ["h1", "h2"], ["h3", "h3", "h2"]
# Faults that can end a connection, or CRIU or a keeper at the target.
HARMS = {"cut", "pause", "kill node", "fill memory"}
# Seconds after which a silent node counts as dead: longer than any cut with all that it takes to connect again.
GRACE = 30


class Lab:
    """The lab."""

    def __init__(self, name, events):
        self.name, self.events = name, events
        self.state = Path("/run/om-lab") / name
        self.daemons = {}
        # Faults of the kinds in HARMS: the host, and when it was over.
        self.harms = []

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
            (self.disk(host) / "etc/om/migd.toml").write_text("grace-s = %d\nguest-cpu-weight = 0\n" % GRACE)
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
            "OM_STEPS=/" + STEP_FILES, "sh", "-c", "echo; echo --- om-migd $$; exec om-migd",
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

    # --- named steps ---

    def set_trap(self, step):
        """The first keeper on each host that comes to this step is held there."""
        for host in HOSTS:
            try:
                (self.root(host) / STEP_FILES).mkdir(parents=True, exist_ok=True)
                (self.root(host) / STEP_FILES / step).touch()
            except OSError:
                pass  # a full /run

    def trapped(self, step):
        """A host on which a keeper is held."""
        reached = lambda host: os.path.exists(self.root(host) / STEP_FILES / (step + ".reached"))
        return next(filter(reached, HOSTS), None)

    def release(self, step):
        for host in HOSTS:
            for name in [step, step + ".reached"]:
                with suppress(OSError):
                    (self.root(host) / STEP_FILES / name).unlink()

    # --- what keepers have ---

    def stays(self, host):
        """The cgroups of jobs on a host: at home in their callers', elsewhere in that of all guests."""
        host = self.cgroup(host)
        return sorted([*host.glob("om-*-*/"), *(host / "om-guests").glob("om-*-*/")])

    def keepers(self, host):
        """The keepers' pids on a host, the youngest last."""
        found = [pid for pid in self.pids(self.cgroup(host)) if command_line(pid) == "/proc/self/exe keeper "]
        return sorted(found, key=started)

    def has_job(self, host, keeper):
        """Whether processes of a job, those of its cgroup, are this keeper's."""
        return any(parent(pid) == keeper for cgroup in self.stays(host) for pid in self.pids(cgroup))

    def nests(self, host):
        """The mount namespaces of the jobs that are on a host, or arriving."""
        found = []
        for pid in self.keepers(host):
            try:
                links = [(link, os.readlink(link)) for link in Path("/proc", str(pid), "fd").iterdir()]
            except OSError:
                continue
            found += [link for link, target in links if target.startswith("mnt:")]
        return found

    def pids(self, cgroup):
        try:
            return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def copies(self, job, hosts=HOSTS):
        """Where the job's processes are: (host, cgroup, whether they may run)."""
        found = []
        for host in hosts:
            for cgroup in self.stays(host):
                if any(job.marker in command_line(pid) for pid in self.pids(cgroup)):
                    try:
                        frozen = "frozen 1" in (cgroup / "cgroup.events").read_text()
                    except OSError:
                        continue
                    found.append((host, cgroup.name, not frozen))
                    job.id = cgroup.name.split("-")[1]
        return found

    def was_harmed(self, hosts, since):
        """Whether a fault of the kinds in HARMS has happened to one of them, and was not over then."""
        return any(harm["host"] in hosts and harm["end"] >= since for harm in list(self.harms))

    def has_said(self, host, text):
        return text in (self.state / host / "console").read_text(errors="replace")

    def has_copy(self, job, host):
        """Whether there is a process of the job on this host, also one that is just being restored."""
        cgroups = [self.cgroup(host), *self.cgroup(host).glob("*/"), *self.stays(host)]
        return any(job.marker in command_line(pid) for cgroup in cgroups for pid in self.pids(cgroup))

    def remains(self):
        """What is there of jobs: nothing, once all have ended."""
        found = []
        for host in HOSTS:
            daemon = self.daemons[host]
            for pid in self.pids(self.cgroup(host)):
                if pid != daemon and namespace_pid(pid) != "1" and command_line(pid):
                    found.append("%s: process %d: %s" % (host, pid, command_line(pid)[:100]))
            found += ["%s: cgroup %s" % (host, path.name) for path in self.stays(host)]
            found += ["%s: socket %s" % (host, path.name) for path in (self.root(host) / "run/om/keepers").glob("*")]
            try:
                mounts = Path("/proc", str(daemon), "mountinfo").read_text().splitlines()
                found += ["%s: mount %s" % (host, line) for line in mounts if "om-root" in line]
            except OSError:
                pass
        return found

    def keep_images(self, directory):
        """Keeps what CRIU has said of a move that it has not ended, and where it and its children are."""
        for host in HOSTS:
            for pid in self.pids(self.cgroup(host)):
                if "criu" not in command_line(pid):
                    continue
                told = [command_line(pid)]
                for number in [pid, *(other for other in numbers("/proc") if parent(other) == pid)]:
                    told += ["--- %d" % number, content(f"/proc/{number}/status"), content(f"/proc/{number}/wchan")]
                told += [content(path) for path in Path(f"/proc/{pid}/root/run/om-img").glob("*.log")]
                (directory / f"{host}-criu-{pid}").write_text("\n".join(told))


def content(path):
    try:
        return Path(path).read_text(errors="replace")
    except OSError as error:
        return str(error)


def numbers(directory):
    return [int(path.name) for path in Path(directory).iterdir() if path.name.isdigit()]


def namespace_pid(pid):
    """The process's pid on its host."""
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
        return next(line.split()[-1] for line in lines if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return ""


def parent(pid):
    try:
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def started(pid):
    """When the process was started, in the kernel's ticks."""
    try:
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0


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
