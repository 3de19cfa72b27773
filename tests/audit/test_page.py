"""The page of a session runs nothing, loads nothing, and shows everything as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.audit.page import page
from tests.runs import Site, require_command

EVIL = [
    "<script>document.title='pwned'</script>",
    '"><img src=x onerror="document.title=\'pwned\'">',
    "'><svg onload=alert(1)>",
    "</style><style>*{display:none}",
    "javascript:alert(1)",
    "--><!--",
    "&lt;b&gt;&#60;i",
    "\x1b]0;pwned\x07\u202egnp.exe\x00\ud800",
]
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "code", "div", "b", "br", "span", "dl", "dt",
    "dd", "details", "summary", "table", "tr", "th", "td", "svg", "rect",
}  # fmt: skip
ATTRIBUTES = {
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "class",
    "width",
    "height",
    "x",
    "y",
    "rx",
    "aria-hidden",
}


def records(evil: str, number: object = 200) -> list[dict[str, object]]:
    exchange = dict.fromkeys(("route", "host", "address", "method", "path", "code", "reason", "flag"), evil)
    return [
        {
            "n": 1, "kind": "start", "time": 1.5, "version": evil, "argv": [evil, evil], "workdir": evil, "wall": evil,
            "profiles": [{"name": evil, "source": evil}], "grants": [{"path": evil, "access": evil, "origin": evil}],
            "denies": [evil], "hosts": [evil], "network": evil, "credentials": [{"name": evil, "upstream": evil}],
            "limits": {evil: evil}, "upstream_proxy": evil, "network_profile": evil, "sockets": [evil],
        },
        {"n": 2, "kind": "exchange", "time": number, "verdict": "refused", "status": number, **exchange},
        {"n": 3, "kind": "exchange", "time": 2.0, "verdict": "allowed", "status": 201, **exchange, "method": "POST"},
        {"n": 4, "kind": "denial", "denied": evil, "what": evil, "access": evil, "reason": evil, "detail": evil,
         "origin": evil, "flag": evil, "times": number},
        {"n": 5, "kind": "exit", "time": number, "status": number, "duration_ms": number},
    ]  # fmt: skip


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.add(tag)
        self.attributes += attrs

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        (self.styles if self._open == "style" else self.texts).append(data)

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment: {data}")


def made(found: list[dict[str, object]], **options: object) -> str:
    return "".join(page("20261122T050000Z-1", found, ("whole", ()), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("evil", EVIL)
def test_hostile_text_stays_text(evil: str) -> None:
    text = made(records(evil), changes=[(evil, evil)])
    text.encode()
    seen = Reader(text)
    assert seen.tags <= ALLOWED
    assert {name for name, _ in seen.attributes} <= ATTRIBUTES
    assert len(seen.styles) == 1
    shown = "".join(seen.texts)
    assert evil in shown or any(c in evil for c in "\x1b\u202e\x00")
    assert all(c.isprintable() or c == "\n" for c in shown)


@settings(deadline=None)
@given(st.text(max_size=60), st.floats() | st.integers() | st.text(max_size=5) | st.none() | st.lists(st.integers()))
def test_any_text_and_any_number_is_shown(text: str, number: object) -> None:
    seen = Reader(made(records(text, number)))
    assert seen.tags <= ALLOWED
    assert {name for name, _ in seen.attributes} <= ATTRIBUTES


NAMES = st.sampled_from(["kind", "time", "argv", "grants", "limits", "host", "method", "verdict", "start", "exit"])
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(NAMES, each, max_size=4),
)


@settings(deadline=None)
@given(VALUES)
def test_any_json_makes_a_page(value: object) -> None:
    for kind in ("start", "exchange", "denial", "exit"):
        made(
            [
                {
                    "kind": kind,
                    "argv": value,
                    "grants": value,
                    "limits": value,
                    "time": value,
                    "host": value,
                    "times": value,
                }
            ]
        )


def test_it_allows_itself_nothing_but_its_own_style() -> None:
    seen = Reader(made(records("x")))
    (policy,) = (value for name, value in seen.attributes if name == "content" and "default-src" in str(value))
    digest = base64.b64encode(hashlib.sha256(seen.styles[0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not re.search(r"url\(|@import|https?:", seen.styles[0])


def test_what_verify_found_stands_above_all() -> None:
    text = "".join(page("x", records("x"), ("faulty", ["log, line 3: record 3 <is> changed"])))
    assert text.index("not as it was written") < text.index("exit status")
    assert "record 3 &lt;is&gt; changed" in text
    assert "nobody can tell" in "".join(page("x", [], ("unended", ())))


def test_file_changes_are_shown_where_they_are_known() -> None:
    assert "changes of files are not known" in made(records("x"))
    assert "No file was changed" in made(records("x"), changes=[])
    assert "src/&lt;a&gt;.py" in made(records("x"), changes=[("modified", "src/<a>.py")])


def test_very_many_exchanges_are_cut_and_said() -> None:
    many = [
        {"kind": "exchange", "time": float(at), "method": "GET", "host": "h", "verdict": "allowed"}
        for at in range(20_050)
    ]
    assert "50 more are in the log" in made(many)


def chromium(user: Path, *flags: str) -> str:
    """Run Chromium, headless, without any network of its own; return what it printed."""
    command = [
        require_command("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--no-first-run", f"--user-data-dir={user}", *flags,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_a_browser_runs_nothing_of_it_and_shows_it(tmp_path: Path) -> None:
    """In Chromium: the style is applied, no script has run, nothing was asked for."""
    asked: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
        evil = [*EVIL, f"<img src=http://{host}/><script src=http://{host}/></script>", f"<style>@import '//{host}';"]
        evil += [
            f"<meta http-equiv=refresh content='0;url=http://{host}'>",
            f"<link rel=stylesheet href=http://{host}>",
        ]
        file = tmp_path / "page.html"
        file.write_text(
            made([each for text in evil for each in records(text)], changes=[(text, text) for text in evil])
        )
        dumped = chromium(tmp_path / "user", "--virtual-time-budget=2000", "--dump-dom", file.as_uri())
        picture = tmp_path / "page.png"
        chromium(tmp_path / "user", "--window-size=1200,2000", f"--screenshot={picture}", file.as_uri())
        server.settimeout(0)
        try:
            asked.append(server.accept())
        except BlockingIOError:
            pass
    seen = Reader(dumped.replace("<!DOCTYPE html>", ""))
    title = re.search(r"<title>(.*?)</title>", dumped)
    assert title
    assert title[1] == "nono audit 20261122T050000Z-1"
    assert seen.tags - {"tbody"} <= ALLOWED
    assert {name for name, _ in seen.attributes} <= ATTRIBUTES
    assert not asked
    assert picture.stat().st_size > 50_000, "a page with its texts and bars, not a blank one"


def test_the_page_of_a_real_run_is_readable_in_a_browser(tmp_path: Path) -> None:
    """From the run to what a person sees: what was sent and denied, the changed file, the duration."""
    with Site(tmp_path / "site") as site:
        ask = ["OPENAI_BASE_URL", "POST", "/chat/completions", {"Authorization": "Bearer TOKEN"}, "{}"]
        refused = ["OPENAI_BASE_URL", "GET", "/../admin", {"Authorization": "Bearer TOKEN"}, None]
        (site.work / "notes.txt").write_text("before")
        flags = ["--profile", str(site.profile(site.store_in_files())), "--allow-cwd", "--name", "seen"]
        flags += ["--rollback", "--no-rollback-prompt"]
        python, isolated, *script = site.agent("send", json.dumps([ask, refused]))
        program = f"""
import runpy, sys
print("after", file=open("notes.txt", "w"))
sys.argv = {script!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
        done = site.run(flags, [python, isolated, "-c", program])
        assert done.returncode == 0, done.stderr
        exported = site.nono(["audit", "export", "seen", "--format", "html", "-o", "page.html"])
        assert exported.returncode == 0, exported.stderr
        dumped = chromium(tmp_path / "user", "--dump-dom", (site.work / "page.html").as_uri())
    shown = " ".join("".join(Reader(dumped.replace("<!DOCTYPE html>", "")).texts).split())
    for text in (
        "Effects elsewhere",
        "/chat/completions",
        "refused",
        "modified",
        "notes.txt",
        "exit status",
        "Timeline",
    ):
        assert text in shown, text
    assert "is not as it was written" not in shown
