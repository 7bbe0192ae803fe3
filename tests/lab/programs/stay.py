"""Makes one cause for a job to stay, named on the command line, and prints "ready".

Takes the cause away once there is a file `undo`, if that can be done, prints "undone", and ends once there is a file
`end`. With a second argument it waits for a file of that name first. "cannot REASON" means that it cannot be tried here.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import pty
import signal
import socket
import struct
import sys
import tempfile
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_DETACH, PTRACE_SEIZE = 17, 0x4206
CLONE_FS, CLONE_FILES, CLONE_NEWUTS = 0x200, 0x400, 0x4000000
# The numbers of system calls that are younger than the common table of all architectures.
IO_URING_SETUP, PIDFD_OPEN, MEMFD_SECRET = 425, 434, 447
# Those that differ: x86-64, others.
IS_X86 = os.uname().machine == "x86_64"
USERFAULTFD = 323 if IS_X86 else 282
SCHED_SETATTR = 314 if IS_X86 else 274
EXIT = 60 if IS_X86 else 93


def call(result):
    """The result of a function of the C library, or its error as an exception."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def syscall(number, *arguments):
    return call(LIBC.syscall(number, *arguments))


class Mapping:
    """A page of an open file. Python's own mappings keep the file open."""

    def __init__(self, descriptor):
        LIBC.mmap.restype = ctypes.c_void_p
        zero = ctypes.c_long(0)
        self.address = LIBC.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, zero)
        call(-1 if self.address == ctypes.c_void_p(-1).value else 0)

    def remove(self):
        call(LIBC.munmap(ctypes.c_void_p(self.address), 4096))


def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.05)


def sleep():
    while True:
        time.sleep(1)


def fork(body=sleep):
    child = os.fork()
    if child == 0:
        body()
        os._exit(0)
    return child


def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def held(descriptor):
    yield
    os.close(descriptor)


# --- sockets ---


def listening():
    with socket.create_server(("", 5999)):
        yield


def listening6():
    with socket.create_server(("", 5998), family=socket.AF_INET6):
        yield


def connected():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield


def datagrams():
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind(("", 0))
        yield


def raw():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        yield


def unix():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("/run/om/migd.sock")
        yield


def netlink():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        one.bind((0, 0))
        # RTM_GETLINK, a dump.
        one.send(struct.pack("=IHHIIB3x", 20, 18, 0x301, 1, 0, 0))
        yield


# --- files ---


def io_uring():
    return held(syscall(IO_URING_SETUP, 8, ctypes.create_string_buffer(120)))


def userfaultfd():
    return held(syscall(USERFAULTFD, os.O_CLOEXEC | 1))


def device():
    return held(os.open("/dev/fuse", os.O_PATH))


def disk():
    return held(os.open("/dev/loop-control", os.O_RDONLY))


def pidfd():
    threading.Thread(target=sleep, daemon=True).start()
    return held(syscall(PIDFD_OPEN, threading.enumerate()[-1].native_id, os.O_EXCL))


def terminal():
    def open_terminal():
        os.open("/dev/tty", os.O_RDWR)
        sleep()

    child, master = pty.fork()
    if child == 0:
        open_terminal()
    time.sleep(0.5)
    yield
    end(child)
    os.close(master)


def deleted():
    with tempfile.TemporaryFile(dir=".") as file:
        os.posix_fallocate(file.fileno(), 0, 257 << 20)
        yield


def deleted_mapping():
    with tempfile.TemporaryFile(dir=".") as file:
        os.posix_fallocate(file.fileno(), 0, 257 << 20)
        memory = Mapping(file.fileno())
    yield
    memory.remove()


def renamed_away():
    with open("one name", "w") as file:
        os.link("one name", "another name")
        os.unlink("one name")
        yield
        file.write("x")


