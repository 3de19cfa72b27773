"""The group as one run has it: what is known already, what is to be asked, what is left out and why."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from nono.policy.capabilities import PathDeny, PathGrant
from nono.policy.network import REGISTRIES
from nono.policy.resolve import Place, sensitive_paths
from nono.registries import cache, domain
from nono.registries.cache import Answer
from nono.registries.managers import Reach, Tool, survey

_NO_LANDLOCK = f"{REGISTRIES}: no package manager is asked, because this kernel has no Landlock to confine it with"


class Group:
    """`package_registries` for one run.

    tools: the managers that the user has. answers: by key, the known ones that are still good. stale: the tools that
    are to be asked, beside the start. closed: the paths that they cannot touch meanwhile. cannot_ask: why none is
    asked; "" when they are. hosts: the members that are known now. notes: for the user, who is left out.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        place: Place,
        grants: Iterable[PathGrant] = (),
        denies: Iterable[PathDeny] = (),
    ) -> None:
        """environment: the user's. grants, denies: the run's, which say what the agent can write."""
        self.state = place.state
        reach = Reach(place, grants, denies)
        self.tools = survey(environment, place, reach)
        self.closed = (*dict.fromkeys(deny.path for deny in sensitive_paths(place)), *reach.writable)
        asked = [tool for tool in self.tools if not tool.obstacle]
        known = cache.load(place.state)
        self.answers: dict[str, Answer] = {tool.key: known[tool.key] for tool in asked if tool.key in known}
        now = time.time()
        stale = [tool for tool in asked if tool.key not in known or known[tool.key].is_stale(now)]
        self.stale = stale if domain.is_available() else []
        self.cannot_ask = "" if len(self.stale) == len(stale) else _NO_LANDLOCK

    @property
    def hosts(self) -> tuple[str, ...]:
        """The members, as entries of the allowlist."""
        return tuple(dict.fromkeys(host.entry for answer in self.answers.values() for host in answer.hosts))

    @property
    def notes(self) -> list[str]:
        """A sentence on the managers that are asked for the first time, and one for each that is left out."""
        first = [tool.manager.name for tool in self.stale if tool.key not in self.answers]
        asked = (
            f"{REGISTRIES}: asking {', '.join(first)} where packages come from, in the background; until they answer, "
            "a request for a host that is not granted waits"
        )
        left_out = [_left_out(tool) for tool in self.tools if tool.obstacle]
        return [asked] * bool(first) + [self.cannot_ask] * bool(self.cannot_ask) + left_out


def _left_out(tool: Tool) -> str:
    sentence = f"{REGISTRIES}: {tool.manager.name} is left out, because {tool.obstacle}"
    return f"{sentence}; name its registry with --allow-domain"
