"""Calls that wait: received, answered, or left waiting for a judge; and paths below another root."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nono.errors import KernelError
from nono.kernel import notify, process
from nono.policy.capabilities import NETWORK_PROXY
from nono.sandbox import bpf
from tests.kernel.inside import in_fork
from tests.supervisor.mediated import answer_of, need_notifications


@pytest.fixture(autouse=True)
def notifications() -> None:
    need_notifications()


def program() -> bytes:
    return bpf.build(arch=os.uname().machine, network=NETWORK_PROXY, allow_ipc=False, notify=True, unix_sockets=True)


@contextmanager
def behind(*actions: str, path: str = "/nowhere") -> Iterator[tuple[int, int]]:
    """A child that does `actions` behind the filter and exits with the errno of the last: its pid, and the fd."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        process.set_no_new_privs()
        fd = notify.set_filter(program())
        socket.send_fds(theirs, [b"x"], [fd])
        os.close(fd)
        theirs.recv(1)
        last = 0
        for action in actions:
            if action == "pause":
                signal.pause()
            sock = socket.socket(socket.AF_UNIX if action == "unix" else socket.AF_INET)
            if action == "unix":
                last = answer_of(lambda sock=sock: sock.connect(path))  # type: ignore[misc]
            elif action == "inet":
                last = answer_of(lambda sock=sock: sock.connect(("127.0.0.1", 9)))  # type: ignore[misc]
            elif action == "bind":
                last = answer_of(lambda sock=sock: sock.bind(("127.0.0.1", 9)))  # type: ignore[misc]
            elif action == "listen":
                last = answer_of(lambda sock=sock: sock.listen(7))  # type: ignore[misc]
        os._exit(last)
    theirs.close()
    fds = socket.recv_fds(ours, 1, 1)[1]
    try:
        ours.send(b"x")
        yield pid, fds[0]
    finally:
        ours.close()


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def line(fd: int, **how: object) -> notify.Line:
    arguments = {"as_it_is": False, "ports": {}, "guarded_port": 0, "reports": 0} | how
    return notify.Line(fd, **arguments)  # type: ignore[arg-type]


