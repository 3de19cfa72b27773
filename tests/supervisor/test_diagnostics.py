"""What is put together at the end of a run: from the terminal, standard error, the kernel, the mediator, the proxy."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nono.loop import Loop
from nono.policy.capabilities import NETWORK_OPEN, READ, WRITE, CapabilitySet, PathDeny, PathGrant
from nono.policy.resolve import Place
from nono.supervisor.denials import SOCKET, Denial
from nono.supervisor.diagnostics import Diagnostics


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for path in ("app/x", "notes/1", "notes/2", ".netrc"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x")
    return tmp_path


def denials(diagnostics: Diagnostics, home: Path, refused: Any = ()) -> list[tuple[str, str, str, str, int]]:
    grants = (PathGrant(f"{home}/app", READ | WRITE, False, "--allow-cwd"),)
    denies = (PathDeny(f"{home}/.netrc", "deny_credentials"),)
    capabilities = CapabilitySet(grants, denies, NETWORK_OPEN, (), f"{home}/app")
    place = Place(str(home), f"{home}/app", "/tmp", f"{home}/.config", f"{home}/.local/state", "/run/user/0")
    plan = cast("Any", SimpleNamespace(mounts=()))
    found = diagnostics.denials(refused, capabilities, plan, place)
    return [(each.access, each.what, each.flag, each.source, each.times) for each in found]


class Kernel:
    """In the place of an audit.Reader: what it has read."""

    def __init__(self, denied: dict[tuple[bytes, bool], int]) -> None:
        self.fd, self.writer = os.pipe()
        self.records = SimpleNamespace(denied=denied)
        self.reads = 0

    def read(self, ready: int = 0) -> None:
        self.reads += 1


def test_nothing_is_asked_where_nothing_was_said(home: Path) -> None:
    diagnostics = Diagnostics()
    diagnostics.on_terminal.feed(b"hello\r\n")
    assert diagnostics.denials([], cast("Any", None), cast("Any", None), cast("Any", None)) == ()


def test_terminal_and_standard_error_are_lines_of_their_own(home: Path) -> None:
    diagnostics = Diagnostics()
    diagnostics.on_terminal.feed(b"cat: ")
    diagnostics.on_stderr.feed(b"cat: ../notes/1: Permission denied\n")
    diagnostics.on_terminal.feed(b"~/notes/2: Permission denied\r\n")
    assert denials(diagnostics, home) == [
        ("read", f"{home}/notes/2", "--read-file ~/notes/2", "output", 1),
        ("read", f"{home}/notes/1", "--read-file ~/notes/1", "output", 1),
    ]


def test_the_kernels_word_goes_before_the_agents(home: Path) -> None:
    diagnostics, loop = Diagnostics(), Loop()
    kernel = Kernel({(os.fsencode(f"{home}/.netrc"), False): 3, (os.fsencode(f"{home}/app/x"), True): 1})
    diagnostics.listen(cast("Any", kernel), loop)
    diagnostics.on_stderr.feed(b"cat: ~/.netrc: Permission denied\ncat: ~/notes/1: Permission denied\n")
    assert denials(diagnostics, home) == [
        ("read", f"{home}/.netrc", "--bypass-protection ~/.netrc --read-file ~/.netrc", "kernel", 3),
        ("read", f"{home}/notes/1", "--read-file ~/notes/1", "output", 1),
    ]
    assert kernel.reads == 1
    os.write(kernel.writer, b"x")
    loop.call_later(0.05, loop.stop)
    loop.run()
    assert kernel.reads > 1


def test_all_sources_are_put_together(home: Path) -> None:
    diagnostics = Diagnostics()
    diagnostics.refusals.append(Denial(SOCKET, "10.0.0.1:1", "connect", "outside_the_wall", "", "", source="mediator"))
    diagnostics.on_stderr.feed(b"cat: ~/notes/1: Permission denied")
    texts = {"host": "a.example:443", "method": "CONNECT", "code": "host_denied", "flag": "--allow-domain a.example"}
    assert denials(diagnostics, home, [(texts, 2)]) == [
        ("read", f"{home}/notes/1", "--read-file ~/notes/1", "output", 1),
        ("connect", "10.0.0.1:1", "", "mediator", 1),
        ("connect", "a.example:443", "--allow-domain a.example", "proxy", 2),
    ]


def test_a_link_is_judged_by_where_it_leads(home: Path) -> None:
    (home / "app" / "link").symlink_to(home / "notes" / "1")
    (home / "app" / "loop").symlink_to("loop")
    diagnostics = Diagnostics()
    diagnostics.on_stderr.feed(
        b"cat: link/: Permission denied\ncat: ./link: Permission denied\ncat: ./loop: Permission denied\n"
    )
    assert denials(diagnostics, home) == [("read", f"{home}/app/link", "--read-file ~/notes/1", "output", 2)]
