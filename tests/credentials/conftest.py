"""What the tests of credentials share: a keyring that they may change, and a place for state."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.credentials import user_keyring
from nono.errors import CredentialError
from tests.keyring_service import KeyringService
from tests.runs import require_command


def started(*, bus_only: bool = False) -> Iterator[KeyringService]:
    for command in ("dbus-daemon", "gnome-keyring-daemon", "secret-tool", "gdbus"):
        require_command(command)
    with tempfile.TemporaryDirectory(prefix="keyring-") as directory:  # short: a socket's path has 108 bytes
        with KeyringService(Path(directory), bus_only=bus_only) as service:
            yield service


@pytest.fixture(scope="session")
def shared_keyring() -> Iterator[KeyringService]:
    yield from started()


def point_at(service: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find `service` and no display."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", service.address)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(service.directory))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.fixture
def own_keyring(shared_keyring: KeyringService, monkeypatch: pytest.MonkeyPatch) -> KeyringService:
    """A running, unlocked, empty gnome-keyring that this process finds."""
    shared_keyring.clear()
    point_at(shared_keyring, monkeypatch)
    return shared_keyring


@pytest.fixture
def locked_keyring(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyringService]:
    """A gnome-keyring of the test's own, with one item, locked."""
    for service in started():
        service.store("nono", "openai_api_key", "sk-locked-1", target="default")
        service.lock()
        point_at(service, monkeypatch)
        yield service


@pytest.fixture(scope="session")
def shared_bus() -> Iterator[KeyringService]:
    yield from started(bus_only=True)


@pytest.fixture
def bus(shared_bus: KeyringService, monkeypatch: pytest.MonkeyPatch) -> KeyringService:
    """A session bus without a Secret Service, that this process finds."""
    point_at(shared_bus, monkeypatch)
    return shared_bus


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a credential that no other test uses: the kernel's keyring is the user's, not the test's."""
    unique = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        user_keyring.exists(unique)
    except CredentialError as error:
        pytest.skip(str(error))
    yield unique
    user_keyring.remove(unique)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nono's state directory, as this process finds it; not made yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "nono"
