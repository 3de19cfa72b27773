"""One throw-away authority for all tests of the proxy; proxies with a route, and one that intercepts."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.fakes import Authority, Upstream
from tests.proxy.harness import RunningProxy, route
from tests.proxy.interception import HOST, Net, api_route

if TYPE_CHECKING:
    from nono.proxy.authority import Authority as SessionAuthority


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


@pytest.fixture(scope="module")
def session_authority() -> SessionAuthority:
    from nono.proxy.authority import Authority as SessionAuthority  # here, because it needs the extra `intercept`

    return SessionAuthority()


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def api(authority: Authority) -> Iterator[Upstream]:
    """The route's upstream, by its real name."""
    with Upstream(context=authority.server_context(HOST)) as running:
        yield running


@pytest.fixture
def intercepting(
    api: Upstream, authority: Authority, session_authority: SessionAuthority, net: Net
) -> Iterator[RunningProxy]:
    """A proxy with a route to `api`, whose TLS it ends."""
    with RunningProxy([api_route(api, authority)], intercept=session_authority, pins=net.pins) as running:
        yield running
