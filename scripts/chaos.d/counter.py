"""A job of the chaos run: takes a number from stdin, lets a child process carry the checksum on, and tells both on
stdout and in a file, step by step. It also has memory that must stay what it was.

usage: counter.py DIRECTORY STEPS MEGABYTES PAUSE

Line n of stdin is the number n. Line n of stdout and of the file `steps` is "n CHECKSUM", where CHECKSUM goes on from
that of the line before. Both are written byte by byte as they come: a step that is done twice is there twice.
Exit status 0, or 3 with a line on stderr if anything is not as it was left.
"""

import hashlib
import os
import sys
import time
import zlib

PAGE = 4096


def page(number):
    """What page `number` of the memory contains."""
    return hashlib.sha256(b"page %d" % number).digest() * (PAGE // 32)


def step(checksum, number):
    return zlib.crc32(b"%d" % number, checksum)


def carry_on(numbers, checksums):
    """The child: answers each number with the checksum."""
    checksum = 0
    for line in numbers:
        checksum = step(checksum, int(line))
        checksums.write("%08x\n" % checksum)
        checksums.flush()


def wrong(what):
    sys.stderr.write("corrupt: %s\n" % what)
    sys.stderr.flush()
    os._exit(3)


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


def main():
    directory, steps, megabytes, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()
    if os.fork() == 0:
        os.close(from_parent)
        os.close(to_parent)
        carry_on(os.fdopen(to_child), os.fdopen(from_child, "w"))
        os._exit(0)
    os.close(to_child)
    os.close(from_child)
    ask, answer = os.fdopen(from_parent, "w"), os.fdopen(to_parent)

    pages = megabytes * (1 << 20) // PAGE
    memory = bytearray(b"".join(page(number) for number in range(pages)))
    log = os.open(os.path.join(directory, "steps"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    checksum = 0
    for number in range(steps):
        line = sys.stdin.readline()
        if line != "%d\n" % number:
            wrong("stdin has %r instead of %d" % (line, number))
        ask.write(line)
        ask.flush()
        checksum = step(checksum, number)
        if answer.readline() != "%08x\n" % checksum:
            wrong("the child's checksum of %d" % number)
        at = number * 7 % pages
        if memory[at * PAGE:(at + 1) * PAGE] != page(at):
            wrong("memory page %d" % at)
        text = b"%d %08x\n" % (number, checksum)
        write_all(log, text)
        write_all(1, text)
        time.sleep(pause)
    if sys.stdin.readline() != "":
        wrong("stdin does not end")
    ask.close()
    os.wait()


if __name__ == "__main__":
    main()
