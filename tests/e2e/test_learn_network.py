"""`nono learn` and the network: hosts, credentials, and what goes past the proxy."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import standins
from tests.e2e.learning import again, learn, profile_of, script, text_of
from tests.e2e.learning import site as site
from tests.e2e.learning import wall as wall
from tests.e2e.world import METADATA, PRIVATE, World
from tests.runs import ACCOUNTS, TIMEOUT_S, Site, require_command


def test_without_a_network_nothing_is_reached(site: Site) -> None:
    done = learn(
        site, ["--block-net"], script(site, "import socket\nprint(socket.socket().connect_ex(('192.0.2.1', 80)))")
    )
    assert done.returncode == 0
    assert done.stdout != "0\n"
    assert profile_of(site)["network"] == {"block": True}
    assert "it has no network" in " ".join(done.stderr.split())


def test_connections_past_the_proxy_are_told(site: Site, wall: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        program = f"""
import socket
for address in (("127.0.0.1", {port}), ("192.0.2.1", 80)):
    with socket.socket() as sock:
        print(sock.connect_ex(address) != 0)
"""
        done = learn(site, wall, script(site, program))
        assert done.stdout == "True\nTrue\n", done.stderr
        text = text_of(site)
        assert re.search(rf"^ *// {port},$", text, re.MULTILINE), text
        assert "192.0.2.1:80" in text
        path = site.home / ".config" / "nono" / "profiles" / "test.jsonc"
        path.write_text(re.sub(r"^( *)// (\d+,)$", r"\1\2", text, flags=re.MULTILINE))
        assert again(site, wall, script(site, program)).stdout == "False\nTrue\n"


def test_credentials_and_a_profile_are_built_upon(site: Site) -> None:
    references = site.store_in_files()
    given = site.profile(references)
    (site.home / "prompt").write_text("hello")
    agent = site.agent("ask_once")
    command = ["/bin/sh", "-c", 'cat ~/prompt && exec "$@"', "sh", *agent]
    flags = ["--read", sys.prefix, "--read", sys.base_prefix]
    done = learn(site, ["-p", str(given), *flags], command)
    assert done.returncode == 0, done.stderr
    learned = profile_of(site)
    assert learned["extends"] == [str(given)]
    assert "~/prompt" in learned["filesystem"]["read_file"]
    assert not any(key in text_of(site) for key in ACCOUNTS.values() if key.startswith("sk-"))
    done = again(site, [], command)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    require_command("curl")
    with World(tmp_path / "world") as made:
        yield made


def test_hosts_are_learned_and_private_ones_refused(site: Site, world: World, wall: list[str]) -> None:
    page = world.serve("www.example.org", standins.page)
    plain = world.serve("plain.example.org", standins.page, port=80, tls=False)
    other = world.serve("other.example.org", standins.page, port=8443)
    canary = world.serve("private.example.org", standins.page, address=PRIVATE)
    world.dns.names["private.example.org"] = [PRIVATE]
    urls = [
        "https://www.example.org/",
        "http://plain.example.org/",
        "https://other.example.org:8443/",
        "https://private.example.org/",
        f"http://{METADATA}/latest/meta-data/",
        "https://missing.example.org/",
    ]
    fetch = "; ".join(f"curl -sS -m 10 {url}" for url in urls)
    nono = [*world.enter(site.work), sys.executable, "-m", "nono"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*nono, *arguments], env=site.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip

    done = run("learn", "--name", "test", *wall, "--", "/bin/sh", "-c", fetch)
    assert done.stdout.count(standins.SAYS) == 3, done.stderr
    assert not canary.connections
    assert page.connections
    assert plain.connections
    assert other.connections
    learned = profile_of(site)
    assert learned["network"] == {"allow_domain": ["other.example.org:8443", "plain.example.org", "www.example.org"]}
    text = text_of(site)
    for word in (METADATA, "missing.example.org", "private.example.org"):
        assert word in text
    done = run("run", "-p", "test", *wall, "--", "/bin/sh", "-c", "; ".join(f"curl -sS {url}" for url in urls[:3]))
    assert done.stdout.count(standins.SAYS) == 3, done.stderr
    refused = run("run", "-p", "test", *wall, "--", "/bin/sh", "-c", "curl -sS https://evil.example.org/")
    assert refused.returncode != 0


def test_package_managers_are_learned(site: Site, world: World) -> None:
    """pip and npm, from stand-ins: what they read of their own installation, their settings and caches; the hosts."""
    index, registry = "packages.example.org", "modules.example.org"
    world.serve(index, standins.package_index())
    world.serve(registry, standins.npm_registry(f"https://{registry}"))
    (site.home / ".config" / "pip").mkdir(parents=True)
    (site.home / ".config" / "pip" / "pip.conf").write_text(f"[global]\nindex-url = https://{index}/simple/\n")
    pip = f"{sys.executable} -m pip install -q --disable-pip-version-check --target there {standins.PACKAGE}"
    npm = f"npm install --silent --registry https://{registry} {standins.PACKAGE}"
    both = [pip, npm] if shutil.which("npm") else [pip]
    hosts = [registry, index] if shutil.which("npm") else [index]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*world.enter(site.work), sys.executable, "-m", "nono", *arguments], env=site.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip

    command = ["--", "/bin/sh", "-c", " && ".join(both)]
    done = run("learn", "--name", "test", "--read", sys.prefix, "--read", sys.base_prefix, *command)
    assert done.returncode == 0, done.stderr
    assert profile_of(site)["network"]["allow_domain"] == hosts
    made = site.work / "there" / f"{standins.PACKAGE}.py"
    assert standins.SAYS in made.read_text()
    shutil.rmtree(site.work / "there")
    shutil.rmtree(site.work / "node_modules", ignore_errors=True)
    done = run("run", "-p", "test", *command)
    assert done.returncode == 0, done.stderr + text_of(site)
    assert standins.SAYS in made.read_text()
