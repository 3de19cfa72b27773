"""Relays between a real child's network and real servers of the host, both ways."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import pytest

from nono.kernel import process
from nono.loop import Loop
from nono.proxy.services import Exchange
from nono.supervisor import relay
from nono.supervisor.relay import Relays
from tests.kernel.inside import ISOLATED, start

TIMEOUT_S = 20
SERVER = "server of the host"  # name of its threads
PREAMBLE = """
import socket, sys
def connect(port):
    return socket.create_connection(("127.0.0.1", port), 20)
def everything(sock):
    data = bytearray()
    while piece := sock.recv(1 << 16): data += piece
    return bytes(data)
def say(*what): print(*what, flush=True)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Run:
    """A child that runs `script` behind its own network, and its relays, on a loop in a thread of their own."""

    def __init__(self, script: str, *, opened: tuple[int, ...] = (), listened: tuple[int, ...] = ()) -> None:
        self._script = PREAMBLE + script
        self._opened = opened
        self._listened = listened
        self.reports: list[Exchange] = []
        self._reported = threading.Condition()

    def __enter__(self) -> Self:
        output, write_fd = os.pipe()
        saved = os.dup(1)
        os.dup2(write_fd, 1)
        try:
            self.child = start(
                *(sys.executable, "-I", "-S", "-c", self._script),
                namespaces=ISOLATED,
                listen_ports=self._opened,
                keep_network=bool(self._listened),
            )
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            os.close(write_fd)
        self.output = os.fdopen(output)
        self.loop = Loop()
        self.relays = Relays(self.loop, self.child.network_fd, self._report)
        for port, fd in zip(self._opened, self.child.listener_fds, strict=True):
            self.relays.open_port(port, fd)
        for port in self._listened:
            self.relays.listen_port(port, socket.create_server(("127.0.0.1", port), backlog=128).detach())
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        signal.pidfd_send_signal(self.child.pidfd, signal.SIGKILL)
        os.waitpid(self.child.pid, 0)
        self.stop()
        self.relays.close()
        self.loop.close()
        self.output.close()
        os.close(self.child.pidfd)
        os.close(self.child.control_fd)

    def stop(self) -> None:
        """End the loop's thread, as the run's main loop ends."""
        self.loop.call_from_thread(self.loop.stop)
        self._thread.join()

    def said(self) -> str:
        """Return the child's next line."""
        assert select.select([self.output], [], [], TIMEOUT_S)[0]
        return self.output.readline().rstrip("\n")

    def report(self, number: int = 1) -> Exchange:
        """Return the report of the connection that ended as the `number`th."""
        with self._reported:
            assert self._reported.wait_for(lambda: len(self.reports) >= number, TIMEOUT_S)
            return self.reports[number - 1]

    def _report(self, exchange: Exchange) -> None:
        with self._reported:
            self.reports.append(exchange)
            self._reported.notify()


