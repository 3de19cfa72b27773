"""What is said of a path and what the kernel says are one: generated policies, on a real tree, behind the real wall."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import READ, WRITE
from nono.policy.resolve import Request
from nono.policy.verdict import WORDS
from nono.session import probe, why
from nono.session.policy import Order, decide
from nono.supervisor import wall
from nono.supervisor.scratch import ScratchDirectory
from tests.confined import TESTED, USERS
from tests.users import become

BOTH = READ | WRITE
FIELDS = ("allow", "read", "write", "allow_file", "read_file", "write_file")
POLICIES = int(os.environ.get("NONO_TEST_POLICIES", "10"))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(wall, "walls_to_try", lambda sandbox: (TESTED,))
    monkeypatch.setattr(why, "walls_to_try", lambda sandbox: (TESTED,))
    path = Path(tempfile.mkdtemp(prefix="nono-test-", dir="/var/tmp"))
    for directory in ("app/src/deep", "app/.git", "notes", ".ssh", ".aws", ".config/nono", "empty"):
        (path / directory).mkdir(parents=True)
    for file in ("app/a", "app/src/b", "app/src/deep/c", "notes/n", ".ssh/id", ".aws/credentials", ".profile", "x"):
        (path / file).write_text("kept")
    (path / "unreadable").write_text("kept")
    (path / "unreadable").chmod(0)
    (path / "app/to-key").symlink_to(path / ".ssh/id")
    (path / "app/to-notes").symlink_to("../notes")
    (path / "app/nowhere").symlink_to("gone")
    (path / ".ssh/linked").symlink_to(path / "notes/n")
    os.mkfifo(path / "app/fifo")
    yield path
    shutil.rmtree(path)


def asked_about(home: Path) -> list[str]:
    found = [str(home)]
    for directory, names, files in os.walk(home):
        found += [os.path.join(directory, name) for name in (*names, *files)]
    absent = ["new", "app/new", "app/new/er", "app/src/new", "notes/new", ".ssh/new", "empty/new", ".netrc", "gone/x"]
    system = ["/etc/passwd", "/etc/shadow", "/usr/bin", "/proc/version", "/tmp", "/tmp/new", "/dev/null", "/dev/shm/n"]
    return [*found, *(f"{home}/{name}" for name in absent), *system]


def tree(home: Path) -> list[tuple[str, bytes]]:
    paths = sorted(path for path in home.rglob("*") if not path.is_symlink())
    readable = {path for path in paths if path.is_file() and os.access(path, os.R_OK)}
    return [(str(path), path.read_bytes() if path in readable else b"") for path in paths]


def some_policy(choose: random.Random, home: Path) -> Request:
    directories = [str(path) for path in (home, *home.rglob("*")) if path.is_dir()]
    files = [str(path) for path in home.rglob("*") if not path.is_dir() and path.exists()]
    request: dict[str, object] = {}
    for field in choose.sample(FIELDS, choose.randint(1, 3)):
        request[field] = tuple(choose.sample(files if field.endswith("file") else directories, choose.randint(1, 2)))
    request["deny"] = tuple(choose.sample([*directories[1:], *files, f"{home}/app/new"], choose.randint(0, 2)))
    request["bypass_protection"] = tuple(
        choose.sample([f"{home}/.ssh", f"{home}/.aws/credentials"], choose.randint(0, 1))
    )
    return Request(**request)  # type: ignore[arg-type]


@pytest.mark.parametrize("user", USERS, ids=lambda uid: f"uid{uid}")
@pytest.mark.parametrize("seed", range(2))
def test_the_verdict_is_the_kernels(seed: int, user: int, home: Path) -> None:
    for path in (home, *home.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
    before = tree(home)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(user)
            os.write(writer, compare(random.Random(seed), home).encode()[-4000:])
        except BaseException:  # noqa: BLE001 (this is a forked copy of pytest: nothing may get out)
            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as said:
        assert said.read() == ""
    os.waitpid(pid, 0)
    assert tree(home) == before


def compare(choose: random.Random, home: Path) -> str:
    """Return where kernel and verdict disagree, or "" when they never do."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    compared = {True: 0, False: 0}
    done = 0
    while done < POLICIES:
        order = Order((), some_policy(choose, home), workdir=str(home / "app"))
        try:
            decision = decide(order, environment)
            with ScratchDirectory("/tmp", create=True) as scratch:
                behind = why.Behind(decision, environment, scratch.path)
                looked = [why.look(path, behind.place, behind.disk) for path in asked_about(home)]
                asked = [(subject, access) for subject in looked for access in (READ, WRITE, BOTH)]
                answers = [why.judge(behind, subject, access) for subject, access in asked]
                outcomes = probe.about_paths(behind, asked)
        except (UsageError, PolicyError):
            continue
        done += 1
        for (subject, access), answer, outcome in zip(asked, answers, outcomes, strict=True):
            verdict = answer.verdict
            if not (probe.agrees(outcome, verdict.allowed) or probe.lists_names(outcome, subject, access, verdict)):
                return f"{WORDS[access]} {subject}: {verdict}\n{outcome}\n{order.request}"
            compared[outcome.result == probe.ALLOWED] += 1
    return "" if min(compared.values()) > 50 else f"too few were compared: {compared}"
