"""A job of the chaos run: started, moved all the time, and judged at its end.

It begins at home or, as if a scheduler had advised it, on another host, and moves in all three ways. A lazy move leaves it
in danger until all of its memory has come: if source or target is harmed meanwhile the job is killed, and only if the
target has said that this was why does it not count as lost.
"""

import json
import os
import random
import shutil
import signal
import socket
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

from hosts import BIN, GRACE, HOMES, HOSTS, OM_FILES, USER

HERE = Path(__file__).resolve().parent
# Seconds without a step, and without a fault, after which a job counts as lost.
PATIENCE = 90
# Ways of a move, as om files name them; the first is the node's own choice.
MODES = ["", "", " stream", " lazy"]
ADDRESSES = {host: "10.77.0.%s" % host[1:] for host in HOSTS}


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
        self.id = None
        # The last move if it was lazy: source, target, when it was asked for.
        self.lazy = None
        self.birthplace = self.chance.choice([None, *(host for host in HOSTS if host != self.home)])
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
        self.advise()
        words = ["python3", self.directory + "/counter.py", self.directory, self.steps, self.megabytes, self.pause]
        self.lab.script(
            "exec", "-d", "--user", USER, self.home, "bash", "-c",
            'cd "$1" && (echo "$BASHPID" >pid.new && mv pid.new pid && exec om run --time --start-socket start.sock "${@:2}") <in >out 2>err\n'
            'echo "$?" >status.new; mv status.new status',
            "bash", self.directory, *map(str, words), path=BIN + ":/usr/local/bin:/usr/bin:/bin",
        )
        self.events.log("job %d: home %s, begins on %s, %d steps, %d MiB, %g s" % (
            self.number, self.home, self.birthplace or self.home, self.steps, self.megabytes, self.pause))
        threading.Thread(target=self.move_around, daemon=True).start()

    def advise(self):
        """Answers `om run`, once, where the job is to begin."""
        if not self.birthplace:
            return
        listener = socket.socket(socket.AF_UNIX)
        path = self.path / "start.sock"
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        listener.settimeout(60)

        def answer():
            with suppress(OSError), listener, listener.accept()[0] as asker:
                asker.recv(4096)
                asker.sendall(json.dumps({"node": ADDRESSES[self.birthplace]}).encode() + b"\n")

        self.roles = {"source": self.home, "target": self.birthplace, "home": self.home}
        self.moving.set()
        threading.Thread(target=answer, daemon=True).start()

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
        hosts = {address: host for host, address in ADDRESSES.items()}
        while not self.ended and not self.orphan_since:
            time.sleep(self.chance.uniform(0.1, 1.0))
            where = self.where()
            if where in ("", "queued", "migrating"):
                continue
            source = hosts.get(where, self.home)
            target = self.chance.choice([host for host in HOSTS if host != source])
            self.roles = {"source": source, "target": target, "home": self.home}
            mode = self.chance.choice(MODES)
            lazy, self.lazy = self.lazy, (source, target, time.monotonic()) if mode == " lazy" else self.lazy
            try:
                self.om_file("where").write_text(("home" if target == self.home else ADDRESSES[target]) + mode)
            except OSError as error:
                self.lazy = lazy
                self.events.log("job %d: %s to %s: %s" % (self.number, source, target, error.strerror))
                continue
            self.moving.set()
            self.events.log("job %d: %s to %s%s" % (self.number, source, target, mode))
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
        if status == "137" and self.memory_was_lost():
            return self.events.log("job %d: its memory was lost in a lazy move" % self.number)
        return self.events.bad("lost", "job %d: om run ended with %s: %s; %s" % (
            self.number, status, said_last, self.describe()))

    def memory_was_lost(self):
        """Whether its last move was lazy, a host of that was harmed, and the target has said what that meant."""
        if not self.lazy or not self.id:
            return False
        source, target, since = self.lazy
        said = "job %s: lost, its memory was still on %s" % (self.id, ADDRESSES[source])
        return self.lab.was_harmed({source, target}, since) and self.lab.has_said(target, said)

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