def flock():
    with open("lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        fcntl.flock(file, fcntl.LOCK_UN)


def inherited_flock():
    with open("lock", "w") as file:
        child = fork(lambda: fcntl.flock(file, fcntl.LOCK_EX))
        os.waitpid(child, 0)
        yield
        fcntl.flock(file, fcntl.LOCK_UN)


def record_lock():
    with open("lock", "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield
        fcntl.lockf(file, fcntl.LOCK_UN)


def queue():
    librt = ctypes.CDLL("librt.so.1", use_errno=True)
    queue = call(librt.mq_open(b"/om-test", os.O_CREAT | os.O_RDWR, 0o600, None))
    call(librt.mq_unlink(b"/om-test"))
    return held(queue)


def watch():
    descriptor = call(LIBC.inotify_init())
    call(LIBC.inotify_add_watch(descriptor, b"/proc/self", 0xFFF))
    return held(descriptor)


def packets():
    reader, writer = os.pipe2(os.O_DIRECT)
    yield
    os.close(reader)
    os.close(writer)


def dead_process():
    child = fork()
    with open(f"/proc/{child}/stat"):
        end(child)
        yield


def alarm():
    boottime_alarm = 9
    return held(call(LIBC.timerfd_create(boottime_alarm, 0)))


# --- memory ---


def secret():
    descriptor = syscall(MEMFD_SECRET, 0)
    os.ftruncate(descriptor, 4096)
    memory = Mapping(descriptor)
    os.close(descriptor)
    yield
    memory.remove()


# --- processes ---


def traced():
    child = fork()
    call(LIBC.ptrace(PTRACE_SEIZE, child, 0, 0))
    yield
    end(child)


def other_user():
    child = fork(lambda: (os.setresuid(65534, 65534, 65534), sleep()))
    time.sleep(0.5)
    yield
    end(child)


def other_group():
    child = fork(lambda: (os.setresgid(65534, 65534, 65534), sleep()))
    time.sleep(0.5)
    yield
    end(child)


def namespace():
    child = fork(lambda: (LIBC.unshare(CLONE_NEWUTS), sleep()))
    time.sleep(0.5)
    yield
    end(child)


def in_a_thread(body):
    done, errors = threading.Event(), []

    def run():
        try:
            body()
        except OSError as error:
            errors.append(error)
        done.set()
        undo.wait()

    undo = threading.Event()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    done.wait()
    for error in errors:
        raise error
    yield
    undo.set()
    thread.join()


def namespace_of_a_thread():
    return in_a_thread(lambda: call(LIBC.unshare(CLONE_NEWUTS)))


def own_directory():
    return in_a_thread(lambda: call(LIBC.unshare(CLONE_FS)))


def own_files():
    return in_a_thread(lambda: call(LIBC.unshare(CLONE_FILES)))


def deadline():
    attributes = struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 10**8, 10**8)
    syscall(SCHED_SETATTR, 0, ctypes.create_string_buffer(attributes), 0)
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def dead_leader():
    def run():
        time.sleep(0.5)
        print("ready", flush=True)
        wait_for("end")
        os._exit(0)

    threading.Thread(target=run).start()
    LIBC.syscall(EXIT, 0)
    yield


def starting():
    """Starts a program with posix_spawn, which keeps the parent waiting until a fifo is opened."""
    os.mkfifo("fifo")
    fork(lambda: (wait_for("undo"), open("fifo", "w").close()))
    print("ready", flush=True)
    opening = [(os.POSIX_SPAWN_OPEN, 0, "fifo", os.O_RDONLY, 0)]
    child = os.posix_spawn("/bin/cat", ["cat"], os.environ, file_actions=opening)
    os.waitpid(child, 0)
    print("undone", flush=True)
    wait_for("end")
    sys.exit()
    yield


def main():
    if len(sys.argv) > 2:
        print("waiting", flush=True)
        wait_for(sys.argv[2])
    try:
        cause = globals()[sys.argv[1]]()
        next(cause)
    except OSError as error:
        print("cannot", errno.errorcode[error.errno], flush=True)
        sys.exit()
    print("ready", flush=True)
    wait_for("undo")
    next(cause, None)
    print("undone", flush=True)
    wait_for("end")


main()
