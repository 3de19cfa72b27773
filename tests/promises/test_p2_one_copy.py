"""P2: the supervisor holds each key once, in locked memory that nobody can dump; after the run there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nono.kernel import secretmem
from tests import memscan
from tests.runs import ACCOUNTS, KEYS, Site

IS_ROOT = os.geteuid() == 0  # nobody else may read the memory of a process that is not dumpable
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can read the supervisor's memory")
KEY = KEYS["openai"].encode()
# The kernel shows the pages of this kind to root; those of memfd_secret to nobody.
IN_LOCKED_MEMORY = {"NONO_SECRET_MEMORY": secretmem.MLOCK}


def flags(site: Site, store: str) -> list[str]:
    references = ACCOUNTS if store == "secret service" else site.store_in_files()
    return ["--profile", str(site.profile(references)), "--allow-cwd"]


@needs_root
@pytest.mark.parametrize("store", ["secret service", "file"])
@pytest.mark.parametrize("requests", [0, 1008], ids=["at rest", "after 1008 requests on 16 connections"])
def test_the_supervisor_holds_the_key_once(site: Site, desktop: dict[str, str], store: str, requests: int) -> None:
    environment = {**desktop, **IN_LOCKED_MEMORY}
    with site.working(flags(site, store), site.agent("ask", str(requests), "16"), environment=environment) as told:
        assert told["statuses"] == ({"200": requests} if requests else {})
        for key in KEYS.values():
            copies = memscan.scan(told["supervisor"], key.encode())
            assert (copies.full, copies.partial) == (1, 0)


@needs_root
@pytest.mark.skipif(secretmem.secret_memory_kind() != secretmem.MEMFD_SECRET, reason="this kernel has no memfd_secret")
def test_with_memfd_secret_not_even_root_can_read_it(site: Site, desktop: dict[str, str]) -> None:
    with site.working(flags(site, "file"), site.agent("ask", "32", "4"), environment=desktop) as told:
        copies = memscan.scan(told["supervisor"], KEY)
        assert (copies.full, copies.partial) == (0, 0)
        assert any("secretmem" in name for name in copies.unreadable)


@pytest.mark.skipif(IS_ROOT, reason="root may read everything")
def test_its_own_user_cannot_read_the_supervisor(site: Site) -> None:
    with site.working(flags(site, "file"), site.agent("ask", "0", "0")) as told:
        for name in ("mem", "environ", "maps"):
            with pytest.raises(PermissionError):
                Path(f"/proc/{told['supervisor']}/{name}").read_bytes()


LIVES_ON = """\
import sys, nono.cli, nono.kernel.process
status = nono.cli.run(sys.argv[1:])
nono.kernel.process.set_dumpable(True)  # let the test look
print("over", status, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("store", ["secret service", "file"])
def test_no_key_is_left_after_the_run(site: Site, desktop: dict[str, str], store: str) -> None:
    """In a process that lives on after its run, as nobody's does but a test's."""
    python = ["--read", sys.prefix, "--read", sys.base_prefix]
    agent = ["/bin/sh", "-c", 'exec "$0" "$@" </dev/null >/dev/null', *site.agent("ask", "160", "16")]
    with subprocess.Popen(
        [sys.executable, "-c", LIVES_ON, "run", *flags(site, store), *python, "--", *agent],
        cwd=site.work,
        env={**site.environment, **desktop, **IN_LOCKED_MEMORY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"over 0\n"
        for key in KEYS.values():
            copies = memscan.scan(process.pid, key.encode())
            assert (copies.full, copies.partial) == (0, 0)
    assert len(site.upstream.received) == 160


def test_nothing_secret_is_printed_or_written(site: Site) -> None:
    with site.working([*flags(site, "file"), "-v"], site.agent("ask", "3", "1"), stderr=subprocess.PIPE) as told:
        command_line = Path(f"/proc/{told['supervisor']}/cmdline").read_bytes().decode()
    done = site.run([*flags(site, "file"), "--dry-run", "-v"], ["true"])
    for secret in (*KEYS.values(), told["environment"]["OPENAI_API_KEY"]):
        assert secret not in site.audit_log() + command_line + done.stdout + done.stderr
    assert len(site.exchanges()) == 3
