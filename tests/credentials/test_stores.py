from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from nono.credentials import reference
from nono.credentials.stores import FILE_STORE, SECRET_SERVICE_STORE, SESSION_STORE, STORES, Stores, state_home
from nono.errors import CredentialError, StoreError
from tests.keyring_service import KeyringService

KEY = memoryview(b"sk-Vw3kQ9zLx7RbTn5HcYp2MfJd8GsXe4")


@pytest.fixture
def stores(state: Path) -> Stores:
    return Stores(state_home())


def test_the_state_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/me")
    assert state_home() == "/var/me/nono"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored
    assert state_home() == "/home/me/.local/state/nono"


def test_a_bare_name_is_the_keystores_unless_the_user_chose(stores: Stores, own_keyring: KeyringService) -> None:
    bare = reference.parse("my_key")
    assert stores.resolve(bare) == bare
    assert not os.path.exists(stores.directory)
    stores.put("my_key", FILE_STORE, KEY, "my_key")
    resolved = stores.resolve(bare)
    assert (resolved.scheme, resolved.name) == (reference.FILE, os.path.join(stores.directory, "my_key"))
    stores.put("my_key", SECRET_SERVICE_STORE, KEY, "my_key")
    assert stores.resolve(bare) == bare
    assert stores.resolve(reference.parse("session://my_key")) == reference.parse("session://my_key")


def test_what_was_stored_before_elsewhere_is_removed(stores: Stores, name: str, own_keyring: KeyringService) -> None:
    assert stores.put(name, FILE_STORE, KEY, name) == ""
    assert stores.put(name, SESSION_STORE, KEY, name) == FILE_STORE
    assert stores.status(name, FILE_STORE, name) == ""
    assert stores.status(name, SESSION_STORE, name) == "stored"
    assert stores.resolve(reference.parse(name)).scheme == reference.SESSION
    assert stores.put(name, SECRET_SERVICE_STORE, KEY, name) == SESSION_STORE
    assert stores.status(name, SESSION_STORE, name) == ""
    assert stores.status(name, SECRET_SERVICE_STORE, name) == "unlocked"


@pytest.mark.parametrize("store", STORES)
def test_puts_lists_and_removes(stores: Stores, name: str, own_keyring: KeyringService, store: str) -> None:
    assert not stores.remove(name, store, name)
    stores.put(name, store, KEY, name)
    assert stores.chosen(name) == store
    assert name in stores.names(store)
    assert stores.remove(name, store, name)
    assert stores.status(name, store, name) == ""
    assert stores.chosen(name) == SECRET_SERVICE_STORE


def test_files_are_private(stores: Stores) -> None:
    stores.put("my_key", FILE_STORE, KEY, "my_key")
    for path in (stores.path("my_key"), stores.path(".stores"), stores.path(".lock")):
        assert os.stat(path).st_mode & 0o7777 == 0o600
    assert os.stat(stores.directory).st_mode & 0o7777 == 0o700


def test_forgets_no_choice_when_several_are_made_at_once(stores: Stores) -> None:
    names = [f"key_{number}" for number in range(16)]
    # Threads write under one pid, so they also show that the temporary files are not in each other's way.
    threads = [threading.Thread(target=stores.put, args=(name, FILE_STORE, KEY, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(stores.chosen(name) == FILE_STORE for name in names)
    assert stores.names(FILE_STORE) == sorted(names)


@pytest.mark.parametrize("content", ["openai\n", "a file\nb nowhere\n", "a b c\n", "../x file\n", "\xff"])
def test_a_damaged_index_is_an_error_not_another_store(stores: Stores, content: str) -> None:
    os.makedirs(stores.directory, 0o700)
    Path(stores.path(".stores")).write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreError, match=r"\.stores"):
        stores.chosen("openai")


def test_a_locked_keystore_names_the_command_that_works(stores: Stores, locked_keyring: KeyringService) -> None:
    with pytest.raises(CredentialError, match=r"locked.*nono credential set openai --store file"):
        stores.put("openai_api_key", SECRET_SERVICE_STORE, KEY, "openai")
    assert not os.path.exists(stores.directory)


def test_no_keystore_names_the_command_that_works(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
    with pytest.raises(CredentialError, match=r"no D-Bus session bus.*nono credential set openai --store session"):
        stores.status("openai_api_key", SECRET_SERVICE_STORE, "openai")
    with pytest.raises(CredentialError, match="no D-Bus session bus"):
        stores.names(SECRET_SERVICE_STORE)
