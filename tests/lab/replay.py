"""What somebody on the network without the key can do with what they hear.

usage: replay.py record FILE ADDRESS    write down the reports of the node ADDRESS
       replay.py replay FILE SECONDS    say them again, over and over
       replay.py relay FILE ADDRESS     answer on TCP port 2901 for ADDRESS, and write down what the callers say
       replay.py connect FILE ADDRESS   call ADDRESS and say what one of them said
"""

import socket
import struct
import sys
import threading
import time

PORT, GROUP, MIGRATION = 5428, "224.0.0.181", 2901


def group_socket():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((GROUP, PORT))
    membership = struct.pack("=4s4si", socket.inet_aton(GROUP), bytes(4), socket.if_nametoindex("eth0"))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    return sock


def record(path, address):
    sock = group_socket()
    with open(path, "wb", buffering=0) as file:
        while True:
            data, (sender, _) = sock.recvfrom(2000)
            if sender == address:
                file.write(struct.pack("<H", len(data)) + data)


def replay(path, seconds):
    with open(path, "rb") as file:
        recorded = file.read()
    datagrams = []
    while recorded:
        (length,) = struct.unpack_from("<H", recorded)
        datagrams.append(recorded[2 : 2 + length])
        recorded = recorded[2 + length :]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    interface = struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex("eth0"))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for data in datagrams:
            sock.sendto(data, (GROUP, PORT))
        time.sleep(0.01)


def copy(source, sink, file=None):
    try:
        while data := source.recv(65536):
            if file:
                file.write(data)
            sink.sendall(data)
    except OSError:
        pass
    for sock in (source, sink):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def relay(path, address):
    server = socket.create_server(("", MIGRATION))
    with open(path, "wb", buffering=0) as file:
        while True:
            caller, _ = server.accept()
            called = socket.create_connection((address, MIGRATION))
            threading.Thread(target=copy, args=(called, caller)).start()
            copy(caller, called, file)


def connect(path, address):
    with open(path, "rb") as file:
        recorded = file.read()
    with socket.create_connection((address, MIGRATION), 10) as connection:
        connection.sendall(recorded)
        connection.settimeout(20)
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
    # The challenge that everybody gets, and nothing more.
    assert len(answer) <= 24, answer


{"record": record, "replay": replay, "relay": relay, "connect": connect}[sys.argv[1]](*sys.argv[2:])
