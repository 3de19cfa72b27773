"""Landlock's audit records: which paths the kernel itself says that it denied, in its own words.

Records come from a netlink multicast group that needs CAP_AUDIT_READ in the initial user namespace (root has it), from
kernels with Landlock ABI 7 (Linux 6.15), and only where the machine's administrator has audit switched on (`audit=1`,
auditd): it is never switched on here, because it is the whole machine's. `open_reader` says whether all of that is so.

The kernel logs by itself only what a program does before its first exec; denials of the agent need
LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON (`log_as` of spawn.py). A denial names the domain that denied it; the domain's
own record, which comes right behind its first denial, says which process made it and under which name (its comm). The
agent's first process takes a random one for that moment, so that no other sandbox of the machine is mistaken for ours,
nor one that the agent makes inside: what that denies is not nono's doing.

    audit(1729738800.268:30): domain=195ba459b blockers=fs.read_file path="/home/u/.netrc" dev="vda2" ino=351
    audit(1729738800.268:30): domain=195ba459b status=allocated mode=enforcing pid=286 uid=0 exe="/…" comm="nono-5c6e…"

A string with a space, a quote or a control character is in hexadecimal, without quotes.
Source: Documentation/admin-guide/LSM/landlock.rst; include/uapi/linux/audit.h; security/lsm_audit.c; kernel/audit.c.
"""

from __future__ import annotations

import _socket
import os
import struct
from errno import ENOBUFS

from nono.errors import KernelError

LANDLOCK_ACCESS, LANDLOCK_DOMAIN = 1423, 1424  # record types
_GET = 1000
_NETLINK_AUDIT, _SOL_NETLINK, _ADD_MEMBERSHIP, _READLOG = 9, 270, 1, 1
_REQUEST = 1  # NLM_F_REQUEST
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_RECEIVE_BYTES = 16384  # MAX_AUDIT_MESSAGE_LENGTH is 8970
_BUFFER_BYTES = 1 << 20
_ANSWER_S = 0.2
_TURN = 256  # records that are read before others get their turn

_READS = frozenset((b"fs.execute", b"fs.read_file", b"fs.read_dir"))
MAX_DENIALS, _MAX_DOMAINS = 1000, 64


class Records:
    """Makes denials of records, in the order in which they come. `denied`: (path, writes) and how often."""

    def __init__(self, comm: str) -> None:
        """comm: the name under which the agent's domain was made."""
        self.denied: dict[tuple[bytes, bool], int] = {}
        self._comm = comm.encode()
        self._own: set[bytes] = set()
        self._waiting: dict[bytes, list[tuple[bytes, bool]]] = {}  # of domains that are not known yet

    def take(self, kind: int, text: bytes) -> None:
        """Look at one record: its type and its text. Raises nothing."""
        if kind not in (LANDLOCK_ACCESS, LANDLOCK_DOMAIN):
            return
        fields = parse(text)
        domain = fields.get(b"domain", b"")
        if kind == LANDLOCK_DOMAIN:
            waiting = self._waiting.pop(domain, [])
            if fields.get(b"status") == b"allocated" and fields.get(b"comm") == self._comm:
                self._own.add(domain)
                for denied in waiting:
                    self._count(denied)
            return
        path = fields.get(b"path", b"")
        blockers = [each for each in fields.get(b"blockers", b"").split(b",") if each.startswith(b"fs.")]
        if not path.startswith(b"/") or not blockers:
            return
        denied = (path, not _READS.issuperset(blockers))
        if domain in self._own:
            self._count(denied)
        elif len(self._waiting) < _MAX_DOMAINS or domain in self._waiting:
            kept = self._waiting.setdefault(domain, [])
            if len(kept) < _MAX_DOMAINS:
                kept.append(denied)

    def _count(self, denied: tuple[bytes, bool]) -> None:
        if denied in self.denied or len(self.denied) < MAX_DENIALS:
            self.denied[denied] = self.denied.get(denied, 0) + 1


class Reader:
    """An open subscription to the machine's audit records; `fd` is readable when there are any."""

    def __init__(self, comm: str) -> None:
        """comm: see Records. Raises KernelError where this process may not listen, or the kernel has no audit."""
        self.comm = comm
        self.records = Records(comm)
        self.lost = False  # records came faster than they were read
        self._socket = _open()
        try:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _READLOG)
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _BUFFER_BYTES)
        except OSError as error:
            self._socket.close()
            raise KernelError("setsockopt", error.errno or 0) from None
        self._socket.setblocking(False)

    @property
    def fd(self) -> int:
        """What to wait on."""
        return self._socket.fileno()

    def read(self, ready: int = 0) -> None:
        """Take what has come; does not wait."""
        for _ in range(_TURN):
            try:
                message = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != ENOBUFS:
                    return
                self.lost = True
                continue
            # One record a message; its header's length is the payload's alone in some kernels.
            if len(message) > _HEADER.size:
                self.records.take(_HEADER.unpack_from(message)[1], message[_HEADER.size :])

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def open_reader(comm: str) -> Reader | None:
    """Return a subscription, None where the kernel tells us nothing: it may not, or audit is off."""
    try:
        return Reader(comm) if is_enabled() else None
    except KernelError:
        return None


def is_enabled() -> bool:
    """Whether audit is switched on. Raises KernelError where that is not for us to know."""
    sock = _open()
    try:
        sock.settimeout(_ANSWER_S)
        sock.sendto(_HEADER.pack(_HEADER.size, _GET, _REQUEST, 1, 0), (0, 0))
        while True:
            answer = sock.recv(_RECEIVE_BYTES)
            kind = _HEADER.unpack_from(answer)[1]
            if kind == _GET:
                return bool(struct.unpack_from("=II", answer, _HEADER.size)[1])  # struct audit_status: mask, enabled
            if kind == 2:  # NLMSG_ERROR
                error = -struct.unpack_from("=i", answer, _HEADER.size)[0]
                raise KernelError("netlink", error)
    except TimeoutError:
        return False
    except OSError as error:
        raise KernelError("netlink", error.errno or 0) from None
    finally:
        sock.close()


def new_comm() -> str:
    """Return a name for the agent's domain that nobody can guess; at most 15 bytes (TASK_COMM_LEN)."""
    return "nono-" + os.urandom(5).hex()


def parse(text: bytes) -> dict[bytes, bytes]:
    """Return the fields of a record's text. A path with what may not stand in a record as it is, is decoded."""
    _, _, rest = text.rstrip(b"\0\n").partition(b"): ")
    fields: dict[bytes, bytes] = {}
    while rest:
        name, equals, rest = rest.lstrip(b" ").partition(b"=")
        if not equals:
            break
        if rest.startswith(b'"'):
            value, _, rest = rest[1:].partition(b'"')
        else:
            value, _, rest = rest.partition(b" ")
            if name in (b"path", b"name", b"exe", b"comm", b"ocomm"):
                try:
                    value = bytes.fromhex(value.decode("ascii"))
                except ValueError:
                    pass  # (null), <no_memory>
        fields.setdefault(name, value)
    return fields


def _open() -> _socket.socket:
    try:
        sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_AUDIT)
        sock.bind((0, 0))
    except OSError as error:
        raise KernelError("socket", error.errno or 0) from None
    return sock
