"""--allow-unix-socket in whole runs: the socket is where the user names it, by whatever links lead there."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import WALL, Site

CONNECT = """
import socket, sys
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
print("connected")
"""
SCRIPT = """
import socket, sys
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
            print(client.recv(5).decode())
        except OSError as error:
            print(error.strerror)
"""


@pytest.fixture
def served(site: Site) -> Iterator[Path]:
    """A service's socket in a directory of its own, as /run/x of a Debian machine, and a link to that, as /var/run."""
    run = site.directory / "run"
    run.mkdir()
    (site.directory / "var-run").symlink_to("run")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(run / "s"))
        listener.listen()
        pid = os.fork()
        if pid == 0:
            while True:
                listener.accept()[0].send(b"hello")
        try:
            yield site.directory / "var-run" / "s"
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def test_a_socket_named_by_way_of_a_link(site: Site, served: Path) -> None:
    real = served.parent.resolve() / "s"
    flags = ["--silent", *WALL, "--block-net"]
    command = ["/usr/bin/python3", "-c", SCRIPT, str(served), str(real)]
    assert site.run([*flags, "--allow-unix-socket", str(served)], command).stdout.split() == ["hello", "hello"]
    assert site.run([*flags, "--allow-unix-socket", str(real)], command).stdout.split() == ["hello", "hello"]
    assert "hello" not in site.run(flags, command).stdout


def test_a_socket_below_tmp_is_where_it_was(site: Site) -> None:
    """As those of ssh-agent and tmux; where the agent has a /tmp of its own, nothing else of the machine's is in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory) / "agent.1"
        listener.bind(os.fspath(path))
        listener.listen(9)
        (Path(directory) / "other").touch()
        script = f"{CONNECT}\nimport os; print(os.path.exists({directory + '/other'!r}))"
        done = site.run(
            ["--silent", *WALL, "--block-net", "--allow-cwd", "--allow-unix-socket", str(path)],
            ["/usr/bin/python3", "-c", script, str(path)],
        )
        has_own_tmp = "True" not in done.stdout
    assert done.stdout.splitlines()[0] == "connected"
    if not WALL:
        assert has_own_tmp


def test_a_file_below_tmp_is_not_opened_as_a_socket(site: Site) -> None:
    """Not by way of a link either."""
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        file.write(b"secret")
        file.flush()
        link = site.directory / "link"
        link.symlink_to(file.name)
        for path in (file.name, str(link)):
            done = site.run(["--silent", *WALL, "--allow-cwd", "--allow-unix-socket", path], ["cat", file.name])
            assert (done.returncode, done.stdout) == (2, ""), done.stderr
            assert f"--allow-unix-socket {path}: is not a socket" in " ".join(done.stderr.split())


def test_a_socket_that_is_not_there_yet_can_come_later(site: Site) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory) / "later"
        process = site.start(
            ["--silent", *WALL, "--block-net", "--allow-unix-socket", str(path)],
            ["/usr/bin/python3", "-c", f"print('up', flush=True); input()\n{CONNECT}", str(path)],
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        listener.bind(os.fspath(path))
        listener.listen()
        assert process.communicate(b"\n", timeout=60)[0] == b"connected\n"


def test_a_link_that_the_agent_may_replace_is_not_followed(site: Site, served: Path) -> None:
    """An earlier run may have turned it elsewhere: to docker.sock."""
    link = site.work / "link"
    link.symlink_to(served)
    done = site.run(
        ["--silent", *WALL, "--block-net", "--allow-cwd", "--allow-unix-socket", str(link)],
        ["/usr/bin/python3", "-c", SCRIPT, str(link)],
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"name what it leads to: {served.resolve()}" in " ".join(done.stderr.split())
