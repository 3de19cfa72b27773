"""Maven's settings for one run: the user's mirrors without passwords, and the way to nono's proxy.

Java reads no proxy from the environment, and Maven takes one from settings.xml only. The user's own ~/.m2/settings.xml
stays closed to the agent, because passwords stand in it; and what Maven fetches it keeps beside that, where the agent
may not write. So each run has a directory of that kind in its temporary directory, and the property `user.home` leads
Maven there: in MAVEN_DEBUG_OPTS, which its script puts beside the user's own MAVEN_OPTS. Artifacts that the user has
fetched himself are read where a profile grants ~/.m2/repository (Maven 3.9 or newer; older ones do not know how).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from nono.policy.resolve import Place
from nono.registries.settings import HTTP_URL, read_settings, without_users

VARIABLE = "MAVEN_DEBUG_OPTS"
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_MIRROR = re.compile(r"<mirror>(.*?)</mirror>", re.DOTALL)
_FIELDS = {"id": r"[\w.-]+", "mirrorOf": r"[\w.:*,!-]+", "url": HTTP_URL}
_NO_PROXY = re.compile(r"[\w.*:\[\]-]+")
_WORD = re.compile(r"[\w./+@:,=-]+")  # what the shell in Maven's script takes as it is


def hand_over(place: Place, directory: str, *, port: int, token: str, no_proxy: Iterable[str]) -> dict[str, str]:
    """Write the settings below `directory`, the run's own; return the variable that leads Maven to them.

    port, token: of the run's proxy. no_proxy: hosts that are reached without it, besides loopback.
    """
    if not _WORD.fullmatch(directory) or not _WORD.fullmatch(place.home):
        return {}
    text = read_settings(f"{place.home}/.m2/settings.xml")
    os.mkdir(f"{directory}/.m2", 0o700)
    path = f"{directory}/.m2/settings.xml"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(f"<settings>{mirrors(text or '')}{_proxies(port, token, no_proxy)}</settings>\n")
    return {VARIABLE: f"-Duser.home={directory} -Dmaven.repo.local.tail={place.home}/.m2/repository"}


def mirrors(text: str) -> str:
    """Return the mirrors of a settings.xml, of which each field is of the form of one. Pure."""
    found = []
    for body in _MIRROR.findall(_COMMENT.sub("", text)):
        fields = {}
        for name, form in _FIELDS.items():
            value = re.search(rf"<{name}>\s*(.*?)\s*</{name}>", body, re.DOTALL)
            if value and re.fullmatch(form, sound := without_users(value[1])):
                fields[name] = sound
        if len(fields) == len(_FIELDS) and "<blocked>" not in body:
            found.append("".join(f"<{name}>{value}</{name}>" for name, value in fields.items()))
    return "".join(["<mirrors>", *(f"<mirror>{each}</mirror>" for each in found), "</mirrors>"])


def _proxies(port: int, token: str, no_proxy: Iterable[str]) -> str:
    hosts = "|".join(["localhost", "127.*", "[::1]", *(host for host in no_proxy if _NO_PROXY.fullmatch(host))])
    entry = (
        "<proxy><id>nono-{0}</id><active>true</active><protocol>{0}</protocol><host>127.0.0.1</host><port>{1}</port>"
        "<username>nono</username><password>{2}</password><nonProxyHosts>{3}</nonProxyHosts></proxy>"
    )
    return "".join(
        ["<proxies>", *(entry.format(scheme, port, token, hosts) for scheme in ("http", "https")), "</proxies>"]
    )
