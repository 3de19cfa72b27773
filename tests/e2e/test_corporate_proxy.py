"""Out through a corporate proxy: tinyproxy, as Debian has it, is what nono's proxy connects through.

It stands at a private address, resolves names by itself, and may want a user and a password, which only nono knows.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import standins
from tests.e2e.corporate_proxy import CorporateProxy
from tests.e2e.world import METADATA, World
from tests.fakes import Upstream
from tests.runs import Site, require_command

PASSWORD = "corporate-Hn4Rv8BzKq6WcXt2LpYd9MjGs5"
PAGE = "https://www.example.org/"


class Company(NamedTuple):
    """A machine, a user of it, and a page of the internet."""

    world: World
    site: Site
    page: Upstream

    def nono(self, *arguments: str, stdin: str) -> None:
        command = [*self.world.enter(self.site.work), sys.executable, "-m", "nono", *arguments]
        subprocess.run(command, env=self.site.environment, input=stdin, capture_output=True, text=True, check=True)

    def curl(
        self, url: str, *flags: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        flags = ("--allow-cwd", "--allow-domain", "*.example.org", *flags)
        command = ["curl", "-sSi", url]
        return self.site.run(flags, command, wrap=self.world.enter(self.site.work), environment=environment or {})


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    for command in ("curl", "tinyproxy"):
        require_command(command)
    with World(tmp_path / "world") as world, Site(tmp_path / "site") as site:
        yield Company(world, site, world.serve("www.example.org", standins.page))


@pytest.mark.parametrize("said", ["flag", "environment"])
def test_a_tunnel_goes_through_the_corporate_proxy(company: Company, tmp_path: Path, said: str) -> None:
    with CorporateProxy(company.world, tmp_path) as proxy:
        flags = ["--upstream-proxy", proxy.address] if said == "flag" else []
        environment = {} if said == "flag" else {"HTTPS_PROXY": f"http://{proxy.address}"}
        done = company.curl(PAGE, *flags, environment=environment)
        assert standins.SAYS in done.stdout, done.stderr
        assert "CONNECT www.example.org:443" in proxy.log
        company.world.serve("plain.example.org", standins.page, port=80, tls=False)
        plain = company.curl("http://plain.example.org/", *flags, environment=environment)
        assert standins.SAYS in plain.stdout
        assert "CONNECT plain.example.org:80" in proxy.log
        denied = company.curl("https://www.example.com/", *flags, environment=environment)
        assert "response 403" in denied.stderr
        assert "example.com" not in proxy.log, "what is denied is not asked for there either"


def test_bypass_goes_around_it(company: Company, tmp_path: Path) -> None:
    with CorporateProxy(company.world, tmp_path) as proxy:
        done = company.curl(PAGE, "--upstream-proxy", proxy.address, "--upstream-bypass", "example.org")
        assert standins.SAYS in done.stdout, done.stderr
        assert "CONNECT www.example.org" not in proxy.log


def test_its_credential_is_sent_and_never_seen_inside(company: Company, tmp_path: Path) -> None:
    company.nono("credential", "set", "corporate", "--store", "file", stdin=f"me:{PASSWORD}")
    with CorporateProxy(company.world, tmp_path, credential=f"me:{PASSWORD}") as proxy:
        flags = ["--upstream-proxy", proxy.address]
        refused = company.curl(PAGE, *flags)
        assert "response 502" in refused.stderr
        assert "407" in company.site.audit_log()
        done = company.curl(PAGE, *flags, "--upstream-proxy-credential", "corporate")
        assert standins.SAYS in done.stdout, done.stderr
        seen = company.site.run(
            ["--allow-cwd", "--allow-domain", "*.example.org", *flags, "--upstream-proxy-credential", "corporate"],
            ["env"],
            wrap=company.world.enter(company.site.work),
        )
        assert seen.returncode == 0, seen.stderr
        assert PASSWORD not in seen.stdout + seen.stderr + proxy.log
        assert proxy.address not in seen.stdout


def test_its_refusal_is_a_502_that_says_who_refused(company: Company, tmp_path: Path) -> None:
    with CorporateProxy(company.world, tmp_path, only="intranet.example.org") as proxy:
        done = company.curl(PAGE, "--upstream-proxy", proxy.address)
        assert "response 502" in done.stderr
        plain = company.curl(PAGE.replace("https", "http"), "--upstream-proxy", proxy.address)
        assert "HTTP/1.1 502" in plain.stdout
        assert proxy.address in plain.stdout
        assert "ask whoever runs it" in plain.stdout
        assert not company.page.connections


def test_metadata_stays_denied_behind_it(company: Company, tmp_path: Path) -> None:
    company.world.dns.names["metadata.google.internal"] = [METADATA]
    canary = company.world.serve("metadata", standins.page, address=METADATA, port=80, tls=False)
    with CorporateProxy(company.world, tmp_path) as proxy:
        flags = ["--upstream-proxy", proxy.address, "--allow-domain", "*.google.internal"]
        done = company.curl("http://metadata.google.internal/computeMetadata/v1/", *flags)
        assert "HTTP/1.1 403" in done.stdout
        assert "metadata" not in proxy.log
        assert not canary.connections
