"""Putting up the wall: the strongest one that is to be had here, found by doing.

`put_up` plans a wall, lets the kernel prepare it (namespaces, mounts, listeners, the agent's terminal), and takes the
next one where that is refused, with a note that says what is missing. Nothing is started here: the agent comes later,
behind what was prepared.
"""

from __future__ import annotations

import os
from errno import EADDRINUSE, EPERM
from importlib import import_module

from nono.errors import KernelError
from nono.kernel import landlock
from nono.kernel.spawn import Prepared, TerminalSpec, prepare
from nono.kernel.spawn_errors import SpawnError
from nono.policy.capabilities import NETWORK_OPEN, SANDBOX_NAMESPACE, SANDBOX_NOTIFY, CapabilitySet
from nono.record import Record
from nono.sandbox import filesystem
from nono.sandbox.plan import Plan, make_plan, walls_to_try

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono.sandbox.bpf import Recorded
    from nono.sandbox.expansion import Expansion

# Where a wall is not to be had here, one of these fails. Whatever else fails would fail behind the next one as well.
_STEPS_OF_THE_WALL = ("clone", "setgroups", "uid_map", "gid_map", "loopback", "network", "mount")
# Above Linux's ephemeral ports (ip_local_port_range: 32768-60999) and the ports of development servers, so that it is
# in nobody's way.
_PROXY_PORTS = range(61000, 65536)
_ATTEMPTS = 20
_OWN_MULTIPLEXER, _HOST_MULTIPLEXER = "/dev/pts/ptmx", "/dev/ptmx"


class Standing(Record):
    """A wall that is prepared. port: the proxy's. expansion: what it was put around."""

    plan: Plan
    prepared: Prepared
    port: int
    expansion: Expansion


def put_up(
    expansion: Expansion,
    capabilities: CapabilitySet,
    *,
    temporary_directory: str,
    proxy_port: int | None,
    terminal: TerminalSpec | None,
    recorded: Recorded | None = None,
) -> Standing:
    """Prepare a wall around what `expansion` grants. proxy_port: None: any. recorded: see make_plan().

    expansion: of `capabilities`, for a wall with mounts; for one without, it is made anew where that matters.
    Raises SpawnError where none is to be had, KernelError where the kernel lacks Landlock; and as filesystem.expand().
    """
    missing: list[SpawnError] = []
    for wall in walls_to_try(capabilities.sandbox):
        if expansion.pinned and not wall.mounts:
            expansion = filesystem.expand(capabilities)
        for _ in range(_ATTEMPTS):
            port = proxy_port or _any_port((*capabilities.open_ports, *capabilities.listen_ports))
            plan = make_plan(
                expansion,
                landlock.abi(),
                os.uname().machine,
                wall,
                temporary_directory=temporary_directory,
                workdir=capabilities.workdir,
                connect_ports=(port, *capabilities.open_ports),
                bind_ports=capabilities.listen_ports,
                recorded=recorded,
            )
            if plan.judged:
                import_module("nono.kernel.notify").check()  # which few runs need
            if plan.judged and plan.wall.name == SANDBOX_NOTIFY:
                _check_yama(missing)
            try:
                prepared = _prepare(plan, capabilities, port, terminal)
            except SpawnError as error:
                if error.errno == EADDRINUSE and proxy_port is None:
                    continue  # on the host's loopback somebody may have it
                if error.step not in _STEPS_OF_THE_WALL:
                    raise
                missing.append(error)
                break
            return Standing(plan._replace(notes=(*plan.notes, *_notes(plan, missing))), prepared, port, expansion)
    raise missing[0]


def has_own_network(plan: Plan, network: str) -> bool:
    """Whether the agent's loopback is its own, so that ports have to be relayed."""
    return plan.wall.name == SANDBOX_NAMESPACE and network != NETWORK_OPEN


def _check_yama(missing: Sequence[SpawnError]) -> None:
    """Refuse a wall behind which every connect would fail: the supervisor may not duplicate the agent's sockets."""
    notify = import_module("nono.kernel.notify")
    scope = notify.yama_scope()
    if notify.yama_forbids(scope):
        first = f"{missing[0]} And the wall without namespaces" if missing else "The wall without namespaces"
        raise KernelError(
            "pidfd_getfd",
            EPERM,
            f"{first} is not to be had while Yama forbids ptrace (kernel.yama.ptrace_scope is {scope}): "
            f"{notify.yama_remedy(scope)}",
        )


def _prepare(plan: Plan, capabilities: CapabilitySet, port: int, terminal: TerminalSpec | None) -> Prepared:
    own_network = has_own_network(plan, capabilities.network)
    relayed = capabilities.open_ports if own_network else ()
    return prepare(
        namespaces=plan.namespaces,
        listen_ports=(port, *relayed) if plan.proxied else relayed,
        keep_network=own_network and bool(capabilities.listen_ports),
        mounts=plan.mounts,
        terminal=terminal,
        multiplexer=_OWN_MULTIPLEXER if plan.own_terminals else _HOST_MULTIPLEXER,
    )


def _notes(plan: Plan, missing: Sequence[SpawnError]) -> list[str]:
    """Say what the wall is without, and why."""
    if not missing or plan.wall.mounts:
        return []
    if plan.wall.name == SANDBOX_NAMESPACE:
        return [f"no mounts: the agent sees this machine's /proc, /tmp and /dev. {missing[0]}"]
    return [f"no namespaces: the agent sees this machine's /proc, /tmp, /dev and ports. {missing[-1]}"]


def _any_port(taken: Sequence[int]) -> int:
    """Return a port for the proxy that is not among `taken`."""
    while (port := _PROXY_PORTS[int.from_bytes(os.urandom(2)) % len(_PROXY_PORTS)]) in taken:
        pass
    return port
