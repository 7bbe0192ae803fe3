"""As zoo.py, with objects of the kernel's that fewer programs have: System V IPC, descriptors for signals, timers and
changes of files, locks, stopped children, sessions, terminals and sockets of the job's own."""

import ctypes
import fcntl
import multiprocessing
import os
import pty
import signal
import socket
import struct
import time

from zoo import children, fork, look_after

LIBC = ctypes.CDLL(None, use_errno=True)
PATIENCE = 20


def call(name, *arguments):
    result = getattr(LIBC, name)(*arguments)
    assert result >= 0, f"{name}: {os.strerror(ctypes.get_errno())}"
    return result


def wait_for(condition, why):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


class SystemV:
    """A segment, a semaphore and a message queue, shared with a child."""

    PRIVATE, CREATE, NOWAIT, SETVAL, GETVAL = 0, 0o1600, 0o4000, 16, 12

    def __init__(self):
        LIBC.shmat.restype = ctypes.c_void_p
        self.segment = LIBC.shmat(call("shmget", self.PRIVATE, 1 << 16, self.CREATE), None, 0)
        self.content = os.urandom(1 << 12)
        ctypes.memmove(self.segment + 4096, self.content, len(self.content))
        self.semaphore = call("semget", self.PRIVATE, 1, self.CREATE)
        call("semctl", self.semaphore, 0, self.SETVAL, 5)
        self.queue = call("msgget", self.PRIVATE, self.CREATE)
        # One message stays in the queue all the time.
        self.send(7, b"waits here")
        fork(self.answer)

    def send(self, kind, text):
        call("msgsnd", self.queue, struct.pack("q16s", kind, text), 16, 0)

    def receive(self, kind):
        buffer = ctypes.create_string_buffer(24)
        call("msgrcv", self.queue, buffer, 16, kind, 0)
        return buffer.raw[8:].rstrip(b"\0")

    def answer(self):
        while True:
            text = self.receive(1)
            ctypes.memmove(self.segment, text, len(text))
            self.send(2, text[::-1])

    def check(self, number):
        text = b"message %d." % number
        self.send(1, text)
        assert self.receive(2) == text[::-1], "the child answers something else"
        assert ctypes.string_at(self.segment, len(text)) == text, "the segment is not shared"
        assert ctypes.string_at(self.segment + 4096, len(self.content)) == self.content, "the segment has changed"
        assert call("semctl", self.semaphore, 0, self.GETVAL) == 5, "the semaphore"
        assert self.receive(7) == b"waits here", "a message that waits is another"
        self.send(7, b"waits here")


class Signals:
    """Blocked signals, read from a descriptor; those that wait with what was sent along."""

    def __init__(self):
        self.number = signal.SIGRTMIN + 3
        signal.pthread_sigmask(signal.SIG_BLOCK, [self.number, signal.SIGUSR2])
        mask = struct.pack("Q", 1 << (self.number - 1))
        self.descriptor = call("signalfd", -1, mask, 0o2000000)
        self.waiting = []
        os.kill(os.getpid(), signal.SIGUSR2)

    def send(self, value):
        call("sigqueue", os.getpid(), self.number, ctypes.c_void_p(value))
        self.waiting.append(value)

    def check(self, number):
        # Two of them are always on their way.
        while len(self.waiting) < 3:
            self.send(number * 10 + len(self.waiting))
        info = os.read(self.descriptor, 128)
        assert struct.unpack_from("I", info)[0] == self.number, "another signal"
        assert struct.unpack_from("Q", info, 48)[0] == self.waiting.pop(0), "another value"
        assert signal.SIGUSR2 in signal.sigpending(), "the signal that waits is gone"


class Changes:
    """A watch on a directory."""

    def __init__(self):
        os.makedirs("watched", exist_ok=True)
        self.descriptor = call("inotify_init1", 0o2000000)
        call("inotify_add_watch", self.descriptor, b"watched", 0x100)  # IN_CREATE

    def check(self, number):
        with open(f"watched/{number}", "w"):
            pass
        event = os.read(self.descriptor, 4096)
        assert event[16:].rstrip(b"\0") == b"%d" % number, event
        os.unlink(f"watched/{number}")


class Timer:
    """A timer with a descriptor."""

    def __init__(self):
        self.descriptor = call("timerfd_create", time.CLOCK_MONOTONIC, 0o2000000)
        call("timerfd_settime", self.descriptor, 0, struct.pack("qqqq", 0, 20_000_000, 0, 20_000_000), None)

    def check(self, _):
        assert 1 <= struct.unpack("Q", os.read(self.descriptor, 8))[0] < 6000


