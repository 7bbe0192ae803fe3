"""A user at an interactive bash: does the same with and without `om run` before each command, and expects the same.

usage: shell.py SCENE ADDRESS    says what came instead of what was expected, and fails

With om the job moves to ADDRESS, or home again, whenever a scene pauses.
"""

import os
import subprocess
import sys
import time

from terminal import PATIENCE, Terminal

ROOT = "/run/om/proc"
PROMPT = b"ready> "


class Shell(Terminal):
    def __init__(self, run, away):
        super().__init__("bash", "--norc", "--noprofile", "--noediting", "-i")
        self.run, self.away, self.is_away = run, away, False
        # Not as one word, or the echo would look like the prompt.
        self.type(b"PS1='rea''dy> ' TERM=xterm\n")
        self.expect(PROMPT)

    def line(self, text, *expected):
        """Types a line, in which RUN stands for `om run` or nothing, and waits for each of these and the prompt."""
        self.start(text)
        for what in expected:
            self.expect(what)
        self.expect(PROMPT)

    def start(self, text):
        """Types a line whose command goes on, and waits for its echo."""
        line = text.replace(b"RUN ", self.run)
        self.type(line + b"\n")
        self.expect(line.split(b"\n")[-1][-60:])

    def move(self):
        """Lets the only job move, if there is om."""
        if self.run:
            pid = wait_for(lambda: jobs() if len(jobs()) == 1 else None, "one job")[0]
            where = "home" if self.is_away else self.away
            subprocess.run(["om", "move", pid, where], check=True, stdout=subprocess.DEVNULL)
            self.is_away = not self.is_away

    def nothing_is_left(self, *words):
        """No job, and no process with one of these words in its command line."""
        self.is_away = False
        wait_for(lambda: not jobs(), "an end of all jobs")
        wait_for(lambda: not any(processes(word) for word in words), f"an end of {words}")


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"never: {what}; jobs: {jobs()}")
        time.sleep(0.02)
    return value


def jobs():
    return [name for name in os.listdir(ROOT) if name.isdigit()] if os.path.isdir(ROOT) else []


def processes(word):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except OSError:
            continue
        if word in arguments:
            found.append(name)
    return found


def stopped_and_continued(shell):
    """^Z, bg, fg and ^C on a command that the shell starts directly."""
    shell.start(b"RUN sleep 1001")
    shell.move()
    time.sleep(0.3)
    shell.type(b"\x1a")
    shell.expect(b"Stopped")
    shell.expect(PROMPT)
    shell.move()
    shell.line(b"jobs", b"Stopped", b"sleep 1001")
    shell.line(b"bg", b"sleep 1001 &")
    shell.line(b"jobs", b"Running", b"sleep 1001")
    shell.start(b"fg")
    shell.expect(b"sleep 1001")
    time.sleep(0.3)
    shell.type(b"\x1a")
    shell.expect(b"Stopped")
    shell.expect(PROMPT)
    shell.start(b"fg")
    shell.expect(b"sleep 1001")
    shell.move()
    time.sleep(0.3)
    shell.type(b"\x03")
    shell.expect(PROMPT)
    shell.line(b'echo "status $?"', b"status 130")
    shell.nothing_is_left(b"1001")


def signals_itself(shell):
    """A command that stops itself, and says when it goes on."""
    shell.start(b"RUN sh -c 'kill -STOP $$; echo went on; kill -TSTP $$; echo and on'")
    shell.expect(b"Stopped")
    shell.expect(PROMPT)
    shell.move()
    shell.start(b"fg")
    shell.expect(b"went on")
    shell.expect(b"Stopped")
    shell.expect(PROMPT)
    shell.line(b"fg", b"and on")
    shell.line(b'echo "status $?"', b"status 0")
    shell.nothing_is_left()


def deaf_to_stops(shell):
    """A command that catches ^Z and ^C does what it likes."""
    shell.start(b"RUN python3 -c 'import signal, time\n"
                b"def on(number, _): print(\"caught\", number, flush=True)\n"
                b"for number in (2, 3, 20): signal.signal(number, on)\n"
                b"print(\"begun\", flush=True)\n"
                b"for _ in range(300): time.sleep(0.05)'")
    shell.expect(b"begun")
    for _ in range(2):
        shell.move()
        shell.type(b"\x1a")
        shell.expect(b"caught 20")
        shell.type(b"\x03")
        shell.expect(b"caught 2")
    shell.type(b"\x1c")
    shell.expect(b"caught 3")
    shell.expect(PROMPT)
    shell.line(b'echo "status $?"', b"status 0")
    shell.nothing_is_left()


def an_editor(shell):
    """A full-screen editor, stopped and continued, in a window that changes its size."""
    shell.resize(24, 80)
    shell.start(b"RUN vim -u NONE -N edited")
    shell.expect(b"edited")
    shell.type(b"ifirst line\x1b")
    shell.expect(b"first line")
    shell.move()
    shell.type(b"osecond line\x1b")
    shell.expect(b"second line")
    shell.type(b"\x1a")
    shell.expect(b"Stopped")
    shell.expect(PROMPT)
    shell.resize(40, 100)
    shell.start(b"fg")
    shell.expect(b"first line")
    shell.move()
    shell.type(b":echo 'lines' &lines 'columns' &columns\r")
    shell.expect(b"lines 40 columns 100")
    shell.type(b":wq\r")
    shell.expect(PROMPT)
    shell.line(b"cat edited; rm edited", b"first line\r\nsecond line\r\n")
    shell.nothing_is_left()


