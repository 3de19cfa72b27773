"""The proxy alone, on the host's loopback, from its order to its end: `nono proxy`."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from nono.audit import facts
from nono.audit.log import AuditLog
from nono.credentials import env, phantom
from nono.credentials.loading import Loader
from nono.errors import UsageError
from nono.kernel import process
from nono.policy.capabilities import NETWORK_PROXY
from nono.policy.environment import child_environment
from nono.policy.resolve import Request, resolve
from nono.record import Record
from nono.session.parts import (
    UPSTREAM_PROXY,
    Parts,
    authority_of,
    make_proxy,
    profile_of,
    references_of,
    registries_of,
)
from nono.supervisor import guard
from nono.supervisor.job import Signals
from nono.supervisor.whereabouts import find_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.proxy.server import Exchange

_DRAIN_S = 5.0  # how long exchanges may take to end after the proxy was told to stop
_WARM_S = 0.25  # for which it waits, at most, for its first connections


class ServeOrder(Record):
    """What the user asked of `nono proxy`. port: on 127.0.0.1; 0 for any."""

    request: Request
    profile: str | None = None
    port: int = 0


def serve(
    order: ServeOrder,
    environment: Mapping[str, str],
    ready: Callable[[int, Mapping[str, str]], None],
    notice: Callable[[str], None],
    view: Callable[[Sequence[Exchange]], None] | None = None,
) -> int:
    """Run the proxy alone, on the host's loopback, until INT, TERM or HUP; return 0.

    For an agent that is isolated by other means: nothing confines it here, and whoever knows the token can use the
    proxy. ready: called once it serves, with the port and the variables to hand over. notice, view, errors: as `run`.
    """
    place = find_place(None, environment)
    inherited = profile_of(order.profile, order.request.extends, place)
    capabilities = resolve(order.request, inherited, place, (), environment)
    if capabilities.network != NETWORK_PROXY:
        raise UsageError(
            "the proxy has no route to serve; name one with --credential NAME, --network-profile NAME, "
            "--allow-domain HOST or in a profile"
        )
    guard.check_tls_files(capabilities.routes)
    references = references_of(capabilities)
    handed_over = env.hand_over(references.values())
    if (through := capabilities.upstream_proxy) is not None:
        notice(f"upstreams are reached through the proxy {through.host}:{through.port} ({through.origin})")
    process.set_dumpable(False)
    with Loader(place.state, handed_over, notice=notice) as loader, AuditLog(place.state, notice, view) as audit:
        loader.start(references)
        import socket

        from nono.loop import READ as READABLE
        from nono.loop import Loop

        gc.enable()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", order.port))
        except OSError as error:
            raise UsageError(f"--port {order.port}: {error.strerror}; choose another") from None
        listener.listen(4096)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        token = phantom.new_token()
        loop = Loop()
        registries = registries_of(capabilities, environment, place, notice)
        authority = authority_of(capabilities)
        credentials = loader.collect()
        guard.check_keys(capabilities.routes, credentials)
        run = Parts(capabilities, credentials, token, port, registries, authority)
        guard.check_upstream_credential(run.credentials.get(UPSTREAM_PROXY))
        with Signals() as signals:  # not before: ^C ends the wait for a keystore's dialog
            lineage = inherited.lineage if inherited is not None else ()
            audit.begin(facts.start_of((), "", capabilities, (), lineage, "none: the proxy alone"))
            audit.sync_beside()
            proxy = make_proxy(loop, listener.detach(), run, audit)

            def signalled(_: int) -> None:
                if {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} & set(signals.take()):
                    proxy.drain(_DRAIN_S, loop.stop)

            signal.signal(signal.SIGTSTP, signal.SIG_DFL)  # there is no child to stop first
            loop.register(signals.fd, READABLE, signalled)
            ca_bundle = f"{place.temporary_directory}/nono-ca-{os.urandom(8).hex()}.pem" if authority else ""
            if authority:
                authority.write_bundle(ca_bundle, environment)
            variables = child_environment(
                {}, network=NETWORK_PROXY, routes=capabilities.routes, proxy_port=port, token=token.decode(),
                ca_bundle=ca_bundle, no_proxy=capabilities.no_proxy,
            )  # fmt: skip
            # It serves already. But whoever reads this line sends at once, and should find warm connections.
            said = False

            def say() -> None:
                nonlocal said
                if not said:
                    said = True
                    ready(port, variables.variables)

            proxy.warm(say)
            loop.call_later(_WARM_S, say)
            try:
                loop.run()
            finally:
                proxy.close()
                if authority:
                    authority.remove_bundle(ca_bundle)
        audit.ended(0)
    return 0
