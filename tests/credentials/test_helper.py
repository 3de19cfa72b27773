"""The helper process of macOS, here with the Secret Service behind it: the same protocol, a real fresh interpreter."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nono.credentials import helper, keystore
from nono.credentials.keystore import DEFAULT_LIMITS, KeystoreError
from tests.credentials import fake_secret_service as fake
from tests.credentials.fake_secret_service import FakeSecretService
from tests.keyring_service import KeyringService


def children(pid: int | str = "self") -> set[str]:
    """Return the pids of the children of a process, dead but unreaped ones included."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {child for each in lists for child in each.read_text().split()}


def opened(prompts: list[None] | None = None) -> helper.Keystore:
    return helper.Keystore(DEFAULT_LIMITS, lambda: (prompts if prompts is not None else []).append(None))


def test_answers_each_request(own_keyring: KeyringService) -> None:
    own_keyring.store("nono", "k", "k" * 8000 + "\n", target="default")
    own_keyring.store("gh", "me/x", "")
    before = children()
    store = opened()
    for service, account, secret in (("nono", "k", b"k" * 8000 + b"\n"), ("gh", "me/x", b"")):
        found = store.get(service, account)
        assert found.buffer.view[: found.length] == secret
        found.buffer.close()
    with pytest.raises(KeystoreError) as error:
        store.get("nono", "none")
    assert error.value.status == keystore.NOT_FOUND
    store.close()
    assert children() == before


def test_passes_on_why_there_is_no_keystore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
    store = opened()
    for _ in range(2):
        with pytest.raises(KeystoreError) as error:
            store.get("nono", "k")
        assert error.value.status == keystore.NO_BUS
    store.close()


def test_tells_of_a_dialog(bus: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    prompts: list[None] = []
    with FakeSecretService(bus.address, fake.LOCKED, {"Prompt": fake.completed(dismissed=False)}):
        store = opened(prompts)
        found = store.get("nono", "k")
        assert found.buffer.view[: found.length] == fake.SECRET
        store.close()
    assert len(prompts) == 1


def test_a_helper_that_dies_is_an_error(bus: KeyringService) -> None:
    before = children()
    store = opened()
    (pid,) = children() - before
    os.kill(int(pid), signal.SIGKILL)
    with pytest.raises(KeystoreError):
        store.get("nono", "k")
    store.close()
    assert children() == before


def test_a_helper_ends_with_its_supervisor() -> None:
    program = (
        "import sys, time; from nono.credentials import helper, keystore\n"
        "print(helper.Keystore(keystore.DEFAULT_LIMITS, print)._pid, flush=True); time.sleep(60)"
    )
    environment = {"PYTHONPATH": os.getcwd(), "PATH": os.environ["PATH"]}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pidfd = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
    assert select.select([pidfd], [], [], 10)[0], "the helper still runs"
    os.close(pidfd)
