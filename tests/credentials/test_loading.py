"""The Loader as a run uses it: every source, one copy, nothing left."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.credentials import files, reference, user_keyring
from nono.credentials.keystore import Limits
from nono.credentials.loading import Credential, Loader
from nono.credentials.stores import FILE_STORE, SESSION_STORE, Stores
from nono.errors import CredentialError
from nono.kernel import secretmem
from tests import memscan
from tests.credentials import fake_secret_service as fake
from tests.credentials.fake_secret_service import FakeSecretService
from tests.keyring_service import KeyringService

KEY = "sk-Vw3kQ9zLx7RbTn5HcYp2MfJd8GsXe4Aq6Zu1Nv0WiCk8Tz5PwQb2YdLx9RmVh4NsGj7Fe3Ua6Xo1Ki0"


def load(state: Path, *texts: str, notice: Callable[[str], None] = lambda text: None) -> dict[str, tuple[bytes, str]]:
    """Load references by themselves as names; return the value and the store of each."""
    with Loader(str(state), notice=notice) as loader:
        loader.start({text: reference.parse(text) for text in texts})
        return {name: (bytes(each.view), each.store) for name, each in loader.collect().items()}


def private_file(path: Path, content: str) -> str:
    files.write(str(path), memoryview(content.encode()))
    return f"file://{path}"


def test_loads_from_every_source_at_once(state: Path, tmp_path: Path, own_keyring: KeyringService, name: str) -> None:
    own_keyring.store("nono", "openai_api_key", KEY + "\n", target="default")
    own_keyring.store("gh", "me@example.org", "of another program")
    user_keyring.put(name, memoryview(b"in the session"))
    Stores(str(state)).put("my_key", FILE_STORE, memoryview(b"in the file store"), "my_key")
    file = private_file(tmp_path / "key", "in a file\r\n")
    loaded = load(state, "openai_api_key", "keyring://gh/me@example.org", f"session://{name}", "my_key", file)
    assert [value for value, _ in loaded.values()] == [
        KEY.encode(),
        b"of another program",
        b"in the session",
        b"in the file store",
        b"in a file",
    ]
    assert loaded["openai_api_key"][1] == "the Secret Service"
    assert "file store" in loaded["my_key"][1]
    assert loaded[f"session://{name}"][1] == "the session keyring"


def test_routes_with_one_source_share_one_credential(state: Path, own_keyring: KeyringService) -> None:
    own_keyring.store("nono", "k", KEY, target="default")
    with Loader(str(state)) as loader:
        loader.start({"one": reference.parse("k"), "two": reference.parse("k")})
        credentials = loader.collect()
        assert credentials["one"] is credentials["two"]


def test_a_credential_is_wiped_and_shows_nothing(state: Path, tmp_path: Path) -> None:
    file = private_file(tmp_path / "key", KEY)
    with Loader(str(state)) as loader:
        loader.start({"openai": reference.parse(file)})
        credential = loader.collect()["openai"]
        assert credential.length == len(credential.view) == len(KEY)
        held = memoryview(credential.view)  # somebody who forgot to let go
        assert KEY not in repr(credential)
        with pytest.raises(TypeError):
            pickle.dumps(credential)
    assert bytes(held) == bytes(len(KEY))
    loader.close()
    credential.close()


def children(pid: int | str = "self") -> set[str]:
    """Return the pids of the children of a process, dead but unreaped ones included."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {child for each in lists for child in each.read_text().split()}


def missing(state: Path, text: str, name: str | None = None) -> str:
    with Loader(str(state)) as loader:
        loader.start({name or text: reference.parse(text)})
        with pytest.raises(CredentialError) as error:
            loader.collect()
    return str(error.value)


def test_says_how_to_store_what_is_missing(state: Path, own_keyring: KeyringService, name: str) -> None:
    assert missing(state, "openai_api_key", "openai") == (
        "no credential 'openai_api_key' in the Secret Service. Store it with: nono credential set openai"
    )
    # A profile's own route is unknown to `nono credential`, which takes the key's name.
    assert missing(state, "my_key", "mine").endswith("nono credential set my_key")
    assert "secret-tool store" in missing(state, "keyring://gh/me")
    assert missing(state, f"session://{name}").endswith(f"nono credential set {name} --store session")
    assert "mode 600" in missing(state, "file:///no/such/key")
    assert missing(state, "env://NO_SUCH_KEY") == (
        "the environment variable NO_SUCH_KEY is not set, so env://NO_SUCH_KEY has no credential."
    )


def test_does_not_look_in_a_second_store(state: Path, own_keyring: KeyringService, name: str) -> None:
    own_keyring.store("nono", name, KEY, target="default")
    stores = Stores(str(state))
    stores.put(name, FILE_STORE, memoryview(b"x"), name)
    os.unlink(stores.path(name))
    assert missing(state, name).endswith(f"nono credential set {name} --store file")
    stores.put(name, SESSION_STORE, memoryview(b"x"), name)
    user_keyring.remove(name)
    assert missing(state, name).endswith(f"nono credential set {name} --store session")


def test_one_missing_credential_of_several(state: Path, own_keyring: KeyringService, tmp_path: Path) -> None:
    own_keyring.store("nono", "there", KEY, target="default")
    file = private_file(tmp_path / "key", KEY)
    with Loader(str(state)) as loader:
        loader.start({text: reference.parse(text) for text in (file, "there", "not_there")})
        with pytest.raises(CredentialError, match="'not_there'"):
            loader.collect()


