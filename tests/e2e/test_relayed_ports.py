"""--open-port and --listen-port in real runs: an agent and its machine's services, an agent's server and its user."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.runs import TIMEOUT_S, Site, require_command

direct = build_opener(ProxyHandler({})).open  # whatever proxy the tests themselves are run behind


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"the host's service"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def service() -> Iterator[int]:
    """A web server on the host's loopback; yields its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield server.server_port
        server.shutdown()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def networks(site: Site) -> dict[str, list[str]]:
    return {"blocked": ["--block-net"], "proxy": ["--profile", str(site.profile(site.store_in_files()))]}


def audited(site: Site) -> list[dict[str, object]]:
    return [entry for entry in site.exchanges() if str(entry["method"]).endswith("-PORT")]


@pytest.mark.parametrize("network", ["blocked", "proxy"])
def test_curl_inside_reaches_a_service_of_this_machine_and_no_other(site: Site, network: str) -> None:
    curl = require_command("curl")
    with service() as port, service() as other:
        flags = [*networks(site)[network], "--open-port", str(port)]
        done = site.run(flags, [curl, "-sS", f"http://127.0.0.1:{port}/", f"http://localhost:{port}/"])
        assert (done.returncode, done.stdout) == (0, "the host's service" * 2), done.stderr
        assert str(port) in done.stderr.partition("wall")[0]
        assert site.run(flags, [curl, "-sS", f"http://127.0.0.1:{other}/"]).returncode == 7  # could not connect
        assert site.run(flags, [curl, "-sS", "--noproxy", "*", f"http://127.0.0.2:{port}/"]).returncode == 7
    entries = audited(site)
    assert {(entry["method"], entry["host"], entry["verdict"]) for entry in entries} == {
        ("OPEN-PORT", f"127.0.0.1:{port}", "allowed")
    }


def test_a_service_that_is_not_there_is_a_failure_at_once(site: Site) -> None:
    curl = require_command("curl")
    port = free_port()
    done = site.run(["--block-net", "--open-port", str(port)], [curl, "-sS", "-m", "20", f"http://127.0.0.1:{port}/"])
    assert done.returncode in (52, 56, 7), done.stderr  # an empty answer, or a reset
    assert audited(site)[0]["code"] == "connect_failed"


@pytest.mark.parametrize("network", ["blocked", "proxy"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1"])
def test_a_development_server_inside_is_reached_from_this_machine(site: Site, network: str, address: str) -> None:
    port = free_port()
    (site.work / "index.html").write_text("the agent's page")
    flags = [*networks(site)[network], "--allow-cwd", "--listen-port", str(port)]
    server = [sys.executable, "-I", "-u", "-m", "http.server", "--bind", address, str(port)]
    with site.start(flags, server, stdin=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        assert b"Serving HTTP" in run.stdout.readline()
        for _ in range(3):
            with direct(f"http://127.0.0.1:{port}/index.html", timeout=TIMEOUT_S) as answer:
                assert answer.read() == b"the agent's page"
        run.terminate()
        run.communicate(timeout=TIMEOUT_S)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    assert [entry["method"] for entry in audited(site)] == ["LISTEN-PORT"] * 3


def test_both_ways_in_one_run(site: Site) -> None:
    """An agent's server that asks a service of the machine for each request."""
    port = free_port()
    with service() as opened:
        script = f"""
import http.client, socket
server = socket.create_server(("127.0.0.1", {port})); print(flush=True)
sock = server.accept()[0]
upstream = http.client.HTTPConnection("127.0.0.1", {opened}); upstream.request("GET", "/")
sock.recv(64); sock.sendall(b"inside: " + upstream.getresponse().read())
"""
        flags = ["--block-net", "--listen-port", str(port), "--open-port", str(opened)]
        with site.start(flags, [sys.executable, "-I", "-c", script]) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"\n"
            with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock, sock.makefile("rb") as answer:
                sock.sendall(b"hello")
                assert answer.read() == b"inside: the host's service"
            assert run.wait(TIMEOUT_S) == 0


def test_what_a_short_command_sent_arrives_although_it_has_ended(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port})).sendall(b'x' * 500_000)"
        done = site.run(["--block-net", "--open-port", str(port)], [sys.executable, "-I", "-S", "-c", script])
        assert done.returncode == 0, done.stderr
        server.settimeout(TIMEOUT_S)
        with server.accept()[0] as connection:
            got = 0
            while piece := connection.recv(1 << 16):
                got += len(piece)
    assert got == 500_000


def test_relays_end_with_the_run_and_leave_it_its_status(site: Site) -> None:
    with service() as port:
        script = f"import socket, sys; s = socket.create_connection(('127.0.0.1', {port})); sys.exit(7)"
        done = site.run(["--block-net", "--open-port", str(port)], [sys.executable, "-I", "-c", script])
    assert done.returncode == 7


def refused(site: Site, *flags: str) -> str:
    """Return why a run with these flags is not started."""
    mark = site.work / "mark"
    done = site.run(["--allow-cwd", *flags], ["touch", str(mark)])
    assert done.returncode == 2
    assert not mark.exists()
    return done.stderr.splitlines()[-1]


def test_what_cannot_work_is_refused_before_the_start(site: Site, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = str(server.getsockname()[1])
        assert f"--listen-port {taken}: Address already in use" in refused(site, "--block-net", "--listen-port", taken)
    assert "--block-net" in refused(site, "--open-port", "5432")
    assert "below 1024" in refused(site, "--block-net", "--listen-port", "80")
    assert "leave one out" in refused(site, "--block-net", "--open-port", "3000", "--listen-port", "3000")
    proxied = ["--profile", str(site.profile(site.store_in_files())), "--proxy-port", "3000"]
    assert "another --proxy-port" in refused(site, *proxied, "--open-port", "3000")


def test_a_profile_names_ports_too(site: Site, tmp_path: Path) -> None:
    curl = require_command("curl")
    with service() as port:
        profile = tmp_path / "ports.json"
        profile.write_text(json.dumps({"meta": {"name": "ports"}, "network": {"block": True, "open_port": [port]}}))
        done = site.run(["--profile", str(profile)], [curl, "-sS", f"http://127.0.0.1:{port}/"])
    assert (done.returncode, done.stdout) == (0, "the host's service"), done.stderr
