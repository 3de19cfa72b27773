"""The first process of a World (see world.py): makes the machine there, then hands out sockets of it.

Started in a mount and a network namespace of its own, with orders as JSON in its only argument:

    mounts       {path: file or directory}: what is seen at the path from now on
    networks     addresses of the loopback interface, with prefix lengths: all that they cover is this machine's
    may_fail     those of them that a machine need not have (IPv6)

Standard input is a SOCK_SEQPACKET socket: "ready" goes out; then each message that comes in, [kind ("tcp" or "udp"),
address, port] as JSON, is answered with a socket (SCM_RIGHTS), or with a sentence. It ends, and with it the namespaces,
when the other end is closed. The standard library only.
"""

import json
import socket
import subprocess
import sys


def main():
    orders = json.loads(sys.argv[1])
    for path, source in orders["mounts"].items():
        subprocess.run(["mount", "--bind", source, path], check=True, stdin=subprocess.DEVNULL)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, stdin=subprocess.DEVNULL)
    for network in orders["networks"]:
        command = ["ip", "address", "add", network, "dev", "lo"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode and network not in orders["may_fail"]:
            sys.exit(done.stderr)
    parent = socket.socket(fileno=0)
    parent.send(b"ready")
    while order := parent.recv(1000):
        try:
            with make(*json.loads(order)) as made:
                socket.send_fds(parent, [b"made"], [made.fileno()])
        except OSError as error:
            parent.send(f"{order.decode()}: {error}".encode())


def make(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    if kind == "tcp":
        made.listen(128)
    return made


main()
