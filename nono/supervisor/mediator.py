"""The mediator: performs the connects (and binds, and listens) that the filter makes wait, and refuses the others.

Theory of operation. The filter (sandbox/bpf.py) suspends the child's thread; a thread here receives the call, copies
the address, duplicates the socket, judges the copy and performs the call on the duplicate. Nothing that the child can
still change is ever judged or passed on to the kernel, so there is no race to win: swapping the descriptor or rewriting
the address changes nothing any more. The duplicate shares the child's open file, so a blocking connect blocks (a thread
here), a non-blocking one is in progress, and the child's epoll sees it end.

What is answered, by `Rules.network`:

    OWN_NETWORK   INET connects as they were asked for, and abstract AF_UNIX names: the socket belongs to the child's
                  network namespace for ever, whoever performs the call
    OPEN_NETWORK  INET as asked for; abstract names are the host's: connect and listen are refused (EPERM)
    HOST_PORTS    there is no network namespace. INET connects to 127.0.0.1 and the ports of a table; all else is
                  ECONNREFUSED at once and no packet leaves. bind and listen: 127.0.0.1 and `listen_ports`; else EACCES

AF_UNIX connects by path, in all of them: the path is looked up as the child sees it (below its own root directory,
which no link of its own leads out of), and what was found is held open, judged, and connected to as /proc/self/fd/N.
It is one of `unix_sockets` when it is the same inode as what now stands at that path for us (without following a link,
because the child may have put one there). It is inside `own_trees` when its real path is, and that path, walked again
from the child's root without following a link, leads to the same inode: another mount of the same directory does not
count, nor does what a mask covers. How could the child bring a foreign socket there? By link(2) and rename(2), for
which Landlock asks MAKE_SOCK and REFER on both sides.

bind(2) of an AF_UNIX path, where no network namespace stands behind the filter, is the one call that goes on in the
child (CONTINUE), because only there Landlock judges the path (MAKE_SOCK). The child may then swap the socket or the
address; what it can bind so, a foreign TCP port or an abstract name, stays mute: listen(2) is performed here, on what
getsockname says, and a connect from a socket that is bound to anything but 127.0.0.1 is refused. (Where Landlock knows
TCP ports, handling BIND_TCP and CONNECT_TCP without a rule takes even that: what is performed here is outside of it.)

HOST_PORTS and the proxy. Every process of the machine can connect to the proxy's port there. So each connect that is
made here is made from a port that is bound first and noted, and the listener asks `admits` for each peer.

Threads. Two wait for calls at the start. When none has waited for two milliseconds, because all connect, another is
started, up to MAX_THREADS: a connect to a full backlog delays nobody else. AF_UNIX connects, of which a stuck server
could hold any number, leave some threads free. Then threads whose child was killed meanwhile are interrupted, too.
The work of a flood is the flood's own size: nothing is queued here, and what is reported is bounded.

Limits, known: a server sees the supervisor's process id as its peer's (SO_PEERCRED), with the same user and group.
Where the child made itself undumpable and no user namespace gives rights over it, its sockets cannot be duplicated:
EACCES.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import struct
import threading
from collections.abc import Callable, Mapping
from errno import EACCES, EAFNOSUPPORT, EAGAIN, ECONNREFUSED, EINVAL, EMFILE, ENFILE, ENOENT, EPERM, ESRCH

from nono.kernel import notify
from nono.policy.verdict import shell_quoted
from nono.record import Record
from nono.supervisor.denials import MEDIATOR, OUTSIDE_THE_WALL, SOCKET, Denial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.supervisor.recorder import Recorder

MAX_THREADS = 32
_MAX_UNIX_CONNECTS = 24  # at once
MAX_REPORTS = 64
_MAX_HANDED_UP = 4096  # refused connects that are looked at for a report; then C answers them by itself
_FIRST_THREADS = 2
_CROWD_S = 0.002
_SWEEP_S = 0.5
_JOIN_S = 0.005
_CLOSE_S = 5.0  # for a thread that hangs in a dead network file system

OWN_NETWORK = "own network"
OPEN_NETWORK = "open network"
HOST_PORTS = "host ports"

_SIOCGSKNS = 0x894C  # linux/sockios.h: the network namespace of a socket
_LOOPBACK = "127.0.0.1"
_INET = (socket.AF_INET, socket.AF_INET6)
_UNIX_STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
_MAX_UNIX_ADDRESS = 110  # sizeof(struct sockaddr_un)


class Rules(Record):
    """What may be connected to. Paths are real and absolute; own_trees as the child sees them.

    network: OWN_NETWORK, OPEN_NETWORK or HOST_PORTS; the next three are for HOST_PORTS only.
    ports: port asked for → port connected to, both on 127.0.0.1. proxy_port: one of the latter, kept account of.
    listen_ports: on 127.0.0.1. unix_sockets: sockets that may be connected to.
    own_trees: directories inside which sockets may be made (Landlock's MAKE_SOCK is granted there, and nowhere else)
    and connected to. denied: sockets, or directories of sockets, to which that does not apply (the masks of the mount
    namespace hide those that were there at the start; this holds for those that come later).
    """

    network: str
    ports: Mapping[int, int] = {}
    proxy_port: int = 0
    listen_ports: tuple[int, ...] = ()
    unix_sockets: tuple[str, ...] = ()
    own_trees: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


class Mediator:
    """Serves a notification fd, which it owns, until `close`."""

    def __init__(
        self, notify_fd: int, rules: Rules, refused: Callable[[Denial], None], recorder: Recorder | None = None
    ) -> None:
        """refused: called once for each thing that was refused, MAX_REPORTS of them, in a thread of the mediator.

        recorder: of the paths of all other calls, which are not judged (`nono learn`).
        """
        self._rules = rules
        self._refused = refused
        self._reported: set[str] = set()
        self._line = notify.Line(
            notify_fd,
            as_it_is=rules.network != HOST_PORTS,
            ports=rules.ports,
            guarded_port=rules.proxy_port,
            reports=_MAX_HANDED_UP,
            recording=recorder.recording if recorder is not None else None,
        )
        self._recorder = recorder
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, notify.Call] = {}
        self._prepared: set[threading.Thread] = set()  # before that, the signal that interrupts would end the process
        self._unix_connects = threading.BoundedSemaphore(_MAX_UNIX_CONNECTS)
        self._closing = threading.Event()
        self._tender = threading.Thread(target=self._tend, name="mediator's tender", daemon=True)
        for _ in range(_FIRST_THREADS):
            self._start_thread()
        self._tender.start()

    @property
    def threads(self) -> int:
        """How many threads serve."""
        return len(self._threads)

    def admits(self, port: int) -> bool:
        """Whether the connection that came from 127.0.0.1:port to the proxy was made here; True once for each.

        Always where the child has a network of its own: nobody else can reach what listens there.
        """
        return self._rules.network == OWN_NETWORK or self._line.admits(port)

    def close(self) -> None:
        """End everything, calls under way too. Calls that come later fail with ENOSYS."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            self._line.stop()
            threads = list(self._threads)
        attempts = int(_CLOSE_S / _JOIN_S)
        while attempts and any(thread.is_alive() for thread in threads):
            attempts -= 1
            for thread in threads:
                if thread.is_alive() and thread.native_id is not None:
                    if thread in self._prepared:
                        notify.interrupt(thread.native_id)
                    thread.join(_JOIN_S)
        self._tender.join()
        self._line.close()

    # Threads.

    def _start_thread(self) -> None:
        with self._lock:
            if self._closing.is_set() or len(self._threads) >= MAX_THREADS:
                return
            call = notify.Call()
            thread = threading.Thread(target=self._serve, args=(call,), name="mediator", daemon=True)
            self._threads[thread] = call
            try:
                thread.start()
            except RuntimeError:  # the limit of processes is reached: those that are there go on
                del self._threads[thread]
                if not self._threads:
                    raise

    def _serve(self, call: notify.Call) -> None:
        notify.prepare_thread()
        self._prepared.add(threading.current_thread())
        try:
            while self._line.serve(call) == notify.JUDGE:
                self._answer(call)
        except OSError as failure:  # no call can be received: they wait until `close`
            self._tell("", "", f"connections from now on, because the kernel hands none over any more ({failure})")

    def _tend(self) -> None:
        """Keep a thread waiting for calls while others connect. Never in the way of a call: it takes no part in one."""
        is_crowded = False
        while not self._closing.is_set():
            if select.select([self._line.crowded_fd], [], [], _SWEEP_S if is_crowded else None)[0]:
                self._closing.wait(_CROWD_S)  # most crowds are gone by then
                is_crowded = self._line.still_crowded()
            if is_crowded:
                self._sweep()
                self._start_thread()

    def _sweep(self) -> None:
        """Interrupt the threads that connect for who is no more. One that has gone on meanwhile connects again."""
        with self._lock:
            for thread, call in self._threads.items():
                if call.raw.fd >= 0 and not self._line.still_waits(call) and thread.native_id is not None:
                    notify.interrupt(thread.native_id)

    # Judging, in any of the threads.

    def _answer(self, call: notify.Call) -> None:
        error, flags = EACCES, 0
        try:
            if call.raw.kind == notify.OTHER and self._recorder is not None:
                error, flags = 0, notify.CONTINUE  # also when the recorder fails: it is no judge
                self._recorder.add(self._line.raw.notify_fd, call)
            else:
                error, flags = self._judge(call)
        except OSError as failure:
            error, flags = failure.errno or EACCES, 0
        except Exception as failure:  # noqa: BLE001  (a mistake of ours must not take the thread away: the child waits)
            self._tell("", "", f"a call, by a mistake in nono ({type(failure).__name__})")
        self._line.answer(call, error, flags)

    def _judge(self, call: notify.Call) -> tuple[int, int]:
        """Perform the call where it may be; return an errno (0: done) and the flags of the answer."""
        raw = call.raw
        if raw.fd < 0:
            return self._out_of_reach(raw.error), 0
        if raw.domain == socket.AF_UNIX and raw.type in _UNIX_STREAMS:
            if raw.kind == notify.CONNECT:
                return self._connect_unix(call), 0
            return self._bind_unix(call) if raw.kind == notify.BIND else (self._listen_unix(call), 0)
        if raw.domain == socket.AF_NETLINK:
            return self._netlink(call), 0
        if raw.domain in _INET:
            if raw.kind == notify.CONNECT:  # refused already, and handed up to be told
                host = _host(call.address)
                self._tell("connect", host, f"a connection to {host}, where nothing was granted")
                return int(raw.error), 0
            if self._rules.network == OPEN_NETWORK and raw.kind == notify.LISTEN:
                return notify.listen(call), 0
            if self._rules.network == HOST_PORTS and (raw.type, raw.protocol) == (
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
            ):
                return (self._bind_inet(call) if raw.kind == notify.BIND else self._listen_inet(call)), 0
        return EPERM, 0

    def _out_of_reach(self, error: int) -> int:
        if error in (EMFILE, ENFILE):
            self._tell("", "", "connections, because nono itself has no file descriptor left")
            return int(error)
        if error != ESRCH:
            self._tell(
                "",
                "",
                "connections of a program that made itself undumpable (or that a security module hides from nono): "
                "its sockets cannot be judged",
            )
        return EACCES

    def _bind_inet(self, call: notify.Call) -> int:
        address = _parse(call.address)
        if address is None or address[0] != call.raw.domain:
            return EINVAL if address is None else EAFNOSUPPORT
        _, host, port = address
        if host in (_LOOPBACK, "0.0.0.0", "::") and port in self._rules.listen_ports:
            return notify.bind(call, _loopback(call.raw.domain, port))
        self._tell("listen", _host(call.address), f"listening on {_host(call.address)}", f"--listen-port {port}")
        return EACCES

    def _listen_inet(self, call: notify.Call) -> int:
        """A socket is bound once and for ever, so what it is bound to now it will be bound to in listen(2)."""
        address = _parse(notify.getsockname(call))
        if address is not None and address[1] == _LOOPBACK and address[2] in self._rules.listen_ports:
            return notify.listen(call)
        return EACCES

    def _netlink(self, call: notify.Call) -> int:
        """NETLINK_ROUTE, to list interfaces. We may have rights that the child has not: no groups, no other peers."""
        address = call.address
        if len(address) < 12:  # sizeof(struct sockaddr_nl)
            return EINVAL
        port, groups = struct.unpack_from("=II", address, 4)
        if call.raw.kind == notify.BIND and not groups:
            return notify.bind(call, address)
        if call.raw.kind == notify.CONNECT and not groups and not port:
            return self._line.connect(call, address)
        return EPERM

    # AF_UNIX.

    def _bind_unix(self, call: notify.Call) -> tuple[int, int]:
        """Without a network namespace. The reason why the call may go on in the child stands at the top."""
        address = call.address
        if self._rules.own_trees and len(address) > 2 and address[:2] == _family(socket.AF_UNIX) and address[2]:
            return 0, notify.CONTINUE
        kind, name = ("an abstract socket", address[3:]) if address[2:3] == b"\0" else ("a socket", address[2:])
        self._tell("bind", _printable(name), f"{kind} named {_printable(name)}", "--allow-unix-socket own")
        return EACCES, 0

    def _listen_unix(self, call: notify.Call) -> int:
        """A socket with a path was bound by the child itself, under Landlock, so inside of own_trees."""
        name = notify.getsockname(call)
        if self._rules.own_trees and len(name) > 2 and name[:2] == _family(socket.AF_UNIX) and name[2]:
            return notify.listen(call)
        return EACCES if len(name) > 2 and name[2] else EPERM

    def _connect_unix(self, call: notify.Call) -> int:
        address = call.address
        if not 2 < len(address) <= _MAX_UNIX_ADDRESS or address[:2] != _family(socket.AF_UNIX):
            return EINVAL
        if not self._unix_connects.acquire(blocking=False):
            self._sweep()
            if not self._unix_connects.acquire(timeout=_SWEEP_S):
                return EAGAIN  # what the kernel says of a full backlog
        try:
            if address[2] == 0:
                return self._connect_abstract(call, address)
            return self._connect_path(call, address[2:].partition(b"\0")[0])
        finally:
            self._unix_connects.release()

    def _connect_abstract(self, call: notify.Call, address: bytes) -> int:
        if self._rules.network == OWN_NETWORK and _in_its_own_network(call) and self._line.still_waits(call):
            return self._line.connect(call, address)
        name = _printable(address[3:])
        self._tell("connect", f"@{name}", f"a connection to the abstract socket {name}")
        return EPERM

    def _connect_path(self, call: notify.Call, path: bytes) -> int:
        process = f"/proc/{call.raw.tid}"
        root_fd = os.open(f"{process}/root", os.O_PATH | os.O_DIRECTORY)
        target_fd = -1
        try:
            absolute = path if path.startswith(b"/") else os.readlink(f"{process}/cwd".encode()) + b"/" + path
            if not self._line.still_waits(call):
                return EACCES
            if not absolute.startswith(b"/"):
                return ENOENT
            target_fd = notify.open_path(
                absolute, root_fd=root_fd, resolve=notify.RESOLVE_IN_ROOT | notify.RESOLVE_NO_MAGICLINKS
            )
            if not stat.S_ISSOCK(os.fstat(target_fd).st_mode):
                return ECONNREFUSED
            if not (self._is_granted(target_fd) or self._is_own(target_fd, root_fd)):
                name = _printable(absolute)
                self._tell("connect", name, f"a connection to {name}", _flag(absolute))
                return EACCES
            return self._line.connect(call, _family(socket.AF_UNIX) + b"/proc/self/fd/%d\0" % target_fd)
        finally:
            os.close(root_fd)
            if target_fd >= 0:
                os.close(target_fd)

    def _is_granted(self, target_fd: int) -> bool:
        resolve = notify.RESOLVE_NO_SYMLINKS | notify.RESOLVE_NO_MAGICLINKS
        return any(_leads_to(target_fd, os.fsencode(path), -1, resolve) for path in self._rules.unix_sockets)

    def _is_own(self, target_fd: int, root_fd: int) -> bool:
        real = os.readlink(b"/proc/self/fd/%d" % target_fd)
        if not _is_below(real, self._rules.own_trees) or _is_below(real + b"/", self._rules.denied):
            return False
        resolve = notify.RESOLVE_IN_ROOT | notify.RESOLVE_NO_SYMLINKS | notify.RESOLVE_NO_MAGICLINKS
        return _leads_to(target_fd, real, root_fd, resolve)

    def _tell(self, access: str, what: str, detail: str, flag: str = "") -> None:
        """Tell what was refused, if it is new."""
        with self._lock:
            self._line.raw.reports_left = max(0, self._line.raw.reports_left - 1)
            if detail in self._reported or len(self._reported) >= MAX_REPORTS:
                return
            self._reported.add(detail)
        self._refused(Denial(SOCKET, what or detail, access, OUTSIDE_THE_WALL, "", flag, 1, detail, MEDIATOR))


def _is_below(path: bytes, trees: tuple[str, ...]) -> bool:
    return any(path.startswith(os.fsencode(tree.rstrip("/")) + b"/") for tree in trees)


def _leads_to(target_fd: int, path: bytes, root_fd: int, resolve: int) -> bool:
    """Whether `path` is now the inode that is held open."""
    try:
        fd = notify.open_path(path, root_fd=root_fd, resolve=resolve)
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(fd), os.fstat(target_fd))
    finally:
        os.close(fd)


