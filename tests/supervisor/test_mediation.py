"""Capabilities and wall → what the mediator may perform."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nono.kernel.spawn import MOUNT_BIND, MOUNT_NEW, Mount
from nono.policy.capabilities import (
    NETWORK_BLOCKED,
    NETWORK_OPEN,
    NETWORK_PROXY,
    SANDBOX_NAMESPACE,
    SANDBOX_NOTIFY,
    CapabilitySet,
    PathDeny,
)
from nono.sandbox.expansion import Entry
from nono.supervisor import mediation
from nono.supervisor.mediator import HOST_PORTS, OPEN_NETWORK, OWN_NETWORK, Rules


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`mediate` for these capabilities behind this wall, to its rules."""
    monkeypatch.setattr(mediation.mediator, "Mediator", lambda fd, rules, refused, recorder: rules)

    def make(wall: str, *mounts: tuple[str, str], denies: tuple[PathDeny, ...] = (), **capabilities: Any) -> Rules:
        everything = CapabilitySet((), denies, capabilities.pop("network", NETWORK_PROXY), (), "/")
        everything = everything._replace(**capabilities)
        plan = SimpleNamespace(wall=SimpleNamespace(name=wall), mounts=[Mount(kind, to, "/srv") for kind, to in mounts])
        expansion = SimpleNamespace(
            writable=("/project",), unix_sockets=[Entry(path, "other") for path in everything.unix_sockets]
        )
        return mediation.mediate(7, plan, expansion, everything, 4711, print)  # type: ignore[arg-type, return-value]

    return make


def test_the_hosts_network_is_ports(rules: Any) -> None:
    made = rules(SANDBOX_NOTIFY, open_ports=(80,), listen_ports=(81,), unix_sockets=("/run/s",))
    assert (made.network, made.ports, made.proxy_port) == (HOST_PORTS, {4711: 4711, 80: 80}, 4711)
    assert (made.listen_ports, made.unix_sockets, made.own_trees) == ((81,), ("/run/s",), ())
    blocked = rules(SANDBOX_NOTIFY, network=NETWORK_BLOCKED)
    assert (blocked.ports, blocked.proxy_port) == ({}, 0)


def test_a_network_of_its_own_and_an_open_one(rules: Any) -> None:
    assert rules(SANDBOX_NAMESPACE).network == OWN_NETWORK
    assert rules(SANDBOX_NAMESPACE, network=NETWORK_OPEN).network == OPEN_NETWORK
    assert rules(SANDBOX_NOTIFY, network=NETWORK_OPEN).network == OPEN_NETWORK


def test_own_sockets_stand_where_it_may_write_by_the_names_inside(rules: Any) -> None:
    assert rules(SANDBOX_NAMESPACE, own_sockets=True).own_trees == ("/project",)
    assert rules(SANDBOX_NAMESPACE, (MOUNT_NEW, "/proc"), own_sockets=True).own_trees == ("/project",)
    assert rules(SANDBOX_NAMESPACE, (MOUNT_BIND, "/tmp"), own_sockets=True).own_trees == ("/project", "/tmp")


def test_what_is_denied_holds_no_sockets_of_its_own_by_any_of_its_names(rules: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    made = rules(SANDBOX_NOTIFY, own_sockets=True, denies=(PathDeny(str(tmp_path / "link"), "agents"),))
    assert sorted(made.denied) == sorted((str(tmp_path / "link"), os.path.realpath(tmp_path / "link")))
