"""The Secret Service client, against a real gnome-keyring, and against one that misbehaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from keyring.backends import SecretService

from nono.credentials import keystore, secret_service
from nono.credentials.keystore import DEFAULT_LIMITS, KeystoreError, Limits
from tests import keyring_service
from tests.credentials import fake_secret_service as fake
from tests.credentials.conftest import point_at, started
from tests.credentials.fake_secret_service import FakeSecretService
from tests.keyring_service import KeyringService

SHORT = Limits(call_s=0.3, prompt_s=0.3)
ERROR = "org.freedesktop.DBus.Error."


def opened(limits: Limits = DEFAULT_LIMITS, on_prompt: Callable[[], None] = lambda: None) -> secret_service.Keystore:
    return secret_service.Keystore(limits, on_prompt)


def get(account: str = "openai_api_key", limits: Limits = DEFAULT_LIMITS, service: str = "nono") -> tuple[bytes, bool]:
    store = opened(limits)
    try:
        found = store.get(service, account)
    finally:
        store.close()
    with found.buffer as buffer:
        return bytes(buffer.view[: found.length]), found.several


def status_of(action: Callable[[], object]) -> int:
    with pytest.raises(KeystoreError) as error:
        action()
    return error.value.status


# Its state.


def test_says_whether_it_is_locked(locked_keyring: KeyringService) -> None:
    began = time.monotonic()
    assert opened().state() == secret_service.LOCKED
    assert time.monotonic() - began < 2, "nobody was asked"


def test_says_that_it_is_unlocked(own_keyring: KeyringService) -> None:
    own_keyring.store("nono", "openai_api_key", "sk-1", target="default")
    assert opened().state() == secret_service.UNLOCKED


def test_has_no_state_where_there_is_none(bus: KeyringService) -> None:
    assert status_of(lambda: opened().state()) == keystore.NO_SERVICE


def test_does_not_start_a_service_to_learn_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = tmp_path / "services"
    services.mkdir()
    mark = tmp_path / "started"
    (services / "org.freedesktop.secrets.service").write_text(
        f"[D-BUS Service]\nName=org.freedesktop.secrets\nExec=/usr/bin/touch {mark}\n"
    )
    configuration = keyring_service._BUS_CONFIGURATION.replace("<auth>", f"<servicedir>{services}</servicedir><auth>")
    monkeypatch.setattr(keyring_service, "_BUS_CONFIGURATION", configuration)
    for service in started(bus_only=True):
        point_at(service, monkeypatch)
        assert opened().state() == secret_service.IDLE
        assert opened().state() == secret_service.IDLE
    assert not mark.exists()


# A real gnome-keyring.


def test_reads_what_secret_tool_stored(own_keyring: KeyringService) -> None:
    own_keyring.store("nono", "openai_api_key", "sk-1", target="default")
    own_keyring.store("gh", "me@example.org", "other")
    assert get() == (b"sk-1", False)
    assert get("me@example.org", service="gh") == (b"other", False)


def test_secret_tool_reads_what_it_stored(own_keyring: KeyringService) -> None:
    opened().set("nono", "openai_api_key", b"sk-2")
    attributes = ("service", "nono", "username", "openai_api_key", "target", "default", "application", "nono")
    assert own_keyring.lookup(*attributes) == b"sk-2"


def test_python_keyring_reads_what_it_stored_and_the_other_way_round(own_keyring: KeyringService) -> None:
    backend = SecretService.Keyring()
    opened().set("nono", "openai_api_key", b"sk-3")
    assert backend.get_password("nono", "openai_api_key") == "sk-3"
    backend.set_password("nono", "other", "sk-4")
    assert get("other") == (b"sk-4", False)


def test_replaces_what_another_program_stored(own_keyring: KeyringService) -> None:
    own_keyring.store("nono", "openai_api_key", "old", target="default", application="rust-keyring")
    opened().set("nono", "openai_api_key", b"new")
    opened().set("nono", "openai_api_key", b"newer")
    assert get() == (b"newer", False)
    assert own_keyring.lookup("application", "rust-keyring") == b"newer"


@pytest.mark.parametrize("first", ["default", "none"])
def test_of_several_items_takes_the_one_with_the_default_target(own_keyring: KeyringService, first: str) -> None:
    own_keyring.store("nono", "openai_api_key", "one", target=first)
    own_keyring.store("nono", "openai_api_key", "two", target="none" if first == "default" else "default")
    assert get() == (b"one" if first == "default" else b"two", True)


def test_what_it_stores_wins_over_an_item_without_target(own_keyring: KeyringService) -> None:
    own_keyring.store("nono", "openai_api_key", "by python keyring", application="Python keyring library")
    assert get() == (b"by python keyring", False)
    opened().set("nono", "openai_api_key", b"by nono")
    assert get() == (b"by nono", True)


@pytest.mark.parametrize(
    "secret", [b"", b"a\0b\n", b"\xff\xfe", b"k" * 16386], ids=["empty", "NUL", "no text", "longest"]
)
def test_returns_bytes_as_they_are(own_keyring: KeyringService, secret: bytes) -> None:
    opened().set("nono", "openai_api_key", secret)
    assert get() == (secret, False)


def test_refuses_what_no_key_is_as_long_as(own_keyring: KeyringService) -> None:
    opened().set("nono", "openai_api_key", b"k" * 16387)
    assert status_of(get) == keystore.TOO_LONG


def test_does_not_find_what_is_not_there(own_keyring: KeyringService) -> None:
    own_keyring.store("other", "openai_api_key", "sk-1", target="default")
    own_keyring.store("nono", "other", "sk-1", target="default")
    assert status_of(get) == keystore.NOT_FOUND
    assert opened().status("nono", "openai_api_key") == ""
    assert not opened().remove("nono", "openai_api_key")


def test_removes_every_item_of_a_name(own_keyring: KeyringService) -> None:
    own_keyring.store("nono", "openai_api_key", "1", target="default")
    own_keyring.store("nono", "openai_api_key", "2")
    own_keyring.store("nono", "other", "3")
    assert opened().remove("nono", "openai_api_key")
    assert opened().accounts("nono") == ["other"]


def test_lists_each_name_once(own_keyring: KeyringService) -> None:
    for account, target in (("b", "default"), ("a", "default"), ("a", "none")):
        own_keyring.store("nono", account, "x", target=target)
    own_keyring.store("other", "c", "x")
    assert opened().accounts("nono") == ["a", "b"]


def test_locked_without_a_display_is_refused_at_once(locked_keyring: KeyringService) -> None:
    begin = time.monotonic()
    assert status_of(get) == keystore.LOCKED
    assert status_of(lambda: opened().set("nono", "new", b"x")) == keystore.LOCKED
    assert status_of(lambda: opened().remove("nono", "openai_api_key")) == keystore.LOCKED
    assert time.monotonic() - begin < 2
    assert opened().status("nono", "openai_api_key") == "locked"
    assert opened().accounts("nono") == ["openai_api_key"]


def test_locked_with_a_display_that_shows_nothing(
    locked_keyring: KeyringService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":no-such-display")
    prompts: list[None] = []
    store = opened(SHORT, lambda: prompts.append(None))
    assert status_of(lambda: store.get("nono", "openai_api_key")) in (keystore.DISMISSED, keystore.PROMPT_TIMEOUT)
    assert len(prompts) == 1


# No service, or none to speak of.


@pytest.mark.parametrize(
    "address",
    ["unix:path=/nonexistent/bus", "tcp:host=127.0.0.1,port=1", "nonsense", "unix:", ";", "unix:path=/dev/null"],
)
def test_no_bus(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    assert status_of(get) == keystore.NO_BUS


def test_no_bus_named_and_none_in_the_runtime_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert status_of(get) == keystore.NO_BUS
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert status_of(get) == keystore.NO_BUS


def test_finds_the_bus_in_the_runtime_directory(own_keyring: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    own_keyring.store("nono", "openai_api_key", "sk-1")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    assert get() == (b"sk-1", False)


def test_no_service_on_the_bus(bus: KeyringService) -> None:
    assert status_of(get) == keystore.NO_SERVICE


# A service that misbehaves.


@pytest.mark.parametrize("method", ["OpenSession", "SearchItems", "GetSecret"])
def test_a_service_that_does_not_answer(bus: KeyringService, method: str) -> None:
    with FakeSecretService(bus.address, {method: fake.NO_ANSWER}):
        begin = time.monotonic()
        assert status_of(lambda: get(limits=SHORT)) == keystore.CALL_TIMEOUT
        assert time.monotonic() - begin < 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (fake.Error(ERROR + "AccessDenied"), keystore.DENIED),
        (fake.Error(ERROR + "NoReply"), keystore.CALL_TIMEOUT),
        (fake.Error(ERROR + "Spawn.ChildExited"), keystore.NO_SERVICE),
        (fake.Error("org.freedesktop.Secret.Error.IsLocked"), keystore.LOCKED),
        (fake.Error("org.freedesktop.Secret.Error.NoSuchObject"), keystore.NOT_FOUND),
        (fake.Error("org.example.Unheard.Of"), keystore.FAILED),
        (("s", (fake.SECRET.decode(),)), keystore.FAILED),
        (("", ()), keystore.FAILED),
    ],
    ids=lambda value: value.name.rpartition(".")[2] if isinstance(value, fake.Error) else None,
)
def test_each_failure_has_its_status_and_quotes_nothing(
    bus: KeyringService, answer: fake.Answer, expected: int
) -> None:
    with FakeSecretService(bus.address, {"GetSecret": answer}):
        with pytest.raises(KeystoreError) as error:
            get()
    assert error.value.status == expected
    assert error.value.args == (expected,)
    assert fake.SECRET.decode() not in repr((error.value, error.value.__cause__))


def test_waits_for_the_dialog_to_be_answered(bus: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    prompts: list[None] = []
    with FakeSecretService(bus.address, fake.LOCKED, {"Prompt": fake.completed(dismissed=False)}) as service:
        found = opened(SHORT, lambda: prompts.append(None)).get("nono", "x")
        assert found.buffer.view[: found.length] == fake.SECRET
        assert service.calls == ["SearchItems", "Unlock", "Prompt", "OpenSession", "GetSecret"]
    assert len(prompts) == 1


def test_a_dialog_that_is_closed(bus: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    with FakeSecretService(bus.address, fake.LOCKED, {"Prompt": fake.completed(dismissed=True)}):
        assert status_of(get) == keystore.DISMISSED


def test_a_dialog_that_nobody_answers_is_taken_away(bus: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    with FakeSecretService(bus.address, fake.LOCKED) as service:
        assert status_of(lambda: get(limits=SHORT)) == keystore.PROMPT_TIMEOUT
        assert service.wait_for("Dismiss")


def test_an_interrupt_takes_the_dialog_away(bus: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    with FakeSecretService(bus.address, fake.LOCKED) as service:
        store = opened()
        interrupt = threading.Thread(
            target=lambda: service.wait_for("Prompt") and signal.pthread_kill(main, signal.SIGINT)
        )
        main = threading.get_ident()
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            store.get("nono", "x")
        interrupt.join()
        assert service.wait_for("Dismiss")


def test_makes_the_default_collection_when_there_is_none(bus: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    script: dict[str, fake.Answer] = {
        "SearchItems": ("aoao", ([], [])),
        "ReadAlias": ("o", ("/",)),
        "CreateCollection": ("oo", ("/", fake.PROMPT)),
    }
    with FakeSecretService(bus.address, script, {"Prompt": fake.completed(dismissed=False)}) as service:
        assert status_of(lambda: opened().set("nono", "x", b"y")) == keystore.LOCKED
        monkeypatch.setenv("DISPLAY", ":0")
        opened().set("nono", "x", b"y")
        assert service.calls[-1] == "CreateItem"
