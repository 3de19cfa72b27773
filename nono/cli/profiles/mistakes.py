"""Every mistake of a profile file that can be found at once, and what is worth a warning.

nono itself stops at the first mistake, which is enough not to start. Here each part of the file is checked on its own
with the same descriptions (policy/shape.py); what only the whole can tell (extends, groups, hosts, credentials) is
found by resolving it for this user, here and now. A path that does not exist, or stays closed, is a warning: on another
machine it may be otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from nono.cli.profiles import sources
from nono.credentials import reference
from nono.errors import NonoError, PolicyError
from nono.policy import groups, jsonc, profile
from nono.policy.allowlist import Allowlist
from nono.policy.capabilities import PathDeny, is_at_or_below
from nono.policy.inherit import BUILT_IN, Inherited, Source
from nono.policy.network import select_routes
from nono.policy.paths import Place, expand, unescaped
from nono.policy.protection import PROFILES_DENY
from nono.policy.resolve import PATH_FIELDS, Request, resolve, sensitive_paths
from nono.policy.shape import Each, Kind, Map, Maybe, Mistake, Shape, shown
from nono.session.policy import Order, decide

_TLS_FILES = ("tls_ca", "tls_client_cert", "tls_client_key")


class Findings(NamedTuple):
    """What is wrong with a file, and what may be; each begins with its JSON path where it has one."""

    name: str
    source: str
    mistakes: tuple[str, ...]
    warnings: tuple[str, ...]


def examine(name: str, place: Place, environment: Mapping[str, str]) -> Findings:
    """Return what there is to say about the profile called `name`, or in that file."""
    try:
        source = sources.read(name, place)
    except PolicyError as error:
        return Findings(name, "", (str(error),), ())
    label = name if source.path == BUILT_IN else source.path
    found = list(_of_text(source.text, label))
    warnings: list[str] = []
    if not found:
        try:
            inherited = sources.resolved(name, place)
        except NonoError as error:
            found.append(str(error))
        else:
            found += _of_whole(name, inherited, environment)
            warnings += _warnings(inherited, source, place)
    if source.path != BUILT_IN and os.stat(source.path).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        warnings.append(
            f"other users may write this file, and decide what your agents may do: chmod go-w {source.path}"
        )
    prefix = f"profile {label}: "
    return Findings(
        name,
        source.path,
        tuple(dict.fromkeys(text.removeprefix(prefix) for text in found)),
        tuple(dict.fromkeys(text.removeprefix(prefix) for text in warnings)),
    )


def _of_text(text: str, label: str) -> Iterator[str]:
    """Yield what is wrong with the file as it is written."""
    try:
        value = jsonc.loads(text, label)
    except PolicyError as error:
        yield str(error)
        return
    found = list(_mistakes(profile.SHAPE, value, ""))
    found += _of_credentials(value, found)
    yield from found
    try:
        profile.parse(text, label)
    except PolicyError as error:  # what no part tells, as a key that stands twice
        said = str(error).removeprefix(f"profile {label}: ")
        if said not in found:
            yield said


def _mistakes(kind: Kind, value: Any, at: str) -> Iterator[str]:
    if isinstance(kind, Maybe):
        if value is not None:
            yield from _mistakes(kind.kind, value, at)
    elif isinstance(kind, Shape) and isinstance(value, dict):
        for key, entry in value.items():
            member = kind.members.get(kind.names.get(key, ""))
            if member is not None and isinstance(entry, (dict, list)):
                yield from _mistakes(member.kind, entry, f"{at}.{key}" if at else key)
            else:
                yield from _first(kind, {key: entry}, at, but=f"{at or 'the top level'}: ")
        for name, member in kind.members.items():
            if member.needed and value.get(name) is None:
                yield f"{at or 'the top level'}: {name} is missing"
    elif isinstance(kind, Each) and type(value) is list and value:
        for index, entry in enumerate(value):
            place = f"{at}[{index}]"
            if isinstance(kind.kind, Shape) and isinstance(entry, dict):
                yield from _mistakes(kind.kind, entry, place)
            else:
                for text in _first(kind, [entry], at):
                    yield place + text.removeprefix(f"{at}[0]") if text.startswith(f"{at}[0]") else text
    elif isinstance(kind, Map) and isinstance(value, dict):
        for name, entry in value.items():
            if isinstance(kind.kind, Shape) and isinstance(entry, dict):
                yield from _mistakes(kind.kind, entry, f"{at}.{name}")
            else:
                yield from _first(kind, {name: entry}, at)
    else:
        yield from _first(kind, value, at)


def _first(kind: Kind, value: Any, at: str, but: str = "") -> Iterator[str]:
    """Yield the first mistake; `but`: not that something is missing there, where a part is looked at."""
    try:
        kind.check(value, at)
    except Mistake as mistake:
        text = str(mistake)
        if not (but and text.startswith(but) and text.endswith(" is missing")):
            yield profile.told(mistake)


def _of_credentials(value: Any, found: list[str]) -> Iterator[str]:
    """Yield what is wrong with the custom credentials and references of a file, where their shape is right."""
    network = value.get("network") if isinstance(value, dict) else None
    custom = network.get("custom_credentials") if isinstance(network, dict) else None
    for name, fields in custom.items() if isinstance(custom, dict) else ():
        place = f"network.custom_credentials.{name}"
        if any(text.startswith(place) for text in found):
            continue
        route = profile.make({"network": {"custom_credentials": {name: fields}}}).custom_routes()
        try:
            select_routes([name], route)
            reference.parse(route[name]["credential_key"])
        except NonoError as error:
            yield f"{place}: {error}"
    mapped = value.get("env_credentials") if isinstance(value, dict) else None
    for text in mapped if isinstance(mapped, dict) else ():
        try:
            reference.parse(text)
        except NonoError as error:
            yield f"env_credentials.{shown(text)}: {error}"


def _of_whole(name: str, inherited: Inherited, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with what the profile comes to."""
    found: list[str] = []
    wanted = inherited.profile

    def check(key: str, values: Any, rule: Callable[[Any], object]) -> None:
        for value in values:
            try:
                rule(value)
            except NonoError as error:
                text = str(error).removeprefix(f"{key}: ")
                found.append(text if text.startswith("profile ") else f"{inherited.place(key, value)}: {text}")

    check("groups.include", wanted.groups.include, lambda name: groups.select(include=[name]))
    check("groups.exclude", wanted.groups.exclude, lambda name: groups.select(exclude=[name]))
    check("network.allow_domain", wanted.network.allow_domain, lambda host: Allowlist((host,), (), ()))
    check("network.deny_domain", wanted.network.deny_domain, lambda host: Allowlist((), (host,), ()))
    yield from found
    if not found:
        try:
            decide(Order((), Request(), name), environment)  # what a run would say
        except NonoError as error:
            yield str(error)


