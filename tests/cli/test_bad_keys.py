"""Whatever is wrong with a key before the agent starts, on the real `python -m nono run`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import keyring_service
from tests.cli.refused import OWN, SECRET, USAGE, refuse
from tests.keyring_service import KeyringService
from tests.runs import ACCOUNTS, KEYS, Site, require_command


def test_unknown_credential(site: Site) -> None:
    refuse(site, ["--credential", "opnai"], USAGE, r"unknown credential 'opnai'.*openai")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"is empty"),
        (b"\n", r"is empty"),
        (SECRET.encode() + b"\nmore", r"line break"),
        (SECRET.encode() + b"\r\nx: y", r"line break"),
        (SECRET.encode() + b"\0", r"NUL"),
        (SECRET.encode() + b"\xff\xfe", r"UTF-8"),
        (SECRET.encode() + "é".encode(), r"ASCII"),
        (SECRET.encode() * 1000, r"longer than"),
    ],
    ids=["empty", "only a newline", "newline", "header injection", "NUL", "not UTF-8", "not ASCII", "too long"],
)
def test_key_that_cannot_be_one(site: Site, content: bytes, sentence: str) -> None:
    references = site.store_in_files({"openai": ""})
    (site.vault / "openai.key").write_bytes(content)
    refuse(site, ["--profile", str(site.profile(references))], OWN, sentence)


def test_key_in_a_file_that_others_can_read(site: Site) -> None:
    references = site.store_in_files()
    (site.vault / "openai.key").chmod(0o644)
    refuse(site, ["--profile", str(site.profile(references))], OWN, r"chmod 600")


def test_key_in_a_file_that_does_not_exist(site: Site) -> None:
    profile = site.profile({"openai": "file:///no/such/key"})
    refuse(site, ["--profile", str(profile)], OWN, r"/no/such/key")


def test_key_in_a_variable_that_is_not_set(site: Site) -> None:
    refuse(site, ["--profile", str(site.profile({"openai": "env://NO_SUCH_KEY"}))], OWN, r"NO_SUCH_KEY is not set")


@pytest.mark.parametrize("reference", ["ftp://key", "session://", "keyring://only-a-service", "file://relative"])
def test_key_reference_of_no_known_form(site: Site, reference: str) -> None:
    refuse(site, ["--profile", str(site.profile({"openai": reference}))], USAGE, r"credential_key|credentials? ")


def test_key_on_the_command_line(site: Site) -> None:
    profile = site.profile(site.store_in_files({"openai": SECRET}))
    refuse(site, ["--profile", str(profile)], USAGE, r"contains the key of 'openai'", command=["touch", "x", SECRET])


def test_keystore_absent(site: Site) -> None:
    nowhere = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent/bus"}
    refuse(site, ["--credential", "openai"], OWN, r"--store (session|file)", environment=nowhere)


@pytest.fixture
def own_keyring() -> Iterator[KeyringService]:
    """A keyring for one test, to lock or leave empty."""
    for command in ("dbus-daemon", "gnome-keyring-daemon", "secret-tool", "gdbus"):
        require_command(command)
    with tempfile.TemporaryDirectory(prefix="keyring-") as directory, KeyringService(Path(directory)) as service:
        yield service


def of(service: KeyringService) -> dict[str, str]:
    return {"DBUS_SESSION_BUS_ADDRESS": service.address, "XDG_RUNTIME_DIR": str(service.directory)}


def test_key_not_in_the_keystore(site: Site, own_keyring: KeyringService) -> None:
    refuse(site, ["--credential", "openai"], OWN,
           r"no credential 'openai_api_key' in the Secret Service.*nono credential set openai",
           environment=of(own_keyring))  # fmt: skip


def test_keystore_locked(site: Site, own_keyring: KeyringService) -> None:
    own_keyring.store("nono", ACCOUNTS["openai"], KEYS["openai"], target="default")
    own_keyring.lock()
    refuse(site, ["--credential", "openai"], OWN, r"locked", environment=of(own_keyring))


def test_keystore_denied(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy of the bus keeps everybody from the keystore, as a confined desktop's does."""
    for command in ("dbus-daemon", "gnome-keyring-daemon", "gdbus"):
        require_command(command)
    policy = keyring_service._BUS_CONFIGURATION
    denial = '<deny send_destination="org.freedesktop.secrets"/></policy>'
    monkeypatch.setattr(keyring_service, "_BUS_CONFIGURATION", policy.replace("</policy>", denial))
    with tempfile.TemporaryDirectory(prefix="keyring-") as directory, KeyringService(Path(directory)) as service:
        refuse(site, ["--credential", "openai"], OWN, r"den(ied|ies)|refuse", environment=of(service))


def test_keystore_without_a_daemon(site: Site) -> None:
    require_command("dbus-daemon")
    with tempfile.TemporaryDirectory(prefix="bus-") as directory:
        with KeyringService(Path(directory), bus_only=True) as bus:
            refuse(site, ["--credential", "openai"], OWN, r"Secret Service", environment=of(bus))


@pytest.mark.parametrize("key", [b"", b"a\nb", b"a\0b", SECRET.encode() + b"\xff"], ids=repr)
def test_key_in_the_keystore_that_cannot_be_one(site: Site, own_keyring: KeyringService, key: bytes) -> None:
    own_keyring.store("nono", ACCOUNTS["openai"], key, target="default")
    refuse(site, ["--credential", "openai"], OWN, r"empty|line break|NUL|UTF-8", environment=of(own_keyring))
