"""Where the key is while an agent works, and where it is not: P1 and P2 on real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from nono.kernel import secretmem
from tests import memscan
from tests.runs import ACCOUNTS, KEYS, TIMEOUT_S, Site

KEY = KEYS["openai"].encode()
READABLE_BY_ROOT = os.geteuid() == 0  # nobody else may read the memory of a process that is not dumpable


class Working:
    """An agent that has made its requests and holds still, and its supervisor."""

    def __init__(self, site: Site, flags: list[str], command: list[str], environment: dict[str, str]) -> None:
        self.process = site.start(flags, command, environment=environment)

    def __enter__(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, stderr = self.process.communicate()
            pytest.fail(stderr.decode())
        told: dict[str, Any] = json.loads(line)
        told["supervisor"] = self.process.pid
        return told

    def __exit__(self, *exc: object) -> None:
        _, stderr = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0, stderr.decode()


def flags(site: Site, references: dict[str, str]) -> list[str]:
    return ["--profile", str(site.profile(references)), "--allow-cwd"]


def references(site: Site, store: str) -> dict[str, str]:
    return site.store_in_files() if store == "file" else ACCOUNTS


@pytest.mark.parametrize("store", ["secret service", "file"])
def test_the_child_never_holds_the_key(site: Site, desktop: dict[str, str], store: str) -> None:
    with Working(site, flags(site, references(site, store)), site.agent("ask", "8", "2"), desktop) as told:
        assert told["statuses"] == {"200": 8}
        assert not any(key in json.dumps(told["environment"]) for key in KEYS.values())
        for key in KEYS.values():
            assert memscan.scan(told["pid"], key.encode())[:2] == (0, 0)
        # The scan would have found it: it does find what the child does hold.
        token = told["environment"]["OPENAI_API_KEY"].encode()
        assert memscan.scan(told["pid"], token).full > 0


@pytest.mark.parametrize("store", ["secret service", "file"])
@pytest.mark.parametrize("requests", [0, 1000], ids=["at rest", "after 1000 requests"])
def test_the_supervisor_holds_the_key_once(site: Site, desktop: dict[str, str], store: str, requests: int) -> None:
    if not READABLE_BY_ROOT:
        pytest.skip("only root can read the supervisor's memory; that others cannot is a test of its own")
    plain = {"NONO_SECRET_MEMORY": secretmem.MLOCK} | desktop
    with Working(site, flags(site, references(site, store)), site.agent("ask", str(requests), "16"), plain) as told:
        assert sum(told["statuses"].values()) == requests - requests % 16
        copies = memscan.scan(told["supervisor"], KEY)
        assert (copies.full, copies.partial) == (1, 0)


def test_secret_memory_cannot_be_read_even_by_root(site: Site, desktop: dict[str, str]) -> None:
    if secretmem.secret_memory_kind() != "memfd_secret":
        pytest.skip("this kernel has no memfd_secret")
    if not READABLE_BY_ROOT:
        pytest.skip("needs root")
    with Working(site, flags(site, dict(ACCOUNTS)), site.agent("ask", "32", "4"), desktop) as told:
        copies = memscan.scan(told["supervisor"], KEY)
        assert (copies.full, copies.partial) == (0, 0)
        assert any("secretmem" in name for name in copies.unreadable)


def test_the_supervisor_cannot_be_read_by_its_own_user(site: Site) -> None:
    if READABLE_BY_ROOT:
        pytest.skip("root may read everything")
    with Working(site, flags(site, site.store_in_files()), site.agent("ask", "0", "0"), {}) as told:
        for name in ("mem", "environ", "maps"):
            with pytest.raises(PermissionError):
                Path(f"/proc/{told['supervisor']}/{name}").read_bytes()


def test_no_key_is_left_after_the_run(site: Site, desktop: dict[str, str]) -> None:
    """In a process that goes on living after the run, as nobody's does but a test's."""
    script = (
        "import sys, nono.cli\n"
        "status = nono.cli.run(sys.argv[1:])\n"
        "import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: let the test look\n"
        "print('over', status, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = site.agent("ask", "160", "16")
    run = [sys.executable, "-c", script, "run", *flags(site, dict(ACCOUNTS)), "--", "/bin/sh", "-c",
           'exec "$0" "$@" </dev/null >/dev/null', *command]  # fmt: skip
    environment = {**site.environment, **desktop, "NONO_SECRET_MEMORY": secretmem.MLOCK}
    with subprocess.Popen(
        run, cwd=site.work, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"over 0\n"
        copies = memscan.scan(process.pid, KEY)
        assert (copies.full, copies.partial) == (0, 0)
    assert len(site.upstream.received) == 160


def test_no_file_that_the_child_can_read_holds_a_key(site: Site, desktop: dict[str, str]) -> None:
    site.store_in_files()
    installed = {"/usr", "/lib", "/lib64", "/bin", "/sbin", sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")}
    process = site.start(
        flags(site, dict(ACCOUNTS)), site.agent("read_everything", *sorted(installed)), environment=desktop
    )
    content, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr.decode()
    assert b"orders" not in content
    assert str(site.work).encode() in content  # it could read something
    for key in KEYS.values():
        assert key.encode() not in content
