"""The Seatbelt profile, as text: no Mac is needed, and none is tested here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.policy.capabilities import (
    NETWORK_BLOCKED,
    NETWORK_OPEN,
    NETWORK_PROXY,
    READ,
    WRITE,
    CapabilitySet,
    PathDeny,
    PathGrant,
)
from nono.policy.groups import sensitive_paths, system_grants
from nono.sandbox.sbpl import profile, quote


def made(*grants: PathGrant, denies: tuple[str, ...] = (), network: str = NETWORK_BLOCKED, port: int = 0) -> list[str]:
    denied = tuple(PathDeny(path, "deny_test") for path in denies)
    return profile(CapabilitySet(grants, denied, network, (), "/"), port).splitlines()


def test_denies_by_default_and_first() -> None:
    assert made()[:2] == ["(version 1)", "(deny default)"]


def test_read_and_write_are_apart() -> None:
    lines = made(PathGrant("/a", READ, False, "--read"), PathGrant("/b", WRITE, False, "--write"))
    assert '(allow file-read* process-exec file-map-executable (literal "/a") (subpath "/a"))' in lines
    assert '(allow file-write* (literal "/b") (subpath "/b"))' in lines
    assert not [line for line in lines if "file-write*" in line and '"/a"' in line]
    assert not [line for line in lines if "file-read*" in line and '"/b"' in line]


def test_a_file_is_not_a_tree() -> None:
    assert not [line for line in made(PathGrant("/a", READ, True, "--read-file")) if "subpath" in line]


def test_denies_stand_after_every_grant() -> None:
    lines = made(PathGrant("/h", READ | WRITE, False, "--allow"), denies=("/h/.ssh",))
    deny = next(index for index, line in enumerate(lines) if "/h/.ssh" in line)
    assert deny > max(index for index, line in enumerate(lines) if line.startswith("(allow file-") and '"/h"' in line)


def test_what_stays_read_only_can_be_read() -> None:
    has = CapabilitySet(
        (PathGrant("/h", READ | WRITE, False, "--allow"),), (PathDeny("/h/CLAUDE.md", "signed", WRITE, pinned=True),),
        NETWORK_BLOCKED, (), "/",
    )  # fmt: skip
    (line,) = (line for line in profile(has).splitlines() if "CLAUDE.md" in line)
    assert line.startswith('(deny file-write* (literal "/h/CLAUDE.md")')


def test_no_set_user_id_programs() -> None:
    assert '(deny file-write-setugid (literal "/b") (subpath "/b"))' in made(PathGrant("/b", WRITE, False, "--write"))


def test_network() -> None:
    assert not [line for line in made() if line.startswith("(allow network")]
    proxied = [line for line in made(network=NETWORK_PROXY, port=61000) if line.startswith("(allow network")]
    assert proxied == ['(allow network-outbound (remote tcp "localhost:61000"))']
    assert [line for line in made(network=NETWORK_OPEN) if '"*:*"' in line]
    for network in (NETWORK_BLOCKED, NETWORK_PROXY, NETWORK_OPEN):
        assert made(network=network, port=1)[-1] == "(deny network-outbound (remote unix-socket))"


def test_the_proxys_port_is_needed() -> None:
    with pytest.raises(ValueError):
        made(network=NETWORK_PROXY)


def test_no_keychain_service() -> None:
    text = "\n".join(made())
    assert "SecurityServer" not in text
    assert "securityd" not in text


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_no_path_breaks_out_of_its_string(path: str) -> None:
    quoted = quote(path)
    inside = quoted[1:-1]
    assert inside.replace("\\\\", "").replace('\\"', "").count('"') == 0
    assert not inside.replace("\\\\", "").replace('\\"', "").count("\\")
    assert inside.replace('\\"', '"').replace("\\\\", "\\") == path or "\\" in path


def test_refuses_a_nul() -> None:
    with pytest.raises(ValueError):
        quote("a\0b")


def test_takes_the_built_in_groups() -> None:
    home = "/Users/u"
    grants = system_grants(home, f"{home}/.config", platform="darwin")
    denies = sensitive_paths(home, f"{home}/.config", "", "", platform="darwin")
    text = profile(CapabilitySet(grants, denies, NETWORK_BLOCKED, (), home))
    assert text.count("(") == text.count(")")
    assert '"/Users/u/Library/Keychains"' in text
