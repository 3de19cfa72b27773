"""P9: every decision can be seen: an audit log that the child cannot touch, and a reason for each denial."""

from __future__ import annotations

import io
import itertools
import json
import re
import stat
from pathlib import Path

import pytest

import nono
from nono.audit import verify
from nono.audit.examine import chain_of
from tests.runs import KEYS, WALL, Site, lines

ASK = ["OPENAI_BASE_URL", "POST", "/chat/completions?secret=in-the-query", {"Authorization": "Bearer TOKEN"}, "{}"]


def flags(site: Site) -> list[str]:
    return ["--profile", str(site.profile(site.store_in_files())), "--allow-cwd"]


def entries(site: Site) -> list[dict[str, object]]:
    return site.exchanges()


def test_every_exchange_has_a_line(site: Site) -> None:
    done = site.run(flags(site), site.agent("send", json.dumps([ASK, ASK])))
    assert [line["status"] for line in lines(done.stdout)] == [200, 200]
    for entry in entries(site):
        assert (entry["route"], entry["host"], entry["method"]) == ("openai", f"localhost:{site.upstream.port}", "POST")
        assert (entry["path"], entry["status"]) == ("/chat/completions", 200)
        assert entry["bytes_up"] == 2
        assert isinstance(entry["bytes_down"], int)
        assert entry["bytes_down"] > 100
    assert len(entries(site)) == 2
    assert "in-the-query" not in site.audit_log()
    assert not any(key in site.audit_log() for key in KEYS.values())


def test_a_key_that_the_agent_was_given_is_in_no_line(site: Site) -> None:
    """Some APIs want it in the path; it has no known shape."""
    (site.vault / "odd").write_text("hunter2-of-no-shape")
    (site.vault / "odd").chmod(0o600)
    program = (
        "import os, http.client, urllib.parse\n"
        "proxy = urllib.parse.urlsplit(os.environ['HTTP_PROXY'])\n"
        "connection = http.client.HTTPConnection(proxy.hostname, proxy.port)\n"
        "connection.request('GET', f'http://127.0.0.1:9/bot{os.environ[\"ODD\"]}/send', headers="
        "{'Proxy-Authorization': 'Bearer ' + urllib.parse.unquote(proxy.password or proxy.username)})\n"
        "print(connection.getresponse().status)\n"
    )
    handed_over = ["--env-credential-map", f"file://{site.vault}/odd", "ODD", "--allow-domain", "127.0.0.1:9"]
    done = site.run(["--allow-cwd", *handed_over], [site.agent("send")[0], "-c", program])
    assert done.returncode == 0, done.stderr
    assert [entry["path"] for entry in entries(site)] == ["/bot***/send"], site.audit_log()
    assert "hunter2" not in site.audit_log()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (["OPENAI_BASE_URL", "POST", "/chat/completions", {}, "{}"], 401),
        (["OPENAI_BASE_URL", "POST", "/../admin", {"Authorization": "Bearer TOKEN"}, "{}"], 400),
        (["OPENAI_BASE_URL", "TRACE", "/chat/completions", {"Authorization": "Bearer TOKEN"}, None], 405),
    ],
    ids=["no token", "path", "method"],
)
def test_every_denial_has_a_line_with_its_reason(site: Site, request_: list[object], status: int) -> None:
    done = site.run(flags(site), site.agent("send", json.dumps([request_])))
    (told,) = lines(done.stdout)
    assert told["status"] == status
    error = json.loads(told["body"])["error"]
    (entry,) = entries(site)
    assert (entry["status"], entry["code"]) == (status, error["code"])
    assert entry["reason"]
    assert site.upstream.received == []


def test_the_child_cannot_touch_the_log(site: Site) -> None:
    """Even where the whole home is granted."""
    earlier = site.run(flags(site), site.agent("send", json.dumps([ASK])))
    assert earlier.returncode == 0
    (log,) = (path for path in site.state.rglob("*.jsonl"))
    before = log.read_bytes()
    script = """
        for file in "$1" "$1.new" "$2/x"; do cat "$file"; echo forged >> "$file"; done
        rm -f "$1"; mv "$2" "$2.old"; mkdir "$2/y"
    """
    done = site.run(
        [*flags(site), "--allow", str(site.home)], ["/bin/sh", "-c", script, "sh", str(log), str(log.parent)]
    )
    assert "Permission denied" in done.stderr
    assert log.read_bytes() == before
    assert [path for path in log.parent.parent.rglob("*") if path.suffix != ".jsonl"] == [
        log.parent,
        log.parent / "ledger",
    ]
    assert "ecret" not in done.stdout


ATTACKS = {  # what an agent may try with the log of another session ($1), its directory ($2), nono's state ($3)
    "read": 'cat "$1" "$2/ledger"; ls "$2"; head -c1 < "$1"',
    "append": 'echo forged >> "$1"; echo forged >> "$2/ledger"',
    "overwrite": 'echo forged > "$1"; echo forged 1<> "$2/ledger"; cp /etc/hostname "$1"',
    "truncate": 'truncate -s 10 "$1"; truncate -s 0 "$2/ledger"; true > "$1"',
    "remove": 'rm -f "$1" "$2/ledger"; rm -rf "$2" "$3"; unlink "$1"',
    "rename": 'mv "$1" "$1.old"; mv "$2/ledger" ledger; mv "$2" "$2.old"; mv "$3" "$3.old"',
    "replace": 'cp /etc/hostname new; mv -f new "$1"; ln -f /etc/hostname "$2/ledger"; ln -sf /etc/hostname "$1"',
    "link": 'ln "$1" mine; ln -s "$1" soft; cat mine soft; echo forged >> soft; rm -f soft mine',
    "plant": 'echo forged > "$2/20990101T000000Z-1.jsonl"; mkdir "$2/x"; mkfifo "$2/fifo"',
    "mode": 'chmod 777 "$1" "$2" "$3"; chmod -R a+w "$3"; touch "$1"; cat "$1"',
    "mount": 'mount --bind /tmp "$2"; mount -t tmpfs none "$2"; mount --move "$3" /tmp',
    "descriptors": 'for fd in /proc/self/fd/* /proc/$PPID/fd/*; do [ "${fd##*/}" -gt 2 ] && echo forged >> "$fd"; done',
    "the running one": 'for log in "$2"/*.jsonl "$2"/*later*; do echo forged >> "$log"; rm -f "$log"; done',
}
OTHER_WALLS = [[], ["--sandbox", "notify"], ["--sandbox", "landlock", "--accept-leaks"]]