@contextmanager
def host_server(serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """A server of the host that does `serve` with each connection on a thread of its own; yields its port."""

    def converse(connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        with connection:
            serve(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(connection,), daemon=True, name=SERVER).start()

    listener = socket.create_server((host, 0), backlog=128)
    threading.Thread(target=accept, daemon=True, name=SERVER).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@contextmanager
def held_input() -> Iterator[Callable[[], None]]:
    """Let the child wait in input() until what is yielded is called, or for ever."""
    read_fd, write_fd = os.pipe()
    saved = os.dup(0)
    os.dup2(read_fd, 0)
    try:
        yield lambda: os.write(write_fd, b"\n") and None
    finally:
        os.dup2(saved, 0)
        for fd in (saved, read_fd, write_fd):
            os.close(fd)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def everything(connection: socket.socket) -> bytes:
    data = bytearray()
    while piece := connection.recv(1 << 16):
        data += piece
    return bytes(data)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def at_once(connection: socket.socket) -> None:
    connection.sendall(b"hello from the host")


# ---- --open-port ------------------------------------------------------------------------


def test_a_service_of_the_host_is_reached_from_inside() -> None:
    script = """
sock = connect(PORT)
for size in (1, 70_000, 3):
    sock.sendall(b"x" * size)
    got = 0
    while got < size: got += len(sock.recv(1 << 16))
say(got)
"""
    with host_server(echo) as port, Run(script.replace("PORT", str(port)), opened=(port,)) as run:
        assert run.said() == "3"
        report = run.report()
    assert (report.method, report.host, report.address) == ("OPEN-PORT", f"127.0.0.1:{port}", f"127.0.0.1:{port}")
    assert (report.verdict, report.code, report.bytes_up, report.bytes_down) == ("allowed", "", 70_004, 70_004)


def test_only_the_named_port_is_reached() -> None:
    script = """
say(everything(connect(OPENED)).decode())
try: connect(OTHER)
except OSError as error: say(error.errno)
"""
    with host_server(at_once) as opened, host_server(at_once) as other:
        script = script.replace("OPENED", str(opened)).replace("OTHER", str(other))
        with Run(script, opened=(opened,)) as run:
            assert run.said() == "hello from the host"
            assert run.said() == "111"  # ECONNREFUSED


def test_several_ports_and_one_below_1024() -> None:
    with host_server(at_once) as one, host_server(echo) as two:
        script = f"""
say(everything(connect({one})).decode())
sock = connect({two}); sock.sendall(b"echoed"); say(sock.recv(64).decode())
try: connect(80)
except ConnectionResetError: pass  # whatever the host has there
say("connected")
"""
        with Run(script, opened=(one, two, 80)) as run:
            assert [run.said() for _ in range(3)] == ["hello from the host", "echoed", "connected"]


def test_nobody_on_the_host_is_a_reset_at_once() -> None:
    port = free_port()
    script = f"""
for _ in range(2):
    try: say(everything(connect({port})))
    except ConnectionResetError: say("reset")
"""
    with Run(script, opened=(port,)) as run:
        assert [run.said(), run.said()] == ["reset", "reset"]
        report = run.report()
    assert report.code == "connect_failed"
    assert f"nothing answers on port {port} on this machine" in report.reason


def test_half_close_is_passed_on_both_ways() -> None:
    def late_answer(connection: socket.socket) -> None:
        question = everything(connection)
        connection.sendall(question * 1000)

    with host_server(late_answer) as port:
        script = f"""
sock = connect({port}); sock.sendall(b"question" * 1000); sock.shutdown(socket.SHUT_WR)
say(len(everything(sock)))
"""
        with Run(script, opened=(port,)) as run:
            assert run.said() == "8000000"


def test_much_both_ways_at_once_arrives_whole() -> None:
    size = 50_000_000

    def both(connection: socket.socket) -> None:
        sender = threading.Thread(target=lambda: connection.sendall(os.urandom(1000) * (size // 1000)))
        sender.start()
        hashed = hashlib.sha256(everything(connection)).hexdigest()
        sender.join()
        got.append(hashed)
        done.set()

    got: list[str] = []
    done = threading.Event()
    with host_server(both) as port:
        script = f"""
import hashlib, os, threading
sock = connect({port}); data = os.urandom(1000) * {size // 1000}
def send(): sock.sendall(data); sock.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send); sender.start()
count = 0
while count < {size}: count += len(sock.recv(1 << 16))
sender.join()
say(count, hashlib.sha256(data).hexdigest())
"""
        with Run(script, opened=(port,)) as run:
            count, hashed = run.said().split()
            assert done.wait(TIMEOUT_S)
            assert (int(count), [hashed]) == (size, got)


# ---- --listen-port ----------------------------------------------------------------------

SERVER = """
family, host, port = FAMILY, HOST, PORT
server = socket.create_server((host, port), family=family, backlog=128)
say("listening")
"""
ANSWER = """
while True:
    sock = server.accept()[0]
    sock.sendall(b"from inside: " + everything(sock)); sock.close()
"""


def server_inside(port: int, rest: str = ANSWER, host: str = "127.0.0.1") -> str:
    family = "socket.AF_INET6" if ":" in host else "socket.AF_INET"
    return SERVER.replace("FAMILY", family).replace("HOST", repr(host)).replace("PORT", str(port)) + rest


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_server_inside_is_reached_from_the_host(host: str) -> None:
    port = free_port()
    with Run(server_inside(port, host=host), listened=(port,)) as run:
        assert run.said() == "listening"
        for _ in range(2):
            with connect(port) as sock:
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                assert everything(sock) == b"from inside: hello"
        report = run.report()
        address = f"[::1]:{port}" if ":" in host else f"127.0.0.1:{port}"
        assert (report.method, report.address, report.bytes_up) == ("LISTEN-PORT", address, 5)


def test_no_server_inside_is_a_reset_until_there_is_one() -> None:
    port = free_port()
    with held_input() as go_on, Run("input()" + server_inside(port), listened=(port,)) as run:
        with pytest.raises(ConnectionResetError), connect(port) as sock:
            sock.recv(1)
        assert run.report().reason == f"nothing answers on port {port} inside the sandbox: Connection refused"
        go_on()
        assert run.said() == "listening"
        with connect(port) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert everything(sock) == b"from inside: "


def test_the_host_listens_on_its_loopback_only() -> None:
    port = free_port()
    with Run("import time; time.sleep(60)", listened=(port,)), socket.socket() as other:
        other.bind(("127.0.0.2", port))  # neither taken nor shadowed


def test_many_connections_at_once() -> None:
    port = free_port()
    rest = """
waiting = []
while len(waiting) < 50: waiting.append(server.accept()[0])
for sock in waiting: sock.sendall(sock.recv(64) + b" answered"); sock.close()
"""
    with Run(server_inside(port, rest), listened=(port,)) as run:
        assert run.said() == "listening"
        socks = [connect(port) for _ in range(50)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%d" % number)
        for number, sock in enumerate(socks):
            with sock:
                assert everything(sock) == b"%d answered" % number
        run.report(50)
        assert not run.relays.connections


def test_more_than_the_limit_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_CONNECTIONS", 2)
    with host_server(echo) as port:
        script = f"""
held = []
for _ in range(2):
    sock = connect({port}); sock.sendall(b"x"); sock.recv(1); held.append(sock)
try: say(everything(connect({port})))
except ConnectionResetError: say("reset")
held.pop().close()
"""
        with Run(script, opened=(port,)) as run:
            assert run.said() == "reset"
            assert (run.report().code, run.report().verdict) == ("too_many_connections", "refused")


def test_a_server_that_takes_no_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CONNECT_S", 0.2)
    port = free_port()
    rest = """
import select
server.listen(0)
held = []
while True:  # until one is left without an answer
    sock = socket.socket(); sock.setblocking(False); sock.connect_ex(("127.0.0.1", port)); held.append(sock)
    if not select.select([], [sock], [], 0.3)[1]: break
say("full")
input()
"""
    with held_input(), Run(server_inside(port, rest), listened=(port,)) as run:
        assert [run.said(), run.said()] == ["listening", "full"]
        with pytest.raises(ConnectionResetError), connect(port) as sock:
            sock.recv(1)
        assert run.report().code == "connect_timeout"


# ---- the end ----------------------------------------------------------------------------


def test_what_the_child_sent_before_it_ended_is_delivered() -> None:
    port = free_port()
    rest = """
sock = server.accept()[0]
sock.recv(64)
sock.sendall(b"x" * 2_000_000)
"""
    with Run(server_inside(port, rest), listened=(port,)) as run:
        assert run.said() == "listening"
        with connect(port) as sock:
            sock.sendall(b"go")
            assert select.select([run.child.control_fd], [], [], TIMEOUT_S)[0]  # it has exited
            drained = threading.Event()
            run.loop.call_from_thread(lambda: run.relays.drain(TIMEOUT_S, drained.set))
            assert len(everything(sock)) == 2_000_000
            sock.shutdown(socket.SHUT_WR)
            assert drained.wait(TIMEOUT_S)


def test_a_drain_does_not_wait_for_ever() -> None:
    with host_server(echo) as port, held_input():
        script = f"sock = connect({port}); sock.sendall(b'x'); sock.recv(1); say('connected'); input()"
        with Run(script, opened=(port,)) as run:
            assert run.said() == "connected"
            drained = threading.Event()
            run.loop.call_from_thread(lambda: run.relays.drain(0.05, drained.set))
            assert drained.wait(TIMEOUT_S)


def open_descriptors() -> list[str]:
    """Return this process's, when the threads of the servers above have closed theirs."""
    for thread in threading.enumerate():
        if thread.name.startswith(SERVER):
            thread.join(TIMEOUT_S)
    process.set_dumpable(True)  # an undumpable process may not look
    return os.listdir("/proc/self/fd")


def test_no_descriptor_is_left() -> None:
    before = open_descriptors()
    port = free_port()
    with host_server(echo) as opened:
        script = f"""
for _ in range(20):
    sock = connect({opened}); sock.sendall(b"x"); sock.recv(1); sock.close()
open_still = connect({opened}); open_still.sendall(b"x"); open_still.recv(1)
"""
        with Run(script + server_inside(port), opened=(opened,), listened=(port,)) as run:
            assert run.said() == "listening"
            for _ in range(20):
                with connect(port) as sock:
                    sock.shutdown(socket.SHUT_WR)
                    everything(sock)
            run.report(40)
            open_still = connect(port)
        open_still.close()
    assert open_descriptors() == before
