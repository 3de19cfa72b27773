"""Keyless bundles where something is missing: the network, which is not needed, or the package, which is."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nono.trust import signing
from nono.trust.bundle import INSTRUCTION_FILE
from tests.trust.sigstore_world import REPOSITORY, World

PAYLOAD = signing.statement([("SKILL.md", "0" * 64)], INSTRUCTION_FILE, {"kind": "keyless"})
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_without_the_package_the_user_is_told_how_to_get_it() -> None:
    script = """
import sys
from nono.errors import UsageError
sys.modules["sigstore"] = None
for name in ("keyless", "keyless_signing"):
    try:
        __import__(f"nono.trust.{name}")
    except UsageError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    told = "signatures without a key need the package sigstore: pip install 'nono[trust]'\n"
    assert (run.stdout, run.stderr) == (2 * told, "")


OFFLINE = """
import sys
from pathlib import Path
from nono.trust import keyless
from nono.trust.bundle import parse
from nono.trust.trusted_root import load

def forbid(event, arguments):
    if event.startswith(("socket.", "urllib.", "subprocess.")) and event != "socket.__new__":
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(forbid)
bundle, root = (Path(name) for name in sys.argv[1:])
print(keyless.identity_of(parse(bundle.read_bytes(), "b"), load("/nonexistent", str(root))).repository)
"""


def test_verifies_with_the_network_unplugged_and_writes_nothing(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "b").write_text(json.dumps(world.bundle(PAYLOAD)))
    (tmp_path / "root").write_bytes(world.trusted_root())
    with socket.create_server(("127.0.0.1", 0)) as server:
        run = subprocess.run(
            [sys.executable, "-c", OFFLINE, str(tmp_path / "b"), str(tmp_path / "root")],
            env={"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=Path(__file__).parents[2],
            preexec_fn=lambda: unplug(server.getsockname()),
            capture_output=True,
            text=True,
        )
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{REPOSITORY}\n", "")
    assert list(home.iterdir()) == []


def unplug(witness: tuple[str, int]) -> None:
    """Go into a network of one's own that has nothing, not even a loopback that is up."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            socket.create_connection(witness).close()
        except OSError:
            return
        raise OSError("still plugged in")
