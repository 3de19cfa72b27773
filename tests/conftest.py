"""What every test can ask for."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.kernel import process
from tests.keyring_service import KeyringService
from tests.runs import ACCOUNTS, KEYS, Site, require_command

README = Path(__file__).parent.parent / "README.md"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked `long` too, and all of the fuzzing")
    parser.addoption("--agents", action="store_true", help="run the tests marked `agents` too, with agents from npm")


def pytest_configure() -> None:
    """Undo what a shell's `&` and nohup do to all that they start: signals that are ignored reach no agent either."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in ("long", "agents"):
        if not config.getoption(f"--{name}"):
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(pytest.mark.skip(reason=f"runs only with --{name}"))


@pytest.fixture(autouse=True)
def dumpable() -> Iterator[None]:
    """Undo what a spawn does to the test's own process: undumpable, an ordinary user may not look into /proc/self."""
    yield
    if sys.platform == "linux" and not process.is_dumpable():
        process.set_dumpable(True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A user's machine with stand-in services: see tests/runs.py."""
    with Site(tmp_path / "site") as made:
        yield made


@pytest.fixture(scope="session")
def keyring() -> Iterator[KeyringService]:
    """A running, unlocked gnome-keyring with runs.KEYS, stored by the README's `secret-tool` line."""
    for command in ("dbus-daemon", "gnome-keyring-daemon", "secret-tool", "gdbus"):
        require_command(command)
    # Not tmp_path: a socket's path must be short (108 bytes; unix(7)).
    with tempfile.TemporaryDirectory(prefix="keyring-") as directory, KeyringService(Path(directory)) as service:
        (line,) = (line for line in README.read_text().splitlines() if "secret-tool store" in line)
        for name, account in ACCOUNTS.items():
            command = ["sh", "-c", line.replace(ACCOUNTS["openai"], account)]
            subprocess.run(command, env=service.environment(KEY=KEYS[name]), check=True)
        yield service


@pytest.fixture(scope="session")
def desktop(keyring: KeyringService) -> dict[str, str]:
    """The variables by which a program of the user finds his keyring."""
    return {"DBUS_SESSION_BUS_ADDRESS": keyring.address, "XDG_RUNTIME_DIR": str(keyring.directory)}
