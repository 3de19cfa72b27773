"""The built-in profiles load, resolve, and grant no more than they are for."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

import nono
from nono.policy import data
from nono.policy.capabilities import NETWORK_OPEN, NETWORK_PROXY, WRITE, CapabilitySet
from nono.policy.conditions import Facts
from nono.policy.groups import DEFAULT, GROUPS, select
from nono.policy.inherit import BUILT_IN, Inherited, inherit
from nono.policy.resolve import Place, Request, resolve
from nono.supervisor.profiles import Profiles

DIRECTORY = Path(data.__file__).parent / "profiles"
NAMES = sorted(path.stem for path in DIRECTORY.iterdir())
AGENTS = {"claude-code": "anthropic", "codex": "openai", "opencode": "openai", "gemini-cli": "gemini"}
TOOLCHAINS = ("python-dev", "node-dev", "go-dev", "rust-dev", "java-dev")
PLACE = Place("/home/u", "/home/u/app", "/tmp", "/home/u/.config", "/home/u/.local/state", "/run/user/1000")
DEVICES = {"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"}


def load(name: str) -> Inherited:
    return inherit([name], Profiles(PLACE).read, lambda: Facts("linux"))


def resolved(name: str, request: Request = Request()) -> CapabilitySet:  # noqa: B008
    return resolve(request, load(name), PLACE)


def test_all_that_were_promised_are_there() -> None:
    assert set(NAMES) == {"default", *AGENTS, *TOOLCHAINS}


@pytest.mark.parametrize("name", NAMES)
def test_is_called_like_its_file_and_says_what_for(name: str) -> None:
    inherited = load(name)
    assert inherited.lineage == ((name, BUILT_IN),)
    assert inherited.profile.meta.name == name
    assert inherited.profile.meta.description
    json.loads((DIRECTORY / f"{name}.json").read_text())  # without comments: whatever reads JSON reads it


def test_default_is_what_a_run_without_a_profile_has() -> None:
    assert resolved("default") == resolve(Request(), None, PLACE)
    assert resolved("default").network == NETWORK_OPEN


@pytest.mark.parametrize("name", NAMES)
def test_writes_to_the_working_directory_and_one_of_its_own_only(name: str) -> None:
    writable = {grant.path for grant in resolved(name).grants if grant.access & WRITE} - DEVICES
    expected = {PLACE.workdir} if name != "default" else set()
    if name in AGENTS:
        expected.add(f"/home/u/.local/share/nono/{name}")
    assert writable == expected


@pytest.mark.parametrize("name", NAMES)
def test_reads_nothing_but_groups_beside_that(name: str) -> None:
    others = {grant.origin for grant in resolved(name).grants if not grant.access & WRITE}
    groups = load(name).profile.groups
    assert others <= {*DEFAULT, *groups.include}
    assert groups.exclude == ()
    assert not any(GROUPS[group].write or GROUPS[group].readwrite for group in groups.include)


@pytest.mark.parametrize("name", NAMES)
def test_opens_nothing_that_is_closed(name: str) -> None:
    capabilities = resolved(name)
    assert capabilities.denies == resolve(Request(), None, PLACE).denies
    assert capabilities.bypassed == ()
    assert capabilities.unix_sockets == ()
    assert not capabilities.own_sockets
    assert capabilities.open_ports == capabilities.listen_ports == ()


@pytest.mark.parametrize("name", NAMES)
def test_has_no_credential_of_its_own(name: str) -> None:
    capabilities = resolved(name)
    assert capabilities.routes == ()
    assert capabilities.env_credentials == ()
    assert capabilities.environment.allow_vars is None, "no variable that is withheld passes"


@pytest.mark.parametrize("name", [*AGENTS, *TOOLCHAINS])
def test_network_is_restricted(name: str) -> None:
    capabilities = resolved(name)
    assert capabilities.network == NETWORK_PROXY
    assert capabilities.registries
    assert capabilities.allowed_hosts == ()
    assert not capabilities.intercept


@pytest.mark.parametrize("name", AGENTS)
def test_a_flag_adds_the_key(name: str) -> None:
    capabilities = resolved(name, Request(credential=(AGENTS[name],)))
    assert [route.name for route in capabilities.routes] == [AGENTS[name]]


@pytest.mark.parametrize("name", NAMES)
def test_variables_lead_to_what_is_granted_or_ends_with_the_run(name: str) -> None:
    """An agent's settings are its own, and caches are the run's."""
    own = f"$HOME/.local/share/nono/{name}"
    for variable, value in resolved(name).environment.set_vars:
        assert value == "1" or value.startswith((own, "$TMPDIR/")), (variable, value)


@pytest.mark.parametrize("name", TOOLCHAINS)
def test_a_toolchain_has_the_group_of_its_language(name: str) -> None:
    assert load(name).profile.groups.include == (f"{name.removesuffix('-dev')}_runtime",)
    assert set(select(load(name).profile.groups.include)) > set(DEFAULT)


def test_the_package_holds_all_data() -> None:
    """A profile that is not in the wheel would be missing for its users alone."""
    package = Path(nono.__file__).parent
    project = tomllib.loads((package.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["nono"]
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    found = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in found - packed if path.suffix not in (".py", ".so")} == set()
