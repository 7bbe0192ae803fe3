"""A guest that tries to get at the node where it is. Says 'ready', waits for the file 'go', makes the attempts that it is
asked for, says for each 'NAME: held', or what it got, and then waits for the file 'end'.

usage: hostile.py ATTEMPT…
"""

import ctypes
import errno
import os
import resource
import socket
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)

# What tests/lab/guests.sh puts on the guest's node.
FILE = "/var/lib/om/only-here"
ABSTRACT = "\0om-test-abstract"
KEY = 0x6F6D
QUEUE = b"/om-test-queue"

# A guest's /dev has these and no others.
DEVICES = {"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}


def failed(result):
    return ctypes.get_errno() if result == -1 else 0


def files():
    """Files of the node, by every way out of the root."""
    ways = ["", "../" * 50, "/..", "/../../..", "/run/om-root/../..", "/proc/1/root", "/proc/self/root/..", "/proc/1/cwd/../../.."]
    ways += [f"/proc/{pid}/fd/{fd}" for pid in ("self", "1") for fd in range(300)]
    found = [way for way in ways if os.path.exists(way + FILE)]
    os.chdir("/")
    for _ in range(50):
        os.chdir("..")
    if os.path.exists("." + FILE):
        found.append("chdir")
    return found


def descriptors():
    """Descriptors of CRIU, of the keeper, of anybody."""
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
    return {fd: link for fd, link in links.items() if int(fd) > 2 and not link.startswith("/proc/")}


def root():
    """A way to become root: set-user-id programs of home, namespaces, chroot."""
    found = []
    if os.path.exists("suid") and subprocess.run(["./suid", "-u"], capture_output=True).stdout != b"%d\n" % os.getuid():
        found.append("a set-user-id program")
    for name, flags in (("user", 0x10000000), ("mount", 0x20000), ("network", 0x40000000)):
        if failed(libc.unshare(flags)) == 0:
            found.append(f"a {name} namespace")
    if failed(libc.chroot(b"/tmp")) == 0:
        found.append("chroot")
    return found


def processes():
    """Processes outside the job: to see, to signal, to trace."""
    own = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    found = sorted(pid for pid in own if pid > 100)
    for pid in range(1, 33000):
        try:
            os.kill(pid, 0)
            if pid not in own:
                found.append(pid)
        except ProcessLookupError:
            pass
    return found


def sockets():
    """Sockets in /run, by name."""
    found = []
    for name in ("/run/om/migd.sock", "/run/om-test.sock"):
        try:
            socket.socket(socket.AF_UNIX).connect(name)
            found.append(name)
        except OSError:
            pass
    return found


def abstract():
    """Sockets without a file. Those of the job itself must work."""
    own = socket.socket(socket.AF_UNIX)
    own.bind("\0om-own-%d" % os.getpid())
    own.listen()
    socket.socket(socket.AF_UNIX).connect(own.getsockname())
    try:
        socket.socket(socket.AF_UNIX).connect(ABSTRACT)
        return "connected"
    except PermissionError:
        return None


def memory():
    """Memory and queues that processes share by name."""
    found = []
    if os.path.exists("/dev/shm/om-test"):
        found.append("/dev/shm")
    if failed(libc.shmget(KEY, 1, 0)) != errno.ENOENT:
        found.append("System V shared memory")
    if failed(ctypes.CDLL("librt.so.1", use_errno=True).mq_open(QUEUE, os.O_RDWR)) != errno.ENOENT:
        found.append("a message queue")
    return found


def keys():
    """The keys of whoever started this guest."""
    keyctl, session, read = 250, ctypes.c_int(-3), 11
    if os.uname().machine != "x86_64":
        return None
    buffer = ctypes.create_string_buffer(64)
    size = libc.syscall(keyctl, read, session, buffer, 64)
    return None if size <= 0 else f"{size // 4} keys"


def devices():
    """Devices of the node."""
    return sorted(set(os.listdir("/dev")) - DEVICES)


def control_groups():
    """A control group on the node that belongs to the user."""
    found = []
    for directory, _, names in os.walk("/sys/fs/cgroup"):
        if os.path.basename(directory) == "om-test-users" and "cgroup.freeze" in names:
            try:
                open(os.path.join(directory, "cgroup.freeze"), "w").write("1")
                found.append(directory)
            except OSError as error:
                if error.errno != errno.EROFS:
                    found.append(f"{directory}: {error}")
    return found


def limits():
    """More than it was given."""
    found = []
    try:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)
        found.append("nice")
    except PermissionError:
        pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))
        found.append("open files")
    except (PermissionError, ValueError):
        pass
    return found


print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
place = os.getcwd()
for attempt in sys.argv[1:]:
    print(f"{attempt}: {globals()[attempt]() or 'held'}", flush=True)
    os.chdir(place)
while not os.path.exists("end"):
    time.sleep(0.02)
