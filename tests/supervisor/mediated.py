"""A forked child behind the real filter, and a mediator in the test process that answers its calls."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nono.errors import KernelError
from nono.kernel import landlock, notify, process
from nono.policy.capabilities import NETWORK_OPEN, NETWORK_PROXY
from nono.sandbox import bpf
from nono.sandbox.recorded import RECORDED
from nono.supervisor.denials import Denial
from nono.supervisor.mediator import HOST_PORTS, OPEN_NETWORK, OWN_NETWORK, Mediator, Rules
from nono.supervisor.recorder import Recorder

TIMEOUT_S = 30
LOOPBACK = "127.0.0.1"
OWN = 0x10000000 | 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
LIBC = ctypes.CDLL(None, use_errno=True)


def need_notifications() -> None:
    try:
        notify.check()
    except KernelError as error:
        pytest.skip(str(error))


def answer_of(action: Callable[[], object]) -> int:
    """0, or the errno with which it failed."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


def unshare(flags: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if LIBC.unshare(flags) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if flags & CLONE_NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if flags & CLONE_NEWNET:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
    if flags & CLONE_NEWNS:
        mount("none", "/", MS_REC | MS_PRIVATE)


def mount(source: str, target: str, flags: int, kind: str = "", data: str = "") -> None:
    if LIBC.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None) < 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def confine_files(writable: str, with_sockets: bool) -> None:
    """Landlock as the plan has it: everything can be read, one tree written."""
    everything = landlock.fs_mask(landlock.abi())
    ruleset_fd = landlock.create_ruleset(everything)
    reading = landlock.FS_EXECUTE | landlock.FS_READ_FILE | landlock.FS_READ_DIR
    for path, access in (("/", reading), ("/dev", everything), (writable, everything)):
        path_fd = os.open(path, os.O_PATH)
        if path == writable and not with_sockets:
            access &= ~landlock.FS_MAKE_SOCK
        landlock.add_path(ruleset_fd, path_fd, access)
        os.close(path_fd)
    landlock.restrict_self(ruleset_fd)
    os.close(ruleset_fd)


class Confined:
    """A child that waits for `result()` to let it begin. refused: what the mediator reported."""

    def __init__(self, pid: int, control: socket.socket, mediator: Mediator, refused: list[str]) -> None:
        self.pid = pid
        self.mediator = mediator
        self.refused = refused
        self._control = control
        self._begun = False

    def begin(self) -> None:
        self._control.send(b"go")
        self._begun = True

    def result(self) -> Any:
        if not self._begun:
            self.begin()
        ready = select.select([self._control], [], [], TIMEOUT_S)[0]
        assert ready, "the child gave no answer"
        data = self._control.recv(1 << 20)
        assert data, "the child ended without an answer"
        failed, value = json.loads(data)
        assert not failed, value
        return value


@contextmanager
def confined(
    work: Callable[[], Any],
    rules: Rules,
    *,
    namespaces: int = 0,
    prepare: Callable[[], None] = lambda: None,
    writable: str = "",
    recorder: Recorder | None = None,
) -> Iterator[Confined]:
    """Run `work`, whose result JSON can carry, behind the filter that belongs to `rules`.

    namespaces: CLONE_NEW* bits of the child's own. prepare: called in the child before the filter. writable: a tree,
    the only one, by Landlock. recorder: of the paths that it names.
    """
    need_notifications()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            _child(work, rules, namespaces, prepare, writable, theirs, recorder is not None)
        finally:
            os._exit(0)
    theirs.close()
    refused: list[str] = []

    def told(denial: Denial) -> None:
        refused.append(denial.detail)

    try:
        message, fds, *_ = socket.recv_fds(ours, 1 << 16, 1)
        if not fds:
            error, text = json.loads(message)
            pytest.skip(f"this kernel or container does not give the test what it needs: {text}") if error else None
        mediator = Mediator(fds[0], rules, told, recorder)
        try:
            yield Confined(pid, ours, mediator, refused)
        finally:
            os.kill(pid, signal.SIGKILL)
            mediator.close()
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _child(
    work: Callable[[], Any],
    rules: Rules,
    namespaces: int,
    prepare: Callable[[], None],
    writable: str,
    control: socket.socket,
    is_recorded: bool,
) -> None:
    try:
        if namespaces:
            unshare(namespaces)
        prepare()
        process.set_no_new_privs()
        if writable:
            confine_files(writable, bool(rules.own_trees))
        program = bpf.build(
            arch=os.uname().machine,
            network=NETWORK_OPEN if rules.network == OPEN_NETWORK else NETWORK_PROXY,
            allow_ipc=rules.network == OWN_NETWORK,
            notify=rules.network == HOST_PORTS,
            unix_sockets=bool(rules.unix_sockets),
            own_sockets=bool(rules.own_trees),
            recorded=bpf.Recorded(RECORDED, 0) if is_recorded else None,
        )
        fd = notify.set_filter(program)
    except OSError as error:
        control.send(json.dumps((error.errno, str(error))).encode())
        return
    socket.send_fds(control, [b"filter"], [fd])
    os.close(fd)
    control.recv(16)
    try:
        answer = json.dumps((False, work()))
    except BaseException:  # noqa: BLE001  (the test wants to see it)
        answer = json.dumps((True, traceback.format_exc()))
    control.send(answer.encode())


def run(work: Callable[[], Any], rules: Rules, **how: Any) -> Any:
    """`confined`, to the end."""
    with confined(work, rules, **how) as child:
        return child.result()


class Server:
    """A listener that accepts and closes, and counts who came."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._accepted = self._own = 0
        sock.listen(4096)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.sock.accept()
                self._accepted += 1
                connection.close()

    def visitors(self) -> int:
        """Come by, too; who was here before has been accepted by then."""
        with socket.socket(self.sock.family) as sock:
            sock.connect(self.sock.getsockname())
            sock.recv(1)
        self._own += 1
        return self._accepted - self._own

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self.sock.close()
        self._thread.join(5)


def connect(address: Any, family: int = socket.AF_INET) -> int:
    with socket.socket(family) as sock:
        return answer_of(lambda: sock.connect(address))


def to_ports(*ports: int, **rules: Any) -> Rules:
    return Rules(HOST_PORTS, {port: port for port in ports}, **rules)