@pytest.mark.parametrize("source", ["keystore", "file", "session"])
@pytest.mark.parametrize(("value", "reason"), [("", "empty"), ("a\nb", "line break"), ("ü", "ASCII")])
def test_refuses_what_is_no_key(
    state: Path, tmp_path: Path, own_keyring: KeyringService, name: str, source: str, value: str, reason: str
) -> None:
    if source == "keystore":
        own_keyring.store("nono", name, value, target="default")
    elif source == "session":
        user_keyring.put(name, memoryview(value.encode() or b"\n"))
    texts = {"keystore": name, "session": f"session://{name}", "file": private_file(tmp_path / "key", value)}
    assert reason in missing(state, texts[source])


def test_warns_when_several_items_match(state: Path, own_keyring: KeyringService) -> None:
    own_keyring.store("nono", "k", "one", target="default")
    own_keyring.store("nono", "k", "two", target="none")
    notices: list[str] = []
    assert load(state, "k", notice=notices.append)["k"][0] == b"one"
    (notice,) = notices
    assert "several items match the credential 'k'" in notice


def test_tells_that_a_dialog_waits(state: Path, bus: KeyringService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    notices: list[str] = []
    with FakeSecretService(bus.address, fake.LOCKED, {"Prompt": fake.completed(dismissed=False)}):
        assert load(state, "k", notice=notices.append)["k"][0] == fake.SECRET
    assert notices == ["the Secret Service is locked: answer its dialog to go on"]


def test_a_locked_keystore_never_blocks(state: Path, locked_keyring: KeyringService) -> None:
    begin = time.monotonic()
    assert "nono credential set openai --store file" in missing(state, "openai_api_key", "openai")
    assert time.monotonic() - begin < 2


def test_a_keystore_that_is_not_needed_is_left_alone(state: Path, tmp_path: Path, bus: KeyringService) -> None:
    with FakeSecretService(bus.address) as service:
        assert load(state, private_file(tmp_path / "key", KEY))
        assert service.calls == []


def test_a_service_that_hangs_is_given_up(state: Path, bus: KeyringService) -> None:
    with FakeSecretService(bus.address, {"GetSecret": fake.NO_ANSWER}):
        with Loader(str(state), limits=Limits(0.3, 0.3)) as loader:
            loader.start({"k": reference.parse("k")})
            with pytest.raises(CredentialError, match="does not answer"):
                loader.collect()


# What the memory of the process shows from outside.

HOLDER = """\
import os, sys
from nono.credentials import env, reference
from nono.credentials.loading import Loader
references = {"openai": reference.parse(sys.argv[2])}
handed_over = env.hand_over(references.values())
with Loader(sys.argv[1], handed_over) as loader:
    loader.start(references)
    credential = loader.collect()["openai"]
    print("loaded", credential.length, flush=True)
    sys.stdin.readline()
print("closed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("source", ["keystore", "file", "session", "environment"])
@pytest.mark.parametrize("backing", [secretmem.MLOCK, secretmem.MEMFD_SECRET])
def test_there_is_one_copy_then_none(
    state: Path, tmp_path: Path, own_keyring: KeyringService, name: str, source: str, backing: str
) -> None:
    if backing == secretmem.MEMFD_SECRET and secretmem.secret_memory_kind() != backing:
        pytest.skip("this kernel has no memfd_secret")
    environment = own_keyring.environment(PYTHONPATH=os.getcwd())
    if backing == secretmem.MLOCK:
        environment["NONO_SECRET_MEMORY"] = backing
    texts = {"keystore": name, "session": f"session://{name}", "environment": "env://TEST_KEY"}
    if source == "keystore":
        own_keyring.store("nono", name, KEY, target="default")
    elif source == "session":
        user_keyring.put(name, memoryview(KEY.encode()))
    elif source == "environment":
        environment["TEST_KEY"] = KEY
    else:
        texts["file"] = private_file(tmp_path / "key", KEY)
    command = [sys.executable, "-c", HOLDER, str(state), texts[source]]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == f"loaded {len(KEY)}\n".encode()
        copies = memscan.scan(process.pid, KEY.encode())
        helpers = children(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"closed\n"
        left = memscan.scan(process.pid, KEY.encode())
    assert (copies.full, copies.partial) == (1 if backing == secretmem.MLOCK else 0, 0)
    if backing == secretmem.MEMFD_SECRET:
        assert any("secretmem" in unreadable for unreadable in copies.unreadable)
    assert not helpers
    assert (left.full, left.partial) == (0, 0)


def test_the_scan_finds_copies(tmp_path: Path) -> None:
    """The measure itself: what a naive program leaves."""
    file = private_file(tmp_path / "key", KEY)
    naive = (
        "import sys; key = open(sys.argv[1]).read(); head = 'Bearer ' + key; print(flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", naive, file.removeprefix("file://")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert memscan.scan(process.pid, KEY.encode()).full >= 2
        process.communicate(b"\n")


def test_a_credential_takes_its_buffer_along_when_it_is_refused() -> None:
    buffer = secretmem.SecretBuffer(16)
    buffer.view[:3] = b"a\0b"
    with pytest.raises(CredentialError, match="NUL"):
        Credential("k", "here", buffer, 3, "credential 'k'")
    with pytest.raises(ValueError, match="closed"):
        buffer.view[0]
