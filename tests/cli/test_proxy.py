"""`nono proxy`: the proxy alone, until it is told to stop."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.runs import KEYS, Site


@contextmanager
def serving(site: Site, *flags: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """A running `nono proxy --json`: what it printed, and its process."""
    profile = site.profile(site.store_in_files({"openai": KEYS["openai"]}))
    command = [sys.executable, "-m", "nono", "proxy", "--profile", str(profile), "--json", *flags]
    with subprocess.Popen(command, cwd=site.work, env=site.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline()), process
        finally:
            process.kill()


def ask(env: dict[str, str], token: str) -> tuple[int, bytes]:
    address, _, route = env["OPENAI_BASE_URL"].removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("POST", f"/{route}/chat/completions", b"{}", {"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_serves_with_the_variables_it_prints_until_sigterm(site: Site) -> None:
    with serving(site) as (line, process):
        assert line["env"]["OPENAI_BASE_URL"] == f"http://127.0.0.1:{line['port']}/openai"
        status, body = ask(line["env"], line["env"]["OPENAI_API_KEY"])
        assert status == 200, body
        assert KEYS["openai"].encode() not in body
        assert ask(line["env"], "0" * 64)[0] == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert [entry["status"] for entry in site.exchanges()] == [200, 401]


def test_ends_well_where_a_cleaner_of_tmp_was_quicker(site: Site) -> None:
    pytest.importorskip("cryptography")
    with serving(site, "--allow-domain", "https://paths.example/a/**") as (line, process):
        Path(line["env"]["SSL_CERT_FILE"]).unlink()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_prints_lines_for_a_shell_without_json(site: Site) -> None:
    profile = site.profile(site.store_in_files({"openai": KEYS["openai"]}))
    command = [sys.executable, "-m", "nono", "proxy", "--profile", str(profile)]
    with subprocess.Popen(command, cwd=site.work, env=site.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        names = [process.stdout.readline().partition("=")[0] for _ in range(10)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert {"HTTPS_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "NONO_PROXY_TOKEN"} <= set(names)


def test_says_which_proxy_it_goes_through(site: Site) -> None:
    command = [sys.executable, "-m", "nono", "proxy", "--network-profile", "minimal"]
    environment = {**site.environment, "https_proxy": "http://127.0.0.1:9"}
    with subprocess.Popen(
        command, cwd=site.work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stderr.readline() + process.stderr.readline()  # a note is folded
        assert " ".join(said.split()).endswith("the proxy 127.0.0.1:9 (https_proxy)")
        assert "127.0.0.1:9\n" not in process.stdout.readline(), "the agent's proxy is nono's"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        ([], 2, "no route to serve"),
        (["--credential", "nope"], 2, "unknown credential 'nope'"),
        (["--port", "x"], 2, "x is not a port"),
        (["--network-profile", "nope"], 2, "unknown network profile 'nope'"),
        (["--network-profile", "minimal", "--upstream-proxy", "nope"], 2, "write HOST:PORT"),
    ],
)
def test_refuses_to_serve(site: Site, flags: list[str], status: int, sentence: str) -> None:
    command = [sys.executable, "-m", "nono", "proxy", *flags]
    result = subprocess.run(command, cwd=site.work, env=site.environment, capture_output=True, text=True, check=False)
    assert result.returncode == status
    assert sentence in result.stderr
    assert result.stdout == ""


def test_a_port_in_use_is_said(site: Site) -> None:
    with serving(site) as (line, _):
        profile = site.vault / "profile.json"
        command = [sys.executable, "-m", "nono", "proxy", "--profile", str(profile), "--port", str(line["port"])]
        result = subprocess.run(
            command, cwd=site.work, env=site.environment, capture_output=True, text=True, check=False
        )
    assert result.returncode == 2
    assert "choose another" in result.stderr