@pytest.mark.parametrize("wall", [[]] if WALL else OTHER_WALLS, ids=lambda wall: "-".join(wall[1:2]) or "as-tested")
@pytest.mark.parametrize("is_proxied", [True, False], ids=["proxied", "blocked"])
def test_no_attack_reaches_the_logs_behind_any_wall(site: Site, wall: list[str], is_proxied: bool) -> None:
    """Neither those of other sessions nor the one that is being written, with the whole home granted; verify agrees."""
    granted = [*(flags(site) if is_proxied else ["--block-net"]), "--allow-cwd"]
    earlier = site.run([*flags(site), "--name", "earlier"], site.agent("send", json.dumps([ASK])))
    assert earlier.returncode == 0
    (log,) = (site.state / "audit").glob("*.jsonl")
    before, inode = log.read_bytes(), log.stat().st_ino
    ledger = (log.parent / "ledger").read_bytes()
    script = "\n".join(f"{{ {attack}; }} 2>>said" for attack in ATTACKS.values())
    done = site.run(
        [*granted, *wall, "--allow", str(site.home), "--name", "later"],
        ["/bin/sh", "-c", f"{script}\necho over", "sh", str(log), str(log.parent), str(site.state)],
    )
    assert done.stdout.endswith("over\n"), done.stderr
    assert (site.work / "said").read_text().count("enied") > 10
    assert "is not whole" not in done.stderr, "nono itself missed nothing"
    assert (log.read_bytes(), log.stat().st_ino) == (before, inode)
    assert sorted(path.suffix for path in log.parent.iterdir()) == ["", ".jsonl", ".jsonl"]
    assert (log.parent / "ledger").read_bytes().startswith(ledger)
    records = lines("".join(path.read_text() for path in log.parent.iterdir()))
    assert [record["kind"] for record in records].count("start") == 4, "of two logs and in the ledger"
    assert all("hash" in record for record in records)
    checked = json.loads(site.nono(["audit", "verify", "--json"]).stdout)
    assert [each["state"] for each in checked["sessions"]] == ["whole", "whole"], checked
    assert not any(key in done.stdout for key in KEYS.values())


def test_the_agent_cannot_clean_up_behind_itself(site: Site) -> None:
    """By nono's own command, with the whole home and nono's code granted."""
    site.run(flags(site), site.agent("send", json.dumps([ASK])))
    before = site.audit_log()
    granted = ["--allow", str(site.home), "--read", str(Path(nono.__file__).parents[1]), "--name", "later"]
    (python, *_) = site.agent("send")
    for words in (["cleanup", "last"], ["cleanup", "--older-than", "1"]):
        command = [python, "-c", "import sys, nono.cli; sys.exit(nono.cli.run(sys.argv[1:]))", "audit", *words]
        done = site.run([*flags(site), *granted], command)
        assert done.returncode == 1, done.stderr
        assert "Permission denied" in done.stderr
    assert site.audit_log().count('"kind":"removed"') == 0
    assert all(line in site.audit_log() for line in before.splitlines())


def test_any_byte_that_is_changed_from_outside_is_found_and_its_line_is_said(site: Site) -> None:
    """By the user himself, or a program that nono does not confine."""
    assert site.run(flags(site), site.agent("send", json.dumps([ASK]))).returncode == 0
    (log,) = (site.state / "audit").glob("*.jsonl")
    data, line = log.read_bytes(), 1
    ledger = verify.ledger_in(str(log.parent))

    def judged(data: bytes) -> verify.Session:
        return verify.session(log.name, chain_of(log.name, io.BytesIO(data)), ledger, runs=False)

    assert judged(data).state == verify.WHOLE
    for at, byte in enumerate(data):
        changed = data[:at] + bytes((byte ^ 1,)) + data[at + 1 :]
        faults = judged(changed).faults
        assert faults, at
        assert faults[0].line in (line, line + 1), (at, faults)
        line += byte == 0x0A
    for count in range(len(data)):
        assert judged(data[:count]).faults, count
    written = data.splitlines(keepends=True)
    for order in itertools.permutations(written):
        faults = judged(b"".join(order)).faults
        assert bool(faults) == (list(order) != written)


def test_the_log_is_private(site: Site) -> None:
    site.run(flags(site), site.agent("send", json.dumps([ASK])))

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    (log,) = (path for path in site.state.rglob("*.jsonl"))
    assert (mode(log), mode(log.parent)) == (0o600, 0o700)


def test_the_summary_says_what_is_granted(site: Site) -> None:
    done = site.run([*flags(site), "--read", str(site.home)], ["true"])
    assert f"only openai → localhost:{site.upstream.port}" in done.stderr
    assert re.search(rf"read\+write +{site.work}\n", done.stderr)
    assert re.search(r"read +~\n", done.stderr)
    assert "wall" in done.stderr
