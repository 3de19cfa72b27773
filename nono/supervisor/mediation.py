"""What the mediator may perform in one run: its rules, made of the capabilities and the wall that stands."""

from __future__ import annotations

import os
from collections.abc import Callable

from nono.policy.capabilities import NETWORK_OPEN, NETWORK_PROXY, SANDBOX_NAMESPACE, CapabilitySet
from nono.sandbox.expansion import Expansion
from nono.sandbox.mounts import has_own_tmp
from nono.sandbox.plan import Plan
from nono.supervisor import mediator
from nono.supervisor.denials import Denial
from nono.supervisor.mediator import Mediator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.supervisor.recorder import Recorder


def mediate(
    notify_fd: int,
    plan: Plan,
    expansion: Expansion,
    capabilities: CapabilitySet,
    port: int,
    refused: Callable[[Denial], None],
    recorder: Recorder | None = None,
) -> Mediator:
    """Perform from now on what the filter makes wait. notify_fd: owned from now on. recorder: of what only goes on."""
    if capabilities.network == NETWORK_OPEN:
        network = mediator.OPEN_NETWORK
    else:
        network = mediator.OWN_NETWORK if plan.wall.name == SANDBOX_NAMESPACE else mediator.HOST_PORTS
    reachable = capabilities.open_ports
    proxied = capabilities.network == NETWORK_PROXY
    rules = mediator.Rules(
        network=network,
        ports={each: each for each in ((port, *reachable) if proxied else reachable)},
        proxy_port=port if proxied else 0,
        listen_ports=capabilities.listen_ports,
        unix_sockets=tuple(entry.path for entry in expansion.unix_sockets),
        own_trees=_own_trees(plan, expansion) if capabilities.own_sockets else (),
        denied=tuple(
            {
                path
                for deny in capabilities.denies
                if not deny.is_link
                for path in (deny.path, os.path.realpath(deny.path))
            }
        ),
    )
    return mediator.Mediator(notify_fd, rules, refused, recorder)


def _own_trees(plan: Plan, expansion: Expansion) -> tuple[str, ...]:
    """Return what may be written, by its names inside.

    A /tmp of the child's own is one: it is made of the temporary directory and of what is granted in full.
    """
    return (*expansion.writable, "/tmp") if has_own_tmp(plan.mounts) else expansion.writable