class MemoryFile:
    """A sealed file without a place, mapped by nobody."""

    def __init__(self):
        self.file = os.memfd_create("animal", os.MFD_ALLOW_SEALING)
        self.content = os.urandom(1 << 18)
        os.write(self.file, self.content)
        fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)

    def check(self, _):
        assert os.pread(self.file, 1 << 19, 0) == self.content, "its bytes have changed"
        assert fcntl.fcntl(self.file, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK, "its seals"


class StoppedChild:
    """A child that is stopped, but for a moment in each round."""

    def __init__(self):
        self.reader, writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            while True:
                os.kill(os.getpid(), signal.SIGSTOP)
                os.write(writer, b"awake")
        children.append(self.child)
        os.close(writer)
        assert os.WIFSTOPPED(os.waitpid(self.child, os.WUNTRACED)[1])

    def check(self, _):
        with open(f"/proc/{self.child}/stat") as stat:
            assert stat.read().rsplit(")")[1].split()[0] == "T", "it runs"
        os.kill(self.child, signal.SIGCONT)
        assert os.read(self.reader, 5) == b"awake"
        # A stop that was told before a move may be told again after it.
        wait_for(lambda: os.waitpid(self.child, os.WUNTRACED | os.WNOHANG) and self.is_stopped(), "it does not stop")

    def is_stopped(self):
        with open(f"/proc/{self.child}/stat") as stat:
            return stat.read().rsplit(")")[1].split()[0] == "T"


class Fifo:
    """A named pipe with something in it."""

    def __init__(self):
        os.mkfifo("fifo")
        self.file = os.open("fifo", os.O_RDWR)
        os.write(self.file, b"first")

    def check(self, number):
        os.write(self.file, b"%05d" % number)
        text = os.read(self.file, 5)
        assert text in (b"first", b"%05d" % (number - 1)), text


class OwnTerminal:
    """A terminal of the job's own, with a program in it."""

    def __init__(self):
        child, self.master = pty.fork()
        if child == 0:
            os.execlp("cat", "cat")

    def check(self, number):
        os.write(self.master, b"line %d\n" % number)
        seen = b""
        while seen.count(b"line %d\r\n" % number) < 2:  # its echo, and what cat says
            seen += os.read(self.master, 100)


class Locks:
    """Locks on files in /dev/shm, which a child cannot take."""

    def __init__(self):
        self.flock, self.record = (open(f"/dev/shm/{name}", "w") for name in ("flock", "record"))
        fcntl.flock(self.flock, fcntl.LOCK_EX)
        fcntl.lockf(self.record, fcntl.LOCK_EX, 10, 5)

    def check(self, _):
        child = os.fork()
        if child == 0:
            os._exit(sum(self.can(*attempt) for attempt in (
                ("flock", fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB),
                ("record", fcntl.lockf, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 14))))
        assert os.waitpid(child, 0)[1] == 0, "another process gets a lock"

    @staticmethod
    def can(name, lock, *how):
        with open(f"/dev/shm/{name}", "r+") as file:
            try:
                lock(file, *how)
            except BlockingIOError:
                return 0
            return 1


class Semaphore:
    """POSIX semaphores and a queue between processes, as Python's multiprocessing has them."""

    def __init__(self):
        context = multiprocessing.get_context("fork")
        self.questions, self.answers = context.SimpleQueue(), context.SimpleQueue()
        fork(self.answer)

    def answer(self):
        while True:
            self.answers.put(self.questions.get() ** 2)

    def check(self, number):
        self.questions.put(number)
        assert self.answers.get() == number ** 2


class Server:
    """A Unix socket that listens, a connection to it, and a datagram socket with something in it."""

    def __init__(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("listener")
        self.listener.listen()
        self.client = self.connect()
        self.connection, _ = self.listener.accept()
        self.one, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.one.send(b"-1")

    @staticmethod
    def connect():
        client = socket.socket(socket.AF_UNIX)
        client.connect("listener")
        return client

    def check(self, number):
        self.client.send(b"%d" % number)
        assert self.connection.recv(100) == b"%d" % number
        self.one.send(b"%d" % number)
        assert self.other.recv(100) == b"%d" % (number - 1), "another datagram"
        with self.connect() as client, self.listener.accept()[0] as connection:
            client.send(b"new")
            assert connection.recv(3) == b"new"


class Daemon:
    """A process with a session of its own, which was left behind and has no other parent than the first one."""

    def __init__(self):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while not os.path.exists("end"):
                    with open("daemon.new", "w") as file:
                        file.write(f"{os.getppid()} {os.getsid(0)} {time.monotonic_ns()}")
                    os.rename("daemon.new", "daemon")
                    time.sleep(0.02)
            os._exit(0)
        os.wait()
        wait_for(lambda: self.told() and self.told()[0] == "1", "no daemon")
        self.expected = self.told()[:2]

    @staticmethod
    def told():
        try:
            with open("daemon") as file:
                return file.read().split()
        except FileNotFoundError:
            return None

    def check(self, _):
        now = time.monotonic_ns()
        # At the end it may be gone before the last round is.
        wait_for(lambda: int(self.told()[2]) > now or os.path.exists("end"), "it does not run")
        assert self.told()[:2] == self.expected, f"{self.told()}, not {self.expected}"


if __name__ == "__main__":
    look_after([SystemV(), Signals(), Changes(), Timer(), MemoryFile(), StoppedChild(), Fifo(), OwnTerminal(), Locks(),
                Semaphore(), Server(), Daemon()])
