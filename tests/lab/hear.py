"""Hears what omd tells on this host's eth0, by IPv4 and IPv6 multicast and by broadcast, and reads it without any of
om's own code. What this host's omd repeats on the loopback interface is heard as well.

usage: hear.py SECONDS [ask]    ask: every node is asked first to tell all it has

Prints a line for each datagram, in the order of arrival:
    MILLISECONDS WAY KIND SENDER EPOCH SEQUENCE BYTES TAGS AGE
AGE: milliseconds since the sender was started, going by its epoch and this machine's clock.
"""

import ipaddress
import socket
import struct
import sys
import time

PORT = 5428
GROUP_4, GROUP_6 = "224.0.0.181", "ff02::6f6d:1"
HEADER = struct.Struct("<4sBBHIQQ16s")
KINDS = {1: "report", 2: "ask", 3: "goodbye"}
MAC_LENGTH = 16


def listener(way):
    family = socket.AF_INET6 if way == "v6" else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    index = socket.if_nametoindex("eth0")
    if way == "broadcast":
        sock.bind(("255.255.255.255", PORT))
    elif way == "v4":
        sock.bind((GROUP_4, PORT))
        request = struct.pack("=4s4si", socket.inet_aton(GROUP_4), bytes(4), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::", PORT))
        request = socket.inet_pton(family, GROUP_6) + struct.pack("=I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    sock.setblocking(False)
    return sock


def tags(body):
    while body:
        tag, length = struct.unpack_from("<HH", body)
        yield str(tag)
        body = body[4 + length :]


def describe(data):
    magic, version, kind, _flags, _key, epoch, sequence, sender = HEADER.unpack_from(data)
    assert (magic, version) == (b"omDG", 1), data
    address = ipaddress.IPv6Address(sender)
    found = ",".join(tags(data[HEADER.size : -MAC_LENGTH])) or "-"
    age = round(time.time() * 1000 - epoch / 1000)
    return f"{KINDS[kind]} {address.ipv4_mapped or address} {epoch} {sequence} {len(data)} {found} {age}"


def main():
    listeners = {way: listener(way) for way in ("v4", "v6", "broadcast")}
    if sys.argv[2:] == ["ask"]:
        ask = HEADER.pack(b"omDG", 1, 2, 0, 0, 1, 1, bytes(16)) + bytes(MAC_LENGTH)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            interface = struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex("eth0"))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
            sock.sendto(ask, (GROUP_4, PORT))
    start = time.monotonic()
    while time.monotonic() < start + float(sys.argv[1]):
        for way, sock in listeners.items():
            try:
                data = sock.recv(2000)
            except BlockingIOError:
                continue
            print(round((time.monotonic() - start) * 1000), way, describe(data), flush=True)
        time.sleep(0.001)


main()
