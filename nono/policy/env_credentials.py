"""--env-credential and --env-credential-map: real keys that the agent gets in its environment.

Pure: names in, (reference, variable) pairs out; what a reference is, nono/credentials/reference.py knows. It is the
opposite of what nono is for, so it is never implied: a flag or a profile names each, and the summary warns of each.
No text of the command line is quoted in an error, for it may be a key that was pasted in the place of its name.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from nono.errors import UsageError
from nono.policy.environment import is_variable
from nono.policy.network import builtin_routes, select_routes
from nono.policy.routes import Route
from nono.policy.variables import BASE, is_hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def env_credentials(
    names: Iterable[str],
    mapped: Iterable[tuple[str, str]],
    custom: Mapping[str, Mapping[str, Any]],
    routes: Iterable[Route],
    own: Container[str],
) -> tuple[tuple[str, str], ...]:
    """Return (reference, variable) for each key that the agent shall hold.

    names: of built-in or custom credentials, which bring their first variable, or of stored keys, whose variable is the
    name in upper case. mapped: pairs that say both. routes: those of the run, whose variables hold the token. own: the
    variables that nono sets. Raises UsageError.
    """
    pairs: dict[str, str] = {}
    routes = tuple(routes)
    for reference, variable in (*(_named(name, custom) for name in names), *mapped):
        _check(variable, routes, own)
        if pairs.setdefault(variable, reference) != reference:
            raise UsageError(f"--env-credential: two keys are to stand in {variable}; leave one of them out")
    return tuple((reference, variable) for variable, reference in pairs.items())


def _named(name: str, custom: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    if name in custom or name in builtin_routes():
        (route,) = select_routes([name], custom)
        return route.credential_key, route.env_vars[0]
    variable = name.upper()
    for letter in "-.@":
        variable = variable.replace(letter, "_")
    if not (variable.isascii() and variable.isidentifier()):
        raise UsageError(
            "--env-credential takes names, NAME[,NAME…]: of a credential (openai) or of a stored key that is also one "
            "of a variable; for any other write --env-credential-map REF VAR"
        )
    return name, variable


def _check(variable: str, routes: Iterable[Route], own: Container[str]) -> None:
    """Refuse a variable that means something else."""
    if not is_variable(variable) or not variable.isascii():
        raise UsageError("--env-credential-map takes REF VAR, and VAR is the name of an environment variable")
    for route in routes:
        if variable in route.env_vars:
            raise UsageError(
                f"--env-credential: {variable} holds the token of the credential '{route.name}' in this run, which "
                "keeps its key from the agent; leave one of them out"
            )
    if variable in own:
        raise UsageError(f"--env-credential: {variable} is set by nono itself in this run; choose another variable")
    if variable in BASE or is_hook(variable, ""):
        raise UsageError(f"--env-credential: {variable} means something else to programs; choose another variable")
