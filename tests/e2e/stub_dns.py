"""A name server of our own: answers from a table that a test may change at any time, and counts what it is asked.

    dns.names["example.org"] = ["192.31.196.7", "2620:4f:8000::7"]      A and AAAA records
    dns.names["rebind.test"] = [["192.31.196.7"], ["127.0.0.1"]]         the answers in turn; the last one stays
    dns.queries                                                           (name, "A" | "AAAA" | number) as they came

Every answer has a TTL of 0. A name that the table lacks does not exist (NXDOMAIN). UDP only.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading

_TYPES = {1: "A", 28: "AAAA"}
Addresses = list[str]


class StubDNS:
    """Serves `sock`, which is its own from now on, on a thread, until `close`."""

    def __init__(self, sock: socket.socket) -> None:
        self.names: dict[str, Addresses | list[Addresses]] = {}
        self.queries: list[tuple[str, str]] = []
        self._turns: dict[tuple[str, str], int] = {}
        self._sock = sock
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def asked(self, name: str) -> int:
        """How often somebody asked for `name`, or for a name below it."""
        return sum(each == name or each.endswith(f".{name}") for each, _ in self.queries)

    def close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # ENOTCONN, as it never was; the thread is woken all the same
            pass
        self._thread.join(5)
        self._sock.close()

    def _serve(self) -> None:
        while True:
            packet, peer = self._sock.recvfrom(4096)
            if peer is None:  # shut down
                return
            self._sock.sendto(self._answer(packet), peer)

    def _answer(self, packet: bytes) -> bytes:
        labels, at = [], 12
        while size := packet[at]:
            labels.append(packet[at + 1 : at + 1 + size].decode("latin-1").lower())
            at += 1 + size
        question = packet[12 : at + 5]
        name = ".".join(labels)
        kind = _TYPES.get(struct.unpack("!H", packet[at + 1 : at + 3])[0], "other")
        self.queries.append((name, kind))
        records = [
            struct.pack("!HHHIH", 0xC00C, 1 if kind == "A" else 28, 1, 0, len(address.packed)) + address.packed
            for address in map(ipaddress.ip_address, self._addresses(name, kind))
            if kind == ("A" if address.version == 4 else "AAAA")
        ]
        # RFC 1035 section 4.1.1: an answer, authoritative, recursion desired and available; 3: no such name
        flags = 0x8580 | (0 if name in self.names else 3)
        return packet[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)

    def _addresses(self, name: str, kind: str) -> Addresses:
        known = self.names.get(name, [])
        if not known or isinstance(known[0], str):
            return known  # type: ignore[return-value]
        turn = self._turns.get((name, kind), 0)
        self._turns[name, kind] = turn + 1
        return known[min(turn, len(known) - 1)]  # type: ignore[return-value]
