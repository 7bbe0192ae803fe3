"""Starts a job as om run does, but with a working directory as it likes, even one that is no path.

usage: start.py DIRECTORY NODE|'' COMMAND…: on the node with this address, or here. What om-migd says beside that the job has
started and ended goes to stderr.
"""

import os
import socket
import struct
import sys

VERSION = 3
STARTED, EXITED = 0, 2


def number(value):
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + number(value >> 7)


def text(value):
    return number(len(value)) + value


def texts(values):
    return number(len(values)) + b"".join(map(text, values))


def take(connection, size):
    taken = b""
    while len(taken) < size:
        more = connection.recv(size - len(taken))
        if not more:
            sys.exit()
        taken += more
    return taken


directory, node, *command = map(os.fsencode, sys.argv[1:])
everywhere, unlocked, any_cpu = number(0) + number(0) + b"\0", b"\0", b"\0"
start = number(VERSION) + texts(command) + texts([b"PATH=/usr/bin:/bin"]) + text(directory) + number(0) + unlocked + everywhere
start += (b"\1\0" + socket.inet_aton(node.decode()) if node else b"\0") + any_cpu
connection = socket.socket(socket.AF_UNIX)
connection.connect("/run/om/migd.sock")
socket.send_fds(connection, [struct.pack("<I", len(start)) + start], [0, 1, 2])
while True:
    reply = take(connection, *struct.unpack("<I", take(connection, 4)))
    if reply[0] not in (STARTED, EXITED):
        print(reply, file=sys.stderr)