def _warnings(inherited: Inherited, source: Source, place: Place) -> Iterator[str]:
    """Yield what is worth a look in this file, as opposed to those that it builds on."""
    own = f"profile {source.path}: "
    denies = _denies(inherited, place)
    for field, _, is_file in PATH_FIELDS:
        key = f"filesystem.{field}"
        for text in getattr(inherited.profile.filesystem, field):
            where = inherited.place(key, text)
            if not where.startswith(own):
                continue
            path = expand(unescaped(text), place)
            deny = next((deny for deny in denies if is_at_or_below(path, deny.path)), None)
            if deny is not None:
                advice = "leave one of them out" if deny.group == PROFILES_DENY else (
                    f"the group {deny.group} denies it to every run, unless filesystem.bypass_protection names it, too"
                )  # fmt: skip
                yield f"{where}: {text} stays closed; {advice}"
            elif not os.path.lexists(path):
                yield f"{where}: {text} does not exist here"
            elif is_file and os.path.isdir(path):
                yield f"{where}: {text} is a directory; write it into filesystem.{field.removesuffix('_file')}"
    for where, reason in profile.SHAPE.without_effect(jsonc.loads(source.text, source.path)):
        yield f"{own}{where} has no effect: {reason}"
    for route, fields in inherited.profile.custom_routes().items():
        for field in _TLS_FILES:
            if fields.get(field) and not os.path.isfile(expand(unescaped(fields[field]), place)):
                where = inherited.place("network.custom_credentials", route)
                yield f"{where}.{field}: {fields[field]} does not exist here"


def _denies(inherited: Inherited, place: Place) -> tuple[PathDeny, ...]:
    """Return what stays closed under any grant of this profile, whatever else is wrong in it."""
    paths = profile.Profile(filesystem=inherited.profile.filesystem)
    try:
        return resolve(Request(), inherited._replace(profile=paths), place).denies
    except NonoError:
        return sensitive_paths(place)