def a_pager(shell):
    """A pager with a file, and one that another program writes to."""
    shell.line(b"seq -f 'row %g' 1000 >rows")
    shell.resize(20, 80)
    shell.start(b"RUN less rows")
    shell.expect(b"row 19")
    shell.move()
    shell.type(b"500g")
    shell.expect(b"row 518")
    shell.resize(30, 80)
    # Now and then it misses the signal between two reads, and says nothing before a key.
    shell.type(b"r")
    shell.expect(b"row 528")
    shell.type(b"g")
    shell.expect(b"row 29")
    shell.move()
    shell.type(b"G")
    shell.expect(b"row 1000")
    shell.type(b"q")
    shell.expect(PROMPT)
    shell.start(b"RUN cat rows | less")
    shell.expect(b"row 29")
    shell.type(b"G")
    shell.expect(b"row 1000")
    shell.type(b"q")
    shell.expect(PROMPT)
    shell.nothing_is_left()


def keys_for_a_pipeline(shell):
    """^C and ^Z reach every process of a command, whichever of its streams are the terminal."""
    for streams in (b"", b" | cat", b" </dev/null | cat", b" </dev/null 2>&1 | cat"):
        shell.start(b"RUN sh -c 'echo be''gun; sleep 1002 | sleep 1003'" + streams)
        shell.expect(b"begun")
        shell.move()
        time.sleep(0.3)
        shell.type(b"\x1a")
        shell.expect(b"Stopped")
        shell.expect(PROMPT)
        shell.start(b"fg")
        time.sleep(0.3)
        shell.type(b"\x03")
        shell.expect(PROMPT)
        shell.nothing_is_left(b"1002", b"1003")


def killed_as_a_group(shell):
    """`kill %1` and timeout(1) end all processes of a command, `kill PID` one."""
    shell.line(b"RUN sh -c 'touch begun; sleep 1004; true' </dev/null 2>&1 | cat &")
    wait_for(lambda: os.path.exists("begun"), "a beginning")
    os.unlink("begun")
    shell.move()
    shell.line(b"kill %1; wait")
    shell.nothing_is_left(b"1004")
    shell.line(b"timeout 2 RUN sh -c 'sleep 1005; true' </dev/null; echo \"status $?\"", b"status 124")
    shell.nothing_is_left(b"1005")
    shell.line(b"RUN sh -c 'trap \"echo TERM\" TERM; sleep 3 & wait; wait; echo en''ded' </dev/null &")
    time.sleep(1)
    shell.line(b"kill $!; wait", b"TERM", b"ended")
    shell.nothing_is_left()


def some_of_the_streams(shell):
    """The terminal as stdin, stdout or stderr alone."""
    shell.start(b"RUN cat >copy")
    shell.type(b"typed here\n")
    shell.move()
    shell.type(b"and there\n")
    shell.type(b"\x04")
    shell.expect(PROMPT)
    shell.line(b"cat copy", b"typed here\r\nand there\r\n")
    shell.line(b"RUN sh -c 'cat; test ! -t 0 && test -t 1 && echo as expected' <copy", b"typed here", b"as expected")
    shell.line(b"RUN sh -c 'echo in copy; test ! -t 1 && test -t 2 && echo as expected >&2' >copy </dev/null",
               b"as expected")
    shell.line(b"cat copy", b"in copy")
    shell.start(b"x=$(RUN sh -c 'read -r line; echo \"[$line]\"')")
    shell.type(b"typed for it\n")
    shell.expect(PROMPT)
    shell.line(b'echo "x is $x"', b"x is [typed for it]")
    shell.nothing_is_left()


def a_shell_inside(shell):
    """An interactive shell as the command, with job control of its own."""
    shell.start(b"RUN bash --norc --noprofile --noediting -i")
    shell.type(b"PS1='in''side> '\n")
    shell.expect(b"inside> ")
    shell.start(b"sleep 1006")
    shell.move()
    time.sleep(0.3)
    shell.type(b"\x1a")
    shell.expect(b"Stopped")
    shell.expect(b"inside> ")
    shell.move()
    shell.type(b"bg\n")
    shell.expect(b"sleep 1006 &")
    shell.type(b"suspend\n")
    shell.expect(b"Stopped")
    shell.expect(PROMPT)
    shell.start(b"fg")
    shell.type(b"jobs\n")
    shell.expect(b"Running")
    shell.type(b"kill %1; wait; exit 7\n")
    shell.expect(PROMPT)
    shell.line(b'echo "status $?"', b"status 7")
    shell.nothing_is_left(b"1006")


def main():
    scene, away = globals()[sys.argv[1]], sys.argv[2]
    for run in (b"", b"om run "):
        print("with" if run else "without", "om", flush=True)
        shell = Shell(run, away)
        scene(shell)
        shell.type(b"exit 0\n")
        shell.ends(0)


if __name__ == "__main__":
    main()
