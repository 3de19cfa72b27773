"""P4: through the proxy only the routes' upstreams; what is dialled was checked; a denied name is not looked up.

What an address is worth (link-local, metadata, private, mapped) is tested number by number in tests/proxy. Here a real
run is watched from inside the supervisor: `sitecustomize` writes down every name that is looked up and every address
that is dialled.
"""

from __future__ import annotations

import json

import pytest

from tests.runs import Site, lines

WATCH = """
import os, _socket
def note(*words):
    with open(os.environ["WATCHED"], "a") as file:
        print(*words, file=file)
class Socket(_socket.socket):
    __slots__ = ()
    def connect(self, address):
        note("connect", address[0])
        return super().connect(address)
    def connect_ex(self, address):
        note("connect", address[0])
        return super().connect_ex(address)
_socket.socket = Socket  # before socket.socket is made of it
import socket
original = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    note("getaddrinfo", host)
    return original(host, *rest, **options)
socket.getaddrinfo = getaddrinfo
"""


def watched(
    site: Site, requests: list[str], network: dict[str, list[str]] | None = None, **upstreams: str
) -> tuple[list[dict[str, object]], list[str]]:
    """Let an agent send raw requests to the proxy; return its answers, and what nono looked up and dialled."""
    (site.directory / "watch").mkdir()
    (site.directory / "watch" / "sitecustomize.py").write_text(WATCH)
    log = site.directory / "watched"
    log.touch()
    profile = site.profile(site.store_in_files(), upstreams=upstreams, **(network or {}))
    command = site.agent("proxied", *requests)
    environment = {"PYTHONPATH": str(site.directory / "watch"), "WATCHED": str(log)}
    done = site.run(["--profile", str(profile), "--allow-cwd"], command, environment=environment)
    assert done.returncode == 0, done.stderr
    return lines(done.stdout), log.read_text().splitlines()


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT example.org:443",
        "CONNECT 169.254.169.254:80",
        "CONNECT [::ffff:169.254.169.254]:80",
        "GET http://metadata.google.internal/computeMetadata/v1/",
        "GET http://169.254.169.254/latest/meta-data/",
        "GET http://127.0.0.2:22/",
    ],
)
def test_a_host_without_a_route_is_refused_and_never_looked_up(site: Site, request_line: str) -> None:
    (answer,), seen = watched(site, [request_line])
    assert answer["status"] == 403
    assert answer["code"]
    host = request_line.split()[1].removeprefix("http://").partition("/")[0].rpartition(":")[0] or "metadata"
    assert not [line for line in seen if host.strip("[]") in line]


def test_the_watch_sees_what_is_dialled(site: Site) -> None:
    (answer,), seen = watched(site, ["GET /openai/models"])
    assert answer["code"] is None, "the upstream's own answer"
    assert [line for line in seen if line.startswith(("connect 127.0.0.1", "connect ::1"))]


@pytest.mark.parametrize(
    "upstream", ["https://169.254.169.254/v1", "https://[fd00:ec2::254]/v1", "https://100.100.100.200"]
)
def test_a_route_to_a_metadata_address_is_never_dialled(site: Site, upstream: str) -> None:
    (answer,), seen = watched(site, ["GET /openai/models"], openai=upstream)
    assert answer["status"] in (403, 502), json.dumps(answer)
    address = upstream.removeprefix("https://").partition("/")[0].strip("[]")
    assert not [line for line in seen if line.startswith("connect") and address in line]


HOSTS = {
    "allow_domain": ["*.invalid", "*.internal", "a.invalid:8443"],
    "deny_domain": ["*.bad.invalid", "worse.invalid"],
}


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT x.bad.invalid:443",
        "CONNECT worse.invalid:443",
        "CONNECT WORSE.invalid.:443",
        "CONNECT evilinvalid:443",
        "CONNECT invalid:443",
        "CONNECT a.invalid:22",
        "CONNECT b.invalid:8443",
        "CONNECT b.invalid:80",
        "GET http://b.invalid:8080/",
        "CONNECT metadata.google.internal:443",
        "GET http://metadata.google.internal/computeMetadata/v1/",
    ],
)
def test_an_allowlist_opens_nothing_beside_itself(site: Site, request_line: str) -> None:
    (answer,), seen = watched(site, [request_line], HOSTS)
    assert (answer["status"], answer["code"]) == (403, "host_denied")
    assert not [line for line in seen if "invalid" in line.lower() or "internal" in line]


def test_an_allowed_host_is_looked_up_and_no_other(site: Site) -> None:
    answers, seen = watched(site, ["CONNECT b.invalid:443", "CONNECT c.bad.invalid:443"], HOSTS)
    assert [answer["status"] for answer in answers] == [502, 403]
    assert {line for line in seen if "invalid" in line} == {"getaddrinfo b'b.invalid'"}
