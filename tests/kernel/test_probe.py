"""Questions asked behind the wall: the answers are the kernel's, and nothing is changed by asking."""

from __future__ import annotations

import os
import select
import socket
import stat
from errno import EACCES, EEXIST, ENOENT, ENXIO
from pathlib import Path

import pytest

from nono.errors import KernelError
from nono.kernel import landlock
from nono.kernel.probe import Connect, Create, List, Open, Probe, Reply
from nono.kernel.spawn import EVENT_EXITED, prepare, receive_event
from nono.kernel.spawn_errors import SpawnError
from nono.supervisor.job import children
from tests.kernel.inside import ALLOW_ALL, EVERYWHERE, ISOLATED, OWN_PROC, OWN_PROCESSES, ruleset

Question = Open | List | Create | Connect


def ask(*questions: Question, namespaces: int, granted: Path | str = "/", access: int | None = None) -> list[Reply]:
    probe = Probe(questions)
    mounts = (OWN_PROC,) if namespaces == OWN_PROCESSES else ()
    with ruleset(str(granted), access=access) as fd, prepare(namespaces=namespaces, mounts=mounts) as prepared:
        child = prepared.start(
            path=b"/", argv=[], envp=[], workdir=b"/", ruleset_fd=fd, seccomp_filter=ALLOW_ALL, probe=probe
        )
        wait(child.control_fd)
        return list(probe.replies())


def wait(control_fd: int) -> None:
    while select.select([control_fd], [], [], 10)[0] and (said := receive_event(control_fd)):
        if said[0] == EVENT_EXITED:
            assert os.waitstatus_to_exitcode(said[1]) == 0
            return
    raise AssertionError("no end")


@EVERYWHERE
def test_answers_as_the_kernel_does(namespaces: int, tmp_path: Path) -> None:
    granted, other = tmp_path / "granted", tmp_path / "other"
    for directory in (granted, other):
        directory.mkdir()
        (directory / "file").write_text("kept")
    replies = ask(
        Open(f"{granted}/file", os.O_RDONLY),
        Open(f"{granted}/file", os.O_WRONLY),
        Open(f"{granted}/none", os.O_RDONLY),
        Open(f"{other}/file", os.O_RDONLY),
        Open(f"{other}/file", os.O_RDWR),
        List(str(granted)),
        List(str(other)),
        Create(f"{granted}/new"),
        Create(f"{granted}/file"),
        Create(f"{other}/new"),
        namespaces=namespaces,
        granted=granted,
    )
    assert [reply.errno for reply in replies] == [0, 0, ENOENT, EACCES, EACCES, 0, EACCES, 0, EEXIST, EACCES]
    assert not any(reply.left_behind for reply in replies)
    assert sorted(os.listdir(granted)) == sorted(os.listdir(other)) == ["file"]
    assert (granted / "file").read_text() == "kept"


@EVERYWHERE
def test_many_answers_and_long_lists(namespaces: int, tmp_path: Path) -> None:
    for index in range(200):
        (tmp_path / f"{index:0200}").touch()
    replies = ask(*(List(str(tmp_path)) for _ in range(300)), namespaces=namespaces)
    assert [reply.errno for reply in replies] == [0] * 300


@EVERYWHERE
def test_waits_for_nobody(namespaces: int, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    replies = ask(Open(str(fifo), os.O_RDONLY), Open(str(fifo), os.O_WRONLY), namespaces=namespaces)
    assert [reply.errno for reply in replies] == [0, ENXIO]


@EVERYWHERE
def test_says_what_could_not_be_removed(namespaces: int, tmp_path: Path) -> None:
    rights = landlock.fs_mask(landlock.abi()) & ~landlock.FS_REMOVE_FILE
    (reply,) = ask(Create(f"{tmp_path}/new"), namespaces=namespaces, granted=tmp_path, access=rights)
    assert reply == Reply(0, b"", True)
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o600


@pytest.mark.parametrize("namespaces", [ISOLATED, OWN_PROCESSES])
def test_talks_to_its_own_listener_while_we_run(namespaces: int) -> None:
    probe_port = 61234
    probe = Probe([Connect(probe_port, b"GET / HTTP/1.1\r\n\r\n"), Connect(9, b"", 0xC0000201)])
    mounts = (OWN_PROC,) if namespaces == OWN_PROCESSES else ()
    with ruleset() as fd, prepare(namespaces=namespaces, mounts=mounts, listen_ports=(probe_port,)) as prepared:
        child = prepared.start(
            path=b"/", argv=[], envp=[], workdir=b"/", ruleset_fd=fd, seccomp_filter=ALLOW_ALL, probe=probe
        )
        with socket.socket(fileno=os.dup(child.listener_fds[0])) as listener:
            assert select.select([listener], [], [], 10)[0]
            with listener.accept()[0] as connection:
                assert connection.recv(64) == b"GET / HTTP/1.1\r\n\r\n"
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                connection.sendall(b"\r\n")
        wait(child.control_fd)
        answer, unreachable = probe.replies()
    assert answer == Reply(0, b"HTTP/1.1 200 OK\r\n\r\n")
    assert unreachable.errno != 0


def test_a_wall_that_fails_is_a_failure() -> None:
    probe = Probe([List("/")])
    with prepare(namespaces=0) as prepared, pytest.raises(SpawnError) as caught:
        prepared.start(path=b"/", argv=[], envp=[], workdir=b"/", ruleset_fd=-1, seccomp_filter=ALLOW_ALL, probe=probe)
    assert caught.value.step == "landlock"
    with pytest.raises(KernelError, match="ended before"):
        probe.replies()


def test_leaves_no_process_and_no_descriptor(tmp_path: Path) -> None:
    before, own = sorted(os.listdir("/proc/self/fd")), children()
    for _ in range(20):
        ask(List(str(tmp_path)), namespaces=ISOLATED)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert children() == own
