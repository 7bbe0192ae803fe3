"""Holds what a process can hold, and looks after all of it ten times a second until there is a file `end`.

Prints "round NUMBER NODE", and what is no longer as it was, which ends it with status 1.
"""

import ctypes
import mmap
import os
import select
import signal
import socket
import tempfile
import threading
import time
from multiprocessing import shared_memory


children = []


def fork(body):
    """Starts a process that runs body, which does not return."""
    child = os.fork()
    if child == 0:
        body()
    children.append(child)


class Threads:
    """Four threads that count under a lock."""

    def __init__(self):
        self.lock, self.count, self.seen = threading.Lock(), 0, 0
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(4)]
        for thread in self.threads:
            thread.start()

    def work(self):
        while True:
            with self.lock:
                self.count += 1
            time.sleep(0.01)

    def check(self, _):
        assert all(thread.is_alive() for thread in self.threads)
        deadline = time.monotonic() + 20
        while self.count == self.seen:
            assert time.monotonic() < deadline, "no thread counts"
            time.sleep(0.01)
        self.seen = self.count


class Pipes:
    """A child that answers over pipes, and its own child over a socket pair."""

    def __init__(self):
        question, self.ask = os.pipe()
        self.hear, answer = os.pipe()
        fork(lambda: self.answer(question, answer))
        os.close(question)
        os.close(answer)

    def answer(self, question, answer):
        os.close(self.ask)
        os.close(self.hear)
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            while data := theirs.recv(8):
                theirs.send(data[::-1])
            os._exit(0)
        theirs.close()
        while data := os.read(question, 8):
            ours.send(data)
            os.write(answer, ours.recv(8))
        os._exit(0)

    def check(self, number):
        os.write(self.ask, b"%08d" % number)
        assert os.read(self.hear, 8) == (b"%08d" % number)[::-1]


class SharedMemory:
    """A file in /dev/shm that two processes have mapped."""

    def __init__(self):
        self.memory = shared_memory.SharedMemory(create=True, size=1 << 20)
        self.memory.buf[:] = os.urandom(1 << 20)
        self.sum = hash(bytes(self.memory.buf[8:]))
        fork(self.answer)

    def answer(self):
        while True:
            self.memory.buf[0] = self.memory.buf[1]
            time.sleep(0.01)

    def check(self, number):
        assert hash(bytes(self.memory.buf[8:])) == self.sum, "its bytes have changed"
        self.memory.buf[1] = number % 256
        deadline = time.monotonic() + 20
        while self.memory.buf[0] != number % 256:
            assert time.monotonic() < deadline, "the other process does not answer"
            time.sleep(0.01)
        assert os.path.exists("/dev/shm/" + self.memory.name.lstrip("/")), "its name has gone"


class SharedAnonymous:
    """Memory that a child shares by inheritance."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 4096)
        self.seen = -1
        fork(self.count)

    def count(self):
        while True:
            count = int.from_bytes(self.memory[:8], "little") + 1
            self.memory[:8] = count.to_bytes(8, "little")
            time.sleep(0.01)

    def check(self, _):
        deadline = time.monotonic() + 20
        while int.from_bytes(self.memory[:8], "little") == self.seen:
            assert time.monotonic() < deadline, "the child does not count"
            time.sleep(0.01)
        self.seen = int.from_bytes(self.memory[:8], "little")


class DeletedFile:
    """An open file without a name, in one of the places where files are."""

    def __init__(self, directory):
        handle, path = tempfile.mkstemp(dir=directory)
        os.unlink(path)
        self.file = os.fdopen(handle, "w+")
        self.expected = ""

    def check(self, number):
        self.file.seek(0, os.SEEK_END)
        self.file.write(f"{number} ")
        self.file.flush()
        self.expected += f"{number} "
        self.file.seek(0)
        assert self.file.read() == self.expected, "it has another content"


class OpenFile:
    """A file that is appended to, and one that is read on."""

    def __init__(self):
        with open("numbers", "w") as file:
            file.writelines(f"{number}\n" for number in range(100_000))
        self.read = open("numbers")
        self.append = open("appended", "a")
        self.expected = ""

    def check(self, number):
        assert self.read.readline() == f"{number}\n", "it goes on elsewhere"
        self.append.write(f"{number}\n")
        self.append.flush()
        self.expected += f"{number}\n"
        with open("appended") as file:
            assert file.read() == self.expected, "what was appended is not there"


class MappedFile:
    """A file of home's, mapped to read."""

    def __init__(self):
        self.content = os.urandom(1 << 16)
        with open("mapped", "wb") as file:
            file.write(self.content)
        self.file = open("mapped", "rb")
        self.memory = mmap.mmap(self.file.fileno(), 0, prot=mmap.PROT_READ)

    def check(self, _):
        assert self.memory[:] == self.content, "its bytes have changed"


class Descriptors:
    """epoll, an event counter and a timer of the kernel's."""

    def __init__(self):
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.epoll = select.epoll()
        self.epoll.register(self.event, select.EPOLLIN)
        self.ticks = 0
        signal.signal(signal.SIGVTALRM, lambda *_: None)
        signal.signal(signal.SIGALRM, self.tick)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)

    def tick(self, *_):
        self.ticks += 1

    def check(self, number):
        os.eventfd_write(self.event, number + 1)
        assert self.epoll.poll(20) == [(self.event, select.EPOLLIN)], "epoll does not tell"
        assert os.eventfd_read(self.event) == number + 1, "the event counter"
        before, deadline = self.ticks, time.monotonic() + 20
        while self.ticks == before:
            assert time.monotonic() < deadline, "the timer does not tick"
            time.sleep(0.01)


class Identity:
    """Who and where the process is, as the kernel tells it."""

    def __init__(self):
        self.expected = self.now()

    @staticmethod
    def now():
        libc = ctypes.CDLL(None)
        mask = os.umask(0)
        os.umask(mask)
        return (os.getpid(), os.getpgrp(), os.getsid(0), os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd(),
                mask, os.nice(0), libc.getpriority(0, 0), os.environ.get("OM_TEST"), os.getppid())

    def check(self, _):
        assert self.now() == self.expected, f"{self.now()}, not {self.expected}"


class Clock:
    """The clock that never goes back."""

    def __init__(self):
        self.last = time.monotonic()

    def check(self, _):
        now = time.monotonic()
        assert self.last <= now < self.last + 120, f"from {self.last} to {now}"
        self.last = now


def look_after(animals):
    """Checks all of them again and again until there is a file `end`."""
    number = 0
    while not os.path.exists("end"):
        for animal in animals:
            try:
                animal.check(number)
            except Exception as error:
                print(f"{animal.__class__.__name__}: {animal.__doc__} {error!r}", flush=True)
                end(1)
        with open("/proc/sys/kernel/hostname") as file:
            print("round", number, file.read().strip(), flush=True)
        number += 1
        time.sleep(0.1)
    end(0)


def end(status):
    for child in children:
        os.kill(child, signal.SIGKILL)
    os._exit(status)


if __name__ == "__main__":
    look_after([Pipes(), SharedMemory(), SharedAnonymous(), Threads(), DeletedFile("."), DeletedFile("/dev/shm"),
                OpenFile(), MappedFile(), Descriptors(), Identity(), Clock()])