def _in_its_own_network(call: notify.Call) -> bool:
    """Whether the socket belongs to the network namespace of the child and not, by way of somebody else, to ours."""
    try:
        network_fd = fcntl.ioctl(call.raw.fd, _SIOCGSKNS)
    except OSError:
        return False
    try:
        network = os.fstat(network_fd)
    finally:
        os.close(network_fd)
    ours = os.stat("/proc/self/ns/net")
    return not os.path.samestat(network, ours) and os.path.samestat(network, os.stat(f"/proc/{call.raw.tid}/ns/net"))


def _family(family: int) -> bytes:
    return struct.pack("=H", family)


def _loopback(domain: int, port: int) -> bytes:
    """The struct sockaddr of 127.0.0.1:port, for a socket of either family."""
    if domain == socket.AF_INET:
        return struct.pack("=H2s4s8x", domain, port.to_bytes(2, "big"), bytes((127, 0, 0, 1)))
    return struct.pack("=H2s4x16s4x", domain, port.to_bytes(2, "big"), b"\0" * 10 + b"\xff\xff\x7f\0\0\1")


def _parse(address: bytes) -> tuple[int, str, int] | None:
    """Return family, host and port of a struct sockaddr of INET or INET6 (v4-mapped: the plain IPv4 address)."""
    family = int.from_bytes(address[:2], "little" if struct.pack("=H", 1)[0] else "big")
    port = int.from_bytes(address[2:4], "big")
    if family == socket.AF_INET and len(address) >= 16:
        return family, socket.inet_ntop(socket.AF_INET, address[4:8]), port
    if family == socket.AF_INET6 and len(address) >= 24:
        host = address[8:24]
        if host.startswith(b"\0" * 10 + b"\xff\xff"):
            return family, socket.inet_ntop(socket.AF_INET, host[12:]), port
        return family, socket.inet_ntop(socket.AF_INET6, host), port
    return None


def _host(address: bytes) -> str:
    parsed = _parse(address)
    if parsed is None:
        return "an address that is none"
    _, host, port = parsed
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _flag(path: bytes) -> str:
    """What would grant a connection to a socket that the child has named; "" where the name is no text."""
    text = path.partition(b"\0")[0].decode(errors="replace")
    return f"--allow-unix-socket {shell_quoted(text)}" if text.isprintable() and "\ufffd" not in text else ""


def _printable(name: bytes) -> str:
    """A name that the child chose, as it can be written to a terminal."""
    text = name.partition(b"\0")[0].decode(errors="backslashreplace")
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
