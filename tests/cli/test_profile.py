"""`nono profile groups`, and a run whose network profile holds package_registries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import Site

# 203.0.113.7 (RFC 5737) is no public address, so being granted shows, without a look-up, as another refusal.
GO = """#!/bin/sh
echo asked >> "$HOME/asked"
echo '{"GOPROXY": "https://203.0.113.7|https://10.1.2.3:8443/go", "GOSUMDB": "off"}'
"""
POLL = """
import http.client, os, sys, time, urllib.parse, base64
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
token = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
codes = []
for _ in range(300):
    connection = http.client.HTTPConnection(proxy.hostname, proxy.port)
    headers = {"Host": "203.0.113.7:443", "Proxy-Authorization": f"Basic {token}"}
    connection.request("CONNECT", "203.0.113.7:443", headers=headers)
    codes.append(connection.getresponse().getheader("x-nono-error"))
    if codes[-1] != "host_denied":
        break
    time.sleep(0.1)
print(codes[0], codes[-1])
"""


@pytest.fixture
def path(site: Site) -> Path:
    """The site's only PATH: a directory with a `go` of its own."""
    directory = site.home / "bin"
    directory.mkdir()
    (directory / "go").write_text(GO)
    (directory / "go").chmod(0o755)
    site.environment["PATH"] = f"{directory}:{site.home}/elsewhere"
    return directory


def groups(site: Site, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nono", "profile", "groups", *flags]
    result = subprocess.run(command, cwd=site.work, env=site.environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_lists_every_group_and_what_the_managers_said(site: Site, path: Path) -> None:
    result = groups(site)
    lines = result.stdout.splitlines()
    assert "llm_apis" in lines
    at, second = lines.index("package_registries"), "10.1.2.3:8443"
    assert lines[at + 1 : at + 7] == [
        "  pip    (not installed)",
        "  npm    (not installed)",
        "  cargo  (not installed)",
        f"  go     203.0.113.7  (the default of {path}/go; a private address, which needs --allow-domain 203.0.113.7)",
        f"         {second}  (the default of {path}/go; a private address, which needs --allow-domain {second})",
        "  maven  (not installed)",
    ]
    assert result.stderr == "nono  note        asking go where packages come from\n"


def test_asks_once_until_the_settings_change(site: Site, path: Path) -> None:
    groups(site)
    assert groups(site).stderr == ""
    (site.home / ".config/go").mkdir(parents=True)
    (site.home / ".config/go/env").write_text("GOPROXY=https://203.0.113.7")
    assert "asking go" in " ".join(groups(site).stderr.split())
    assert not (site.home / "asked").exists()  # where a manager cannot write


def test_json_names_each_host_with_its_source(site: Site, path: Path) -> None:
    (site.home / ".config/go").mkdir(parents=True)
    settings = site.home / ".config/go/env"
    settings.write_text("GOPROXY=https://203.0.113.7|https://10.1.2.3:8443")
    decoded = json.loads(groups(site, "--json").stdout)
    assert "api.openai.com" in decoded["llm_apis"]["hosts"]
    registries = decoded["package_registries"]
    assert registries["hosts"] == ["203.0.113.7", "10.1.2.3:8443"]
    go = next(manager for manager in registries["managers"] if manager["manager"] == "go")
    assert go == {
        "manager": "go",
        "command": f"{path}/go",
        "hosts": [
            {"host": "203.0.113.7", "source": str(settings), "reachable": False},
            {"host": "10.1.2.3:8443", "source": str(settings), "reachable": False},
        ],
        "note": "",
    }


def test_a_manager_in_the_working_tree_is_left_out(site: Site, path: Path) -> None:
    site.environment["PATH"] = f"{site.work}:{site.home}/elsewhere"
    (path / "go").rename(site.work / "go")
    assert f"  go     (left out: the agent may write {site.work})" in groups(site).stdout
    assert not (site.home / "asked").exists()


def test_a_first_run_gets_the_hosts_while_it_runs_and_the_next_at_once(site: Site, path: Path) -> None:
    flags = ["--network-profile", "developer"]
    first = site.run(flags, [sys.executable, "-I", "-c", POLL])
    assert first.stdout.split()[-1:] == ["address_denied"], first.stderr
    assert "package_registries: asking go where packages come from, in the background" in " ".join(first.stderr.split())
    second = site.run(flags, [sys.executable, "-I", "-c", POLL])
    assert second.stdout.split() == ["address_denied", "address_denied"], second.stderr
    assert "package_registries: " not in " ".join(second.stderr.split())


def test_a_run_that_could_steer_the_manager_does_not_get_its_hosts(site: Site, path: Path) -> None:
    groups(site)
    (site.home / ".config/go").mkdir(parents=True)
    once = POLL.replace("300", "3")
    flags = ["--network-profile", "developer", "--allow", str(site.home / ".config/go")]
    result = site.run(flags, [sys.executable, "-I", "-c", once])
    assert result.stdout.split() == ["host_denied", "host_denied"], result.stderr
    assert f"go is left out, because the agent may write {site.home}/.config/go/env" in " ".join(result.stderr.split())


def test_a_short_run_leaves_no_helper_behind(site: Site, path: Path) -> None:
    (path / "go").write_text("#!/bin/sh\n/bin/sleep 60\n")
    result = site.run(["--network-profile", "developer"], ["/bin/sleep", "1"])
    assert result.returncode == 0, result.stderr
    home = f"HOME={site.home}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            assert home not in environment.read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or not ours
