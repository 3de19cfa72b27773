"""`nono credential` as a user types it: real processes, a real gnome-keyring, a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.credentials.conftest import started
from tests.keyring_service import KeyringService
from tests.runs import require_command

KEY = b"sk-Vw3kQ9zLx7RbTn5HcYp2MfJd8GsXe4"
ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "nono", "credential"]


@pytest.fixture(scope="module")
def service() -> Iterator[KeyringService]:
    yield from started()


class Machine:
    """A user with a keyring, or (address="") without one. wrap: a command that starts nono."""

    def __init__(
        self, service: KeyringService, home: Path, *, address: str | None = None, wrap: list[str] | None = None
    ):
        home.mkdir(exist_ok=True)
        self.environment = service.environment(HOME=str(home), PYTHONPATH=str(ROOT))
        if address is not None:
            self.environment |= {"DBUS_SESSION_BUS_ADDRESS": address, "XDG_RUNTIME_DIR": "/nonexistent"}
        self.files = home / ".local/state/nono/credentials"
        self._wrap = wrap or []

    def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        done = subprocess.run(
            [*self._wrap, *COMMAND, *arguments], input=stdin, env=self.environment, capture_output=True, timeout=60
        )
        assert KEY not in done.stdout + done.stderr
        return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def machine(service: KeyringService, tmp_path: Path) -> Machine:
    service.clear()
    return Machine(service, tmp_path / "home")


@pytest.fixture
def headless(service: KeyringService, tmp_path: Path) -> Machine:
    return Machine(service, tmp_path / "home", address="")


def test_set_reads_standard_input(machine: Machine, service: KeyringService) -> None:
    assert machine.run("set", "openai", stdin=KEY + b"\n") == (0, "stored 'openai_api_key' in the Secret Service\n", "")
    assert service.lookup("service", "nono", "username", "openai_api_key", "target", "default") == KEY


def test_a_route_and_its_key_are_the_same_name(machine: Machine, service: KeyringService) -> None:
    assert machine.run("set", "google-ai", stdin=KEY)[0] == 0
    assert service.lookup("username", "google_generative_ai_api_key") == KEY
    assert machine.run("get-status", "google_generative_ai_api_key")[0] == 0
    assert machine.run("set", "my-own.key", stdin=KEY)[0] == 0
    assert service.lookup("username", "my-own.key") == KEY


def test_get_status(machine: Machine, service: KeyringService) -> None:
    status, out, err = machine.run("get-status", "openai")
    assert (status, out) == (1, "")
    assert err == (
        "nono: no credential 'openai_api_key' in the Secret Service. Store it with: nono credential set openai\n"
    )
    service.store("nono", "openai_api_key", KEY, target="default")
    assert machine.run("get-status", "openai") == (0, "'openai_api_key' is in the Secret Service\n", "")


def test_list_and_remove(machine: Machine) -> None:
    assert machine.run("list", "--store", "secret-service")[1] == ""
    machine.run("set", "openai", stdin=KEY)
    machine.run("set", "anthropic", "--store", "file", stdin=KEY)
    rows = machine.run("list")[1].splitlines()
    assert "anthropic_api_key  file" in rows
    assert "openai_api_key     secret-service" in rows
    for name in ("openai", "anthropic"):
        assert machine.run("remove", name)[0] == 0
        status, _, err = machine.run("remove", name)
        assert status == 1
        assert "no credential" in err
    assert sorted(os.listdir(machine.files)) == [".lock", ".stores"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"a\nb", "line break"),
        (b"a\0", "NUL"),
        (b"\xff", "UTF-8"),
        ("ü".encode(), "ASCII"),
        (b"\x1b[A", "control character"),
        (KEY * 1000, "longer than"),
    ],
)
def test_set_refuses_what_is_no_key(machine: Machine, service: KeyringService, value: bytes, reason: str) -> None:
    status, out, err = machine.run("set", "openai", stdin=value)
    assert (status, out) == (1, "")
    assert reason in err
    assert err.endswith("nothing was stored\n")
    assert service.lookup("username", "openai_api_key") is None


@pytest.mark.parametrize(
    "arguments",
    [[], ["set"], ["get", "openai"], ["set", "a/b"], ["set", "env://KEY"], ["set", "openai", "--store", "disk"],
     ["list", "openai"]],
)  # fmt: skip
def test_usage_errors(machine: Machine, arguments: list[str]) -> None:
    status, out, err = machine.run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("nono: ")
    assert err.count("\n") == 1


def test_a_key_in_an_argument_is_refused_and_not_shown(machine: Machine, service: KeyringService) -> None:
    for arguments in (["openai", KEY.decode()], ["openai", "--store", "file", KEY.decode(), "more"]):
        status, out, err = machine.run("set", *arguments)  # which asserts that the key is not shown
        assert (status, out) == (2, "")
        assert "never an argument" in err
    assert service.lookup("username", "openai_api_key") is None


def test_without_a_keystore_names_what_works(headless: Machine) -> None:
    for action in ("set", "get-status"):
        status, _, err = headless.run(action, "openai", stdin=KEY)
        assert status == 1
        assert "nono credential set openai --store file" in err
    status, _, err = headless.run("remove", "openai")
    assert status == 1
    assert "nono credential set" not in err
    assert "nono credential list" in err
    status, _, err = headless.run("list")
    assert status == 0
    assert "no D-Bus session bus" in err
    assert headless.run("list", "--store", "secret-service")[0] == 1


def test_the_file_store_works_without_a_keystore(headless: Machine) -> None:
    status, out, _ = headless.run("set", "openai", "--store", "file", stdin=KEY + b"\n")
    assert status == 0
    assert f"in the file store ({headless.files})" in out
    file = headless.files / "openai_api_key"
    assert file.read_bytes() == KEY
    assert file.stat().st_mode & 0o7777 == 0o600
    assert file.parent.stat().st_mode & 0o7777 == 0o700
    assert headless.run("get-status", "openai")[:2] == (
        0,
        f"'openai_api_key' is in the file store ({headless.files})\n",
    )
    assert headless.run("list")[1].splitlines()[0] == "openai_api_key  file"


@pytest.mark.parametrize("store", ["file", "session"])
def test_an_ordinary_user_stores_and_loads(service: KeyringService, tmp_path: Path, store: str) -> None:
    """As a user who is neither root nor logged in: no session keyring, no desktop."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    require_command("setpriv")
    as_user = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    if subprocess.run([*as_user, sys.executable, "-c", "import nono.kernel._shim"], capture_output=True).returncode:
        pytest.skip("this Python and this checkout lie where only root can read them")
    home = Path("/tmp") / f"nono-test-{os.getpid()}-{store}"
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)
    name = f"key-{os.urandom(4).hex()}"
    try:
        user = Machine(service, home, address="", wrap=as_user)
        assert user.run("set", name, "--store", store, stdin=KEY)[0] == 0
        assert user.run("get-status", name)[0] == 0
        program = (
            "import sys; from nono.credentials import reference, stores; from nono.credentials.loading import Loader\n"
            "with Loader(stores.state_home()) as loader:\n"
            "    loader.start({'r': reference.parse(sys.argv[1])})\n"
            "    print(loader.collect()['r'].length)\n"
        )
        load = [*as_user, sys.executable, "-c", program, name]
        done = subprocess.run(load, env=user.environment, capture_output=True, timeout=60)
        assert (done.stdout.decode(), done.stderr.decode()) == (f"{len(KEY)}\n", "")
        assert user.run("remove", name)[0] == 0
        assert user.run("get-status", name, "--store", store)[0] == 1
    finally:
        shutil.rmtree(home)


