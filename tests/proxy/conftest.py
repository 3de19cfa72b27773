"""One throw-away authority for all tests of the proxy."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from tests.fakes import Authority, Upstream
from tests.proxy.harness import RunningProxy, route


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(str(tmp_path_factory.mktemp("authority")))


@pytest.fixture(scope="session")
def server_context(authority: Authority) -> ssl.SSLContext:
    return authority.server_context()


@pytest.fixture
def upstream(server_context: ssl.SSLContext) -> Iterator[Upstream]:
    """The well-behaved upstream over TLS."""
    with Upstream(context=server_context) as running:
        yield running


@pytest.fixture
def proxy(upstream: Upstream, authority: Authority) -> Iterator[RunningProxy]:
    """A proxy with one route, `api`, to `upstream` with base path /v1."""
    with RunningProxy([route("api", upstream.url + "/v1", authority.ca)]) as running:
        yield running