def test_a_call_that_needs_a_judge_is_handed_up_with_copies() -> None:
    with behind("unix", path="/run/some socket") as (pid, fd):
        served, call = line(fd), notify.Call()
        assert served.serve(call) == notify.JUDGE
        assert call.raw.kind == notify.CONNECT
        assert call.address.rstrip(b"\0") == b"\1\0/run/some socket"
        assert (call.raw.domain, call.raw.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        assert call.raw.tid == pid
        assert os.path.samestat(os.stat(f"/proc/{pid}/fd/{call.raw.arguments[0]}"), os.fstat(call.raw.fd))
        assert served.still_waits(call)
        served.answer(call, errno.EXDEV)
        assert call.raw.fd == -1
        assert not served.still_waits(call)
        assert status_of(pid) == errno.EXDEV
        served.close()


def test_bind_and_listen_are_performed_on_the_duplicate() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with behind("bind", "listen") as (pid, fd):
        served, call = line(fd), notify.Call()
        assert served.serve(call) == notify.JUDGE
        assert call.raw.kind == notify.BIND
        assert notify.bind(call, b"\2\0" + port.to_bytes(2, "big") + b"\x7f\0\0\1" + bytes(8)) == 0
        assert int.from_bytes(notify.getsockname(call)[2:4], "big") == port
        served.answer(call, 0)
        assert served.serve(call) == notify.JUDGE
        assert (call.raw.kind, call.address) == (notify.LISTEN, b"")
        assert notify.listen(call) == 0
        served.answer(call, 0)
        assert status_of(pid) == 0
        served.close()


def test_a_refused_connect_is_handed_up_while_somebody_wants_to_hear_of_it() -> None:
    with behind("inet", "inet") as (pid, fd):
        served, call = line(fd, reports=1), notify.Call()
        assert served.serve(call) == notify.JUDGE
        assert call.raw.error == errno.ECONNREFUSED
        served.raw.reports_left = 0
        served.answer(call, call.raw.error)
        stopper = threading.Thread(target=lambda: (status_of(pid), served.stop()))
        stopper.start()
        assert served.serve(call) == notify.ENDED
        stopper.join()
        served.close()


def test_serving_ends_with_the_last_process() -> None:
    """Before Linux 6.11 a thread that waits does not hear of it; see Mediator.close."""
    with behind("inet") as (pid, fd):
        served, call = line(fd), notify.Call()
        ended: list[int] = []

        def serve() -> None:
            notify.prepare_thread()
            ended.append(served.serve(call))

        thread = threading.Thread(target=serve)
        thread.start()
        assert status_of(pid) == errno.ECONNREFUSED
        assert select.select([served.crowded_fd], [], [], 0)[0]  # nobody else waited
        served.stop()
        thread.join(0.5)
        while thread.is_alive():  # an older kernel
            assert thread.native_id is not None
            notify.interrupt(thread.native_id)
            thread.join(0.1)
        assert ended == [notify.ENDED]
        served.close()


def test_a_waiting_thread_is_interrupted() -> None:
    with behind("pause") as (pid, fd):
        served = line(fd)
        ended: list[int] = []

        def serve() -> None:
            notify.prepare_thread()
            ended.append(served.serve(notify.Call()))

        thread = threading.Thread(target=serve)
        thread.start()
        while served.raw.waiting == 0:
            time.sleep(0.001)
        thread.join(0.05)
        served.stop()
        while thread.is_alive():
            assert thread.native_id is not None
            notify.interrupt(thread.native_id)
            thread.join(0.01)
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
        served.close()


def test_a_closed_line_fails_calls() -> None:
    with behind("inet") as (pid, fd):
        line(fd).close()
        assert status_of(pid) == errno.ENOSYS


def test_something_that_is_no_line() -> None:
    served = line(os.open(os.devnull, os.O_RDONLY))
    with pytest.raises(KernelError, match="NOTIF_RECV"):
        served.serve(notify.Call())
    served.close()


def test_one_filter_with_a_listener_is_all_there_can_be() -> None:
    def work() -> None:
        process.set_no_new_privs()
        first = notify.set_filter(program())
        for _ in range(2):
            with pytest.raises(KernelError) as caught:
                notify.set_filter(program())
            assert caught.value.errno == errno.EBUSY
            os.dup2(0, first)  # now the kernel would take a second one, and our filter does not

    assert in_fork(work) == 0


IN_ROOT = notify.RESOLVE_IN_ROOT | notify.RESOLVE_NO_MAGICLINKS


def test_paths_are_looked_up_below_another_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "file").write_text("inside")
    (root / "absolute").symlink_to("/etc/file")
    (root / "up").symlink_to("../../../../etc/file")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "magic").symlink_to(f"/proc/{os.getpid()}/root")
    (tmp_path / "outside").write_text("outside")
    inside = os.stat(root / "etc" / "file")
    root_fd = os.open(root, os.O_PATH)
    for path in (b"/etc/file", b"/absolute", b"/up", b"/../../etc/file", b"/etc/../absolute"):
        fd = notify.open_path(path, root_fd=root_fd, resolve=IN_ROOT)
        assert os.path.samestat(os.fstat(fd), inside), path
        assert not os.get_inheritable(fd)
        os.close(fd)
    with pytest.raises(KernelError) as caught:
        notify.open_path(b"/out", root_fd=root_fd, resolve=IN_ROOT)
    assert caught.value.errno == errno.ENOENT
    os.close(root_fd)


@pytest.mark.parametrize(
    ("path", "resolve"),
    [
        (b"/proc/self/root/etc", IN_ROOT),
        (b"/proc/self/cwd", IN_ROOT),
        (b"/proc/self/status", notify.RESOLVE_NO_SYMLINKS),  # self is one
    ],
)
def test_links_that_are_not_followed(path: bytes, resolve: int) -> None:
    root_fd = os.open("/", os.O_PATH)
    with pytest.raises(KernelError) as caught:
        notify.open_path(path, root_fd=root_fd, resolve=resolve)
    assert caught.value.errno == errno.ELOOP
    os.close(root_fd)


def test_admissions_are_for_one_port_and_once() -> None:
    served = line(os.open(os.devnull, os.O_RDONLY))
    assert not any(served.admits(port) for port in (0, 1, 65535))
    served.raw.admitted[65535] = int(time.monotonic()) + 1
    assert not served.admits(65534)
    assert served.admits(65535)
    assert not served.admits(65535)
    served.close()


@pytest.mark.parametrize(
    ("scope", "forbidden", "forbidden_without_capability"),
    [(None, False, False), (0, False, False), (1, False, False), (2, False, True), (3, True, True)],
)
def test_yama(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scope: int | None,
    forbidden: bool,
    forbidden_without_capability: bool,
) -> None:
    """1 permits descendants, 3 forbids it even to root."""
    if scope is not None:
        (tmp_path / "proc/sys/kernel/yama").mkdir(parents=True)
        (tmp_path / "proc/sys/kernel/yama/ptrace_scope").write_text(f"{scope}\n")
    assert notify.yama_scope(str(tmp_path)) == scope
    for has, expected in ((True, forbidden), (False, forbidden_without_capability)):
        monkeypatch.setattr(process, "has_capability", lambda _, has=has: has)
        assert notify.yama_forbids(scope) is expected
