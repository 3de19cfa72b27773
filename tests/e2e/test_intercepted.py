"""Real clients behind interception: each trusts the session's own authority, by one of the variables that nono sets.

A URL with a path in --allow-domain has TLS of that host intercepted, so that paths can be judged. Beyond it TLS is
verified by nono: against the system's certificates, to which the machine's authority belongs. Java reads none of the
variables, and is not here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import standins, test_clients
from tests.e2e.test_clients import CLIENTS, CODE, INDEX, PAGE, REGISTRY, Client
from tests.e2e.world import World
from tests.fakes import Authority
from tests.runs import Site, require_command

FLAGS = ["--allow-cwd", "--read", str(CLIENTS), "--read", sys.prefix, "--read", sys.base_prefix]


class Sandboxed(NamedTuple):
    """As test_clients.Proxied, but that a client runs in the sandbox, and is told of no certificates but by nono."""

    world: World
    site: Site

    def run(self, command: list[str], *, token: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        assert token
        hosts = (PAGE, f"{CODE}/acme", INDEX, REGISTRY)
        return self.nono(command, *(f"https://{host}/**" for host in hosts), **more)

    def nono(self, command: list[str], *allowed: str, **more: str) -> subprocess.CompletedProcess[str]:
        flags = [*FLAGS, *(word for url in allowed for word in ("--allow-domain", url))]
        return self.site.run(flags, command, wrap=self.world.enter(self.site.work), environment=more)


@pytest.fixture
def sandboxed(tmp_path: Path) -> Iterator[Sandboxed]:
    with World(tmp_path / "world") as world, Site(tmp_path / "site") as site:
        standins.make_repository(tmp_path / "repositories" / "acme" / "widgets.git")
        standins.make_repository(tmp_path / "repositories" / "other" / "widgets.git")
        world.serve(PAGE, standins.page)
        world.serve(CODE, standins.git_server(tmp_path / "repositories"))
        world.serve(INDEX, standins.package_index())
        world.serve(REGISTRY, standins.npm_registry(f"https://{REGISTRY}"))
        (site.home / ".npmrc").write_text("cafile=/etc/ssl/certs/ca-certificates.crt\n")  # as companies set it
        yield Sandboxed(world, site)


@pytest.mark.parametrize(
    "client",
    [test_clients.curl, test_clients.git, test_clients.pip, test_clients.npm, test_clients.node_fetch,
     test_clients.undici, test_clients.go],
)  # fmt: skip
def test_client_trusts_the_sessions_authority(sandboxed: Sandboxed, client: Client) -> None:
    done = client(sandboxed, True)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    assert standins.SAYS in done.stdout


def test_the_certificate_is_the_sessions_own(sandboxed: Sandboxed) -> None:
    command = [require_command("curl"), "-sSv", f"https://{PAGE}/"]
    inside = sandboxed.nono(command, f"https://{PAGE}/**").stderr
    assert "nono" in next(line for line in inside.splitlines() if "issuer:" in line)
    tunnelled = sandboxed.nono(command, PAGE).stderr
    assert "throw-away" in next(line for line in tunnelled.splitlines() if "issuer:" in line)


def test_other_paths_are_refused_with_the_flag(sandboxed: Sandboxed) -> None:
    curl = [require_command("curl"), "-sSi", f"https://{PAGE}/private"]
    done = sandboxed.nono(curl, f"https://{PAGE}/docs/**")
    assert "HTTP/1.1 403" in done.stdout
    assert "--allow-domain" in done.stdout
    clone = [require_command("git"), "clone", f"https://{CODE}/other/widgets.git"]
    done = sandboxed.nono(clone, f"https://{CODE}/acme/**", GIT_TERMINAL_PROMPT="0")
    assert done.returncode != 0
    assert "error: 403" in done.stderr


def test_an_upstream_that_nobody_vouches_for_is_refused(sandboxed: Sandboxed, tmp_path: Path) -> None:
    (tmp_path / "stranger").mkdir()
    own = sandboxed.world.authority
    sandboxed.world.authority = Authority(str(tmp_path / "stranger"))
    try:
        page = sandboxed.world.serve("stranger.example-corp.test", standins.page)
    finally:
        sandboxed.world.authority = own
    curl = [require_command("curl"), "-sSi", "https://stranger.example-corp.test/"]
    done = sandboxed.nono(curl, "https://stranger.example-corp.test/**")
    assert "HTTP/1.1 502" in done.stdout
    assert "tls_certificate" in done.stdout
    assert not page.requests
