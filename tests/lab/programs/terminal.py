"""A user at a terminal: starts jobs with om run, types, resizes the window and moves the job meanwhile.

usage: terminal.py ADDRESS    says on the first line that is not as expected what came instead, and fails
"""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

PATIENCE = 30


class Terminal:
    def __init__(self, *command):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)
        self.command, self.seen = command, b""

    def type(self, text):
        os.write(self.master, text)

    def expect(self, text):
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            try:
                data = os.read(self.master, 4096) if ready else b""
            except OSError:
                data = b""
            if not data:
                sys.exit(f"{self.command}: not {text}, but {self.seen[-300:]}")
            self.seen += data
        self.seen = self.seen[self.seen.index(text) + len(text):]

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def ends(self, status):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            # Its last words must be read, or it could not end.
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.master, 4096)
                except OSError:
                    pass
            pid, how = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                how = os.waitstatus_to_exitcode(how)
                if how != status:
                    sys.exit(f"{self.command}: ended with {how}, not {status}: {self.seen[-300:]}")
                return
        sys.exit(f"{self.command}: does not end: {self.seen[-300:]}")


def move(pid, where):
    # A command may have written something before om-migd tells of its job.
    limit = time.monotonic() + 20
    while not os.path.exists(f"/run/om/proc/{pid}") and time.monotonic() < limit:
        time.sleep(0.05)
    subprocess.run(["om", "move", str(pid), where], check=True)


def main():
    away = sys.argv[1]
    # It does not sleep in read(2): Python runs a handler only between two of its own instructions.
    program = """import os, select, signal
def resized(*_): print("size", *os.get_terminal_size(), flush=True)
signal.signal(signal.SIGWINCH, resized)
print("terminal", os.isatty(0), os.isatty(1), os.isatty(2), os.ttyname(0), flush=True)
line = b"first"
while line:
    if select.select([0], [], [], 0.05)[0]:
        line = os.read(0, 100)
        print("heard", line.decode().strip(), flush=True)
print("end of input", flush=True)
"""
    terminal = Terminal("om", "run", "python3", "-c", program)
    terminal.expect(b"terminal True True True /dev/pts/")
    for number, where in enumerate((None, away, "home", away)):
        if where:
            move(terminal.pid, where)
        terminal.type(b"line %d\n" % number)
        terminal.expect(b"heard line %d\r\n" % number)
        terminal.resize(30 + number, 100)
        terminal.expect(b"size 100 %d\r\n" % (30 + number))
    terminal.type(b"\x04")
    terminal.expect(b"end of input")
    terminal.ends(0)

    # ^C ends a job that does not catch it, as guest too; om run dies as the job did.
    terminal = Terminal("om", "run", "sh", "-c", "echo ready; sleep 1000")
    terminal.expect(b"ready")
    move(terminal.pid, away)
    terminal.type(b"\x03")
    terminal.ends(-signal.SIGINT)

    # A shell's own job control, with the shell as guest.
    terminal = Terminal("om", "run", "bash", "--norc", "-i")
    terminal.type(b"PS1=; echo re''ady\n")
    terminal.expect(b"ready")
    move(terminal.pid, away)
    terminal.type(b"sleep 1000\n")
    time.sleep(0.5)
    terminal.type(b"\x1a")
    terminal.expect(b"Stopped")
    terminal.expect(b"sleep 1000\r\n")
    terminal.type(b"fg\n")
    terminal.expect(b"fg\r\n")
    terminal.expect(b"sleep 1000\r\n")
    time.sleep(0.5)
    terminal.type(b"\x03")
    terminal.expect(b"^C")
    terminal.type(b"exit 5\n")
    terminal.ends(5)


if __name__ == "__main__":
    main()
