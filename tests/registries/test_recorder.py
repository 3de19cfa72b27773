"""The proxy that refuses everything and notes what it was asked for."""

from __future__ import annotations

import base64
import os
import socket
import time
from urllib.parse import urlsplit

import pytest

from nono.registries.recorder import Recorder


def send(recorder: Recorder, request: bytes, token: str | None = None) -> bytes:
    proxy = urlsplit(recorder.proxy_url)
    credentials = base64.b64encode(f"{proxy.username}:{token or proxy.password}".encode())
    with socket.create_connection((proxy.hostname, proxy.port), timeout=10) as connection:
        answer = b""
        try:
            connection.sendall(request.replace(b"TOKEN", credentials))
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(4096):
                answer += part
        except OSError:
            pass  # it hangs up when it has read enough
        return answer


def test_notes_tunnels_and_plain_requests_in_order_and_answers_nothing() -> None:
    with Recorder() as recorder:
        assert send(recorder, b"CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Basic TOKEN\r\n\r\n") == b""
        assert send(recorder, b"GET http://b.example/x HTTP/1.1\r\nproxy-authorization: basic TOKEN\r\n\r\n") == b""
        assert send(recorder, b"CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Basic TOKEN\r\n\r\n") == b""
        assert list(recorder.urls) == ["https://a.example:443", "http://b.example/x"]


def test_notes_nothing_without_the_token() -> None:
    with Recorder() as recorder:
        assert send(recorder, b"CONNECT a.example:443 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 407 ")
        wrong = b"CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Basic TOKEN\r\n\r\n"
        assert send(recorder, wrong, token="0" * 32).startswith(b"HTTP/1.1 407 ")
        assert not recorder.urls


@pytest.mark.parametrize("request_bytes", [b"", b"\r\n\r\n", b"\0" * 100, b"GET " + b"x" * 100_000, os.urandom(20_000)])
def test_survives_garbage(request_bytes: bytes) -> None:
    with Recorder() as recorder:
        send(recorder, request_bytes)
        send(recorder, b"CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Basic TOKEN\r\n\r\n")
        assert list(recorder.urls) == ["https://a.example:443"]


def test_who_says_nothing_holds_nobody_up() -> None:
    with Recorder() as recorder:
        proxy = urlsplit(recorder.proxy_url)
        idle = [socket.create_connection((proxy.hostname, proxy.port)) for _ in range(8)]
        start = time.monotonic()
        send(recorder, b"CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Basic TOKEN\r\n\r\n")
        assert list(recorder.urls) == ["https://a.example:443"]
        assert time.monotonic() - start < 4
        for each in idle:
            each.close()


def test_who_sends_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nono.registries.recorder._HEAD_S", 0.3)
    with Recorder() as recorder:
        proxy = urlsplit(recorder.proxy_url)
        with socket.create_connection((proxy.hostname, proxy.port)) as connection:
            connection.settimeout(0.1)
            start = time.monotonic()
            while time.monotonic() - start < 10:
                try:
                    connection.sendall(b"x")
                    if connection.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            assert time.monotonic() - start < 10


def test_is_gone_afterwards() -> None:
    with Recorder() as recorder:
        pass
    with pytest.raises(OSError):
        send(recorder, b"")


def test_its_variables_leave_no_host_out() -> None:
    recorder = Recorder()
    with recorder:
        variables = recorder.environment()
    assert variables["https_proxy"] == variables["HTTPS_PROXY"] == recorder.proxy_url
    assert variables["NO_PROXY"] == variables["no_proxy"] == ""
