"""`-v`: each exchange as a line on stderr, without holding anybody up."""

from __future__ import annotations

import os
import pty
import tty
from collections.abc import Iterator

import pytest

from nono.cli import live
from nono.cli.live import LiveView, line
from nono.errors import Refusal
from nono.policy.allowlist import Allowlist
from nono.proxy.services import Exchange
from tests.runs import Site

ALLOWED = Exchange(
    0.0, "openai", "api.openai.com", "203.0.113.7:443", "POST", "/chat/completions", "allowed", 200, "", 2100, 14000,
    812.4, "",
)  # fmt: skip


def refused(host: str, reason: str = "no", flag: str = "") -> Exchange:
    return Exchange(0.0, "", host, "", "CONNECT", "", "refused", 403, "host_denied", 0, 0, 0.2, reason, flag)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    yield ends
    for fd in ends:
        os.close(fd)


def read(fd: int) -> str:
    try:
        return os.read(fd, 1 << 20).decode()
    except BlockingIOError:
        return ""


def test_says_what_was_asked_and_what_came_of_it() -> None:
    what = "POST api.openai.com/chat/completions        "
    assert line(ALLOWED) == f"nono  allowed     {what}  200   812 ms  2.1 kB up, 14 kB down"


def test_a_denial_names_its_reason_and_the_flag() -> None:
    with pytest.raises(Refusal) as told:
        Allowlist(["example.com"])("example.org", 443, tunnel=True)
    text = line(refused("example.org:443", str(told.value), told.value.flag))
    assert text.startswith("nono  denied      CONNECT example.org:443 ")
    assert text.endswith("  403     0 ms  example.org is not in the allowlist.  --allow-domain example.org")


def test_what_is_unknown_is_left_out() -> None:
    turned_away = Exchange(0.0, "", "", "", "", "", "refused", 503, "too_many_connections", 0, 0, 0.0, "Too many.")
    assert " a connection " in line(turned_away)
    cut_off = ALLOWED._replace(status=0, code="client_left", reason="the client left")
    assert "    -   812 ms" in line(cut_off)


@pytest.mark.parametrize(
    ("ms", "shown"), [(0.4, "0 ms"), (999.4, "999 ms"), (12_340.0, "12.3 s"), (600_000.0, "600 s")]
)
def test_durations_are_read_at_a_glance(ms: float, shown: str) -> None:
    assert f" {shown}  " in line(ALLOWED._replace(duration_ms=ms))


def test_nothing_moves_the_cursor_and_nothing_is_endless() -> None:
    text = line(refused("a\r\n\x1b[2J\u202eb" + "c" * 10_000, "d" * 10_000))
    assert text.isprintable()
    assert "\\r\\n\\x1b[2J\\u202eb" in text
    assert len(text) < 600


def test_a_flood_is_cut_and_counted(pipe: tuple[int, int]) -> None:
    with LiveView(fd=pipe[1]) as view:
        view.show([ALLOWED] * 100_000)
        view.show([ALLOWED] * 100_000)
    lines = read(pipe[0]).splitlines()
    assert len(lines) == live.BURST + 1
    assert lines[-1].endswith(f"{200_000 - live.BURST:,} more, in the audit log")


def test_more_is_shown_after_a_while(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(live, "monotonic", lambda: now)
    view = LiveView(fd=pipe[1])
    view.show([ALLOWED] * (live.BURST + 5))
    read(pipe[0])
    now = 2 / live.RATE
    view.show([ALLOWED] * 3)
    lines = read(pipe[0]).splitlines()
    assert [text[18:25] for text in lines] == ["5 more,", "POST ap", "POST ap"]


def test_nobody_is_waited_for(pipe: tuple[int, int]) -> None:
    """A full pipe: what cannot be written is counted, and said when it can be."""
    full = 0
    try:
        while True:
            full += os.write(pipe[1], b"." * 4096)
    except BlockingIOError:
        os.set_blocking(pipe[1], True)  # from here on a write would wait for ever
    view = LiveView(fd=pipe[1])
    view.show([ALLOWED] * 2)
    assert len(read(pipe[0])) == full
    view.show([ALLOWED])
    assert [text[18:25] for text in read(pipe[0]).splitlines()] == ["2 more,", "POST ap"]


def test_a_reader_that_left_is_no_error() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with LiveView(fd=write_fd) as view:
        view.show([ALLOWED])
    os.close(write_fd)


def test_lines_begin_at_the_left_of_a_raw_terminal() -> None:
    master, slave = pty.openpty()
    try:
        tty.setraw(slave)
        with LiveView(fd=slave) as view:
            view.show([ALLOWED, ALLOWED])
        assert os.read(master, 4096).decode() == 2 * (line(ALLOWED) + "\r\n")
    finally:
        os.close(master)
        os.close(slave)


def test_a_run_shows_its_exchanges_only_when_asked(site: Site) -> None:
    script = "curl -s -o /dev/null -H 'Authorization: Bearer '$OPENAI_API_KEY $OPENAI_BASE_URL/models?secret=query"
    profile = str(site.profile(site.store_in_files()))
    for flags, shown in (([], 0), (["-v"], 1), (["-v", "--silent"], 1)):
        done = site.run(["--profile", profile, *flags], ["/bin/sh", "-c", script])
        lines = [text for text in done.stderr.splitlines() if text.startswith("nono  allowed ")]
        assert len(lines) == shown, done.stderr
        assert all(f"GET localhost:{site.upstream.port}/models " in text for text in lines)
        assert "secret=query" not in done.stderr
        assert done.stdout == ""


def test_a_tunnel_is_shown_when_it_begins_and_when_it_ends(site: Site) -> None:
    where = f"localhost:{site.upstream.port}"
    done = site.run(["-v", "--allow-domain", where], ["curl", "-sk", "--noproxy", "", f"https://{where}/"])
    shown = [text for text in done.stderr.splitlines() if f" CONNECT {where} " in text]
    assert [text.split()[1] for text in shown] == ["opened", "allowed"], done.stderr
    assert [" up, " in text for text in shown] == [False, True]
    assert site.audit_log().count("CONNECT") == 1
