"""Names and addresses, with a real resolver in between: what is denied is not looked up, what is private not dialled.

A World's name server is asked by nono's own getaddrinfo and counts; where a name must not lead, somebody listens and
would see it (`canary`). The rules themselves are tested number by number in tests/proxy/test_pins.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import standins
from tests.e2e.world import METADATA, NETWORK_6, PRIVATE, World
from tests.fakes import Upstream
from tests.runs import Site, require_command


class Machine(NamedTuple):
    """A machine and a user of it."""

    world: World
    site: Site

    def curl(self, *urls: str, flags: list[str]) -> subprocess.CompletedProcess[str]:
        """Ask for each URL in turn, in one sandbox."""
        script = " && ".join(f"curl -sS {url}" for url in urls)
        command = [require_command("sh"), "-c", script]
        return self.site.run([*flags, "--allow-cwd"], command, wrap=self.world.enter(self.site.work))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    require_command("curl")
    with World(tmp_path / "world") as world, Site(tmp_path / "site") as site:
        yield Machine(world, site)


def untouched(canary: Upstream) -> bool:
    return not canary.connections and not canary.errors


def test_a_denied_name_causes_no_look_up(machine: Machine) -> None:
    page = machine.world.serve("www.example.org", standins.page)
    flags = ["--allow-domain", "www.example.com"]
    for url in ("http://www.example.org/", "https://www.example.org/"):
        done = machine.curl(url, flags=flags)
        assert "--allow-domain www.example.org" in done.stdout if url.startswith("http:") else "403" in done.stderr
    assert untouched(page)
    assert not machine.world.dns.queries
    done = machine.curl("https://www.example.org/", flags=["--allow-domain", "www.example.org"])
    assert done.stdout == standins.SAYS, done.stderr
    assert machine.world.dns.asked("www.example.org")


@pytest.mark.parametrize("address", [PRIVATE, METADATA, "127.0.0.1", "::1", f"::ffff:{PRIVATE}"])
def test_a_name_of_a_suffix_that_turns_private_is_refused(machine: Machine, address: str) -> None:
    world = machine.world
    canary = world.serve("canary", standins.page, address=address.removeprefix("::ffff:"))
    world.dns.names["rebind.example.org"] = [address]
    done = machine.curl("https://rebind.example.org/", flags=["--allow-domain", ".example.org"])
    assert done.returncode != 0
    assert "403" in done.stderr
    assert world.dns.asked("rebind.example.org")
    assert untouched(canary)


def test_a_name_that_turns_private_later_keeps_its_first_address(machine: Machine) -> None:
    world = machine.world
    page = world.serve("rebind.example.org", standins.page)
    canary = world.serve("canary", standins.page, address="127.0.0.1")
    world.dns.names["rebind.example.org"] = [[page.host], ["127.0.0.1"]]
    done = machine.curl(*3 * ["https://rebind.example.org/"], flags=["--allow-domain", ".example.org"])
    assert done.stdout == 3 * standins.SAYS, done.stderr
    assert untouched(canary)


def test_of_a_name_with_both_only_the_public_address_is_dialled(machine: Machine) -> None:
    world = machine.world
    page = world.serve("mixed.example.org", standins.page)
    canary = world.serve("canary", standins.page, address=PRIVATE)
    world.dns.names["mixed.example.org"] = [PRIVATE, page.host, "::1"]
    done = machine.curl("https://mixed.example.org/", flags=["--allow-domain", ".example.org"])
    assert done.stdout == standins.SAYS, done.stderr
    assert untouched(canary)


def test_a_name_that_has_an_ipv6_address_only(machine: Machine) -> None:
    world = machine.world
    try:
        page = world.serve("six.example.org", standins.page, address=f"{NETWORK_6}1")
    except OSError:
        pytest.skip("IPv6 is missing")
    world.dns.names["six.example.org"] = [f"{NETWORK_6}1"]
    done = machine.curl("https://six.example.org/", flags=["--allow-domain", "six.example.org"])
    assert done.stdout == standins.SAYS, done.stderr
    assert page.requests