# A terminal.


class Terminal:
    """`nono credential set` on a terminal of its own, as from a shell."""

    def __init__(self, machine: Machine, *arguments: str) -> None:
        self.fd, slave = pty.openpty()
        self._slave = slave
        self.process = subprocess.Popen(
            [*COMMAND, "set", *arguments],
            env=machine.environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)
        os.close(self._slave)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def wait_for(self, text: bytes) -> None:
        while text not in self.shown:
            assert select.select([self.fd], [], [], 30)[0], self.shown
            self.shown += os.read(self.fd, 4096)

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def end(self) -> int:
        status = self.process.wait(30)
        while select.select([self.fd], [], [], 0)[0]:
            self.shown += os.read(self.fd, 4096)
        return status


def test_asks_without_showing(machine: Machine, service: KeyringService) -> None:
    with Terminal(machine, "openai") as terminal:
        assert terminal.echoes()
        terminal.wait_for(b"key for openai (not shown): ")
        assert not terminal.echoes()
        terminal.type(b"typo\x15" + KEY + b"\n")  # ^U erases the line
        assert terminal.end() == 0
        assert terminal.echoes()
    assert KEY not in terminal.shown
    assert b"stored 'openai_api_key' in the Secret Service" in terminal.shown
    assert service.lookup("username", "openai_api_key") == KEY


def test_leaves_no_second_line_for_the_shell(machine: Machine, service: KeyringService) -> None:
    with Terminal(machine, "openai") as terminal:
        terminal.wait_for(b"(not shown): ")
        terminal.type(KEY + b"\nsecond line\n")
        assert terminal.end() == 0
        os.set_blocking(terminal._slave, False)
        with pytest.raises(BlockingIOError):
            os.read(terminal._slave, 100)
    assert service.lookup("username", "openai_api_key") == KEY


@pytest.mark.parametrize(
    ("typed", "status", "sentence"),
    [(b"\n", 1, b"empty"), (b"\x04", 1, b"empty"), (b"k" * 4095 + b"\n", 1, b"pipe it in"), (b"\x03", 130, b"")],
    ids=["nothing", "^D", "a line that the terminal cuts", "^C"],
)
def test_a_prompt_that_gets_no_key(
    machine: Machine, service: KeyringService, typed: bytes, status: int, sentence: bytes
) -> None:
    with Terminal(machine, "openai") as terminal:
        terminal.wait_for(b"(not shown): ")
        terminal.type(typed)
        assert terminal.end() == status
        assert terminal.echoes()
    assert sentence in terminal.shown
    assert service.lookup("username", "openai_api_key") is None
