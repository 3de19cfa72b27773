"""A manager that an agent prepared in an earlier run is executed, and can do nothing with it."""

from __future__ import annotations

import pytest

from nono.errors import PolicyError
from nono.policy.capabilities import READ, WRITE, PathGrant
from nono.registries import cache, domain
from nono.registries.group import Group
from nono.registries.helper import ask_all
from tests.registries.conftest import Machine

GO = """
import subprocess
def tried(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__.lower()
    return "done"
home = pathlib.Path(os.environ["HOME"])
results = [
    tried(lambda: (home / ".ssh/id").read_text()),
    tried(lambda: (home / "new").touch()),
    tried(lambda: (home / ".config/go/env").write_text("")),
    tried(lambda: subprocess.run([home / "granted/program"])),
    tried(lambda: os.kill(os.getppid(), 0)),
    tried(lambda: (home / ".cargo/credentials").read_text()),
    tried(lambda: (home / ".config/go/env").read_text()),
    tried(lambda: pathlib.Path(os.environ["TMPDIR"], "new").touch()),
    tried(lambda: pathlib.Path("/dev/null").write_text("")),
]
print(json.dumps({"GOPROXY": "https://" + ".".join(results) + ".example", "GOSUMDB": "off"}))
"""


def asked(machine: Machine) -> list[str]:
    group = Group(machine.environment, machine.place, machine.grants, machine.denies)
    answers = ask_all(group.stale, group.state, group.closed)
    return [host.entry for answer in answers.values() for host in answer.hosts]


def test_reads_its_settings_and_writes_in_its_scratch_directory_only(machine: Machine) -> None:
    machine.program("go", GO)
    machine.file(".ssh/id", "secret")
    machine.file(".cargo/credentials", "secret")
    machine.file(".config/go/env", "GOPROXY=x")
    machine.program("program", "", machine.home / "granted")
    machine.grants = [PathGrant(str(machine.home / "granted"), READ | WRITE, False, "--allow")]
    denied = "permissionerror"
    (host,) = asked(machine)
    assert host.split(".") == [*[denied] * 6, *["done"] * 3, "example"]
    assert not (machine.home / "new").exists()
    assert (machine.home / ".config/go/env").read_text() == "GOPROXY=x"


def test_settings_that_lead_to_a_secret_are_not_read(machine: Machine) -> None:
    machine.program("go", GO)
    secret = machine.file(".ssh/id", "secret")
    (machine.home / ".config/go").mkdir(parents=True)
    (machine.home / ".config/go/env").symlink_to(secret)
    with pytest.raises(PolicyError, match="closed to package managers"):
        asked(machine)
    assert cache.load(str(machine.state)) == {}


def test_where_the_agent_may_write_everywhere_nothing_is_asked() -> None:
    with pytest.raises(PolicyError):
        domain.around(["/"])


def test_without_landlock_nothing_is_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain.landlock, "abi", lambda: 0)
    machine.program("go", GO)
    group = Group(machine.environment, machine.place)
    assert group.stale == []
    (note,) = group.notes
    assert "no Landlock" in note
