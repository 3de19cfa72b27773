"""What a run is about to do, for the user: said before it starts, by whoever carries it out."""

from __future__ import annotations

from collections.abc import Mapping

from nono.credentials.loading import Credential
from nono.policy.capabilities import CapabilitySet, PathGrant
from nono.policy.environment import ChildEnvironment
from nono.record import Record
from nono.sandbox.plan import Plan
from nono.session.policy import Decision, Order


class Summary(Record):
    """What the child may do, for the user.

    routes: (name, upstream host, where its key came from). intercepts: TLS is intercepted, where it is wanted. leaks:
    what this wall does not stop. exposed: variables with secrets that the profile lets through. limits: lines.
    origins: who wrote what (policy/inherit.py). trust: rows on signed files, (label, text) each.
    """

    argv: tuple[str, ...]
    capabilities: CapabilitySet
    grants: tuple[PathGrant, ...]
    routes: tuple[tuple[str, str, str], ...]
    withheld: tuple[str, ...]
    added_variables: tuple[str, ...]
    notes: tuple[str, ...]
    wall: str
    intercepts: bool = False
    leaks: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    origins: Mapping[tuple[str, str], str] = {}
    trust: tuple[tuple[str, str], ...] = ()


def summarize(
    order: Order,
    decision: Decision,
    capabilities: CapabilitySet,
    plan: Plan,
    variables: ChildEnvironment,
    credentials: Mapping[str, Credential],
    environment: Mapping[str, str],
) -> Summary:
    """Return what the user is told. environment: his own, of which `variables` are what the agent gets."""
    routes = []
    for route in capabilities.routes:
        host = route.upstream.partition("://")[2].partition("/")[0]
        routes.append((route.name, host, credentials[route.name].store if route.name in credentials else ""))
    added = (name for name, value in variables.variables.items() if environment.get(name) != value)
    return Summary(
        argv=order.argv, capabilities=capabilities, grants=plan.grants, routes=tuple(routes),
        withheld=variables.withheld, added_variables=tuple(sorted(added)), notes=plan.notes, wall=plan.text,
        leaks=plan.leaks, exposed=variables.exposed,
        origins=decision.inherited.origins if decision.inherited is not None else {},
    )  # fmt: skip
