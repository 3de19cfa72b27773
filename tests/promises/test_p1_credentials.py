"""P1: no real credential reaches the child: not its environment, argv, memory or files, nor through any socket.

Each test looks for the very keys that are in use meanwhile, in a real gnome-keyring or in files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import memscan
from tests.keyring_service import KeyringService
from tests.runs import ACCOUNTS, KEYS, TIMEOUT_S, Site, require_command


def flags(site: Site, store: str) -> list[str]:
    references = ACCOUNTS if store == "secret service" else site.store_in_files()
    return ["--profile", str(site.profile(references)), "--allow-cwd"]


@pytest.mark.parametrize("store", ["secret service", "file"])
def test_not_in_its_environment_argv_or_memory(site: Site, desktop: dict[str, str], store: str) -> None:
    with site.working(flags(site, store), site.agent("ask", "8", "2"), environment=desktop) as told:
        assert told["statuses"] == {"200": 8}
        pid = memscan.pid_with(f"NONO_PROXY_TOKEN={told['environment']['NONO_PROXY_TOKEN']}")
        for key in KEYS.values():
            assert key not in json.dumps(told["environment"])
            assert key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert memscan.scan(pid, key.encode())[:2] == (0, 0)
        # The scan measures: it does find what the child does hold.
        assert memscan.scan(pid, told["environment"]["OPENAI_API_KEY"].encode()).full > 0


def test_not_in_what_it_inherits(site: Site) -> None:
    """Keys that the user has in his own variables, under the name of an SDK and under one of his own."""
    own = {"OPENAI_API_KEY": KEYS["openai"], "MY_KEY": KEYS["openai"], "COLOUR": "green"}
    done = site.run(flags(site, "file"), ["env"], environment=own)
    assert KEYS["openai"] not in done.stdout
    assert "COLOUR=green" in done.stdout
    assert "OPENAI_API_KEY=" in done.stdout  # the token
    assert "MY_KEY=" not in done.stdout


def test_not_in_any_file_that_it_can_read(site: Site, desktop: dict[str, str]) -> None:
    site.store_in_files()
    installed = {"/usr", "/lib", "/lib64", "/bin", "/sbin", sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")}
    agent = site.agent("read_everything", *sorted(installed))
    process = site.start(flags(site, "secret service"), agent, environment=desktop)
    content, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr.decode()
    assert f"\n{site.work}/read_everything.py\n".encode() in content  # it could read what it was granted
    assert b"/environ\n" in content  # and looked into /proc
    for key in KEYS.values():
        assert key.encode() not in content


def test_not_from_the_secret_service(site: Site, keyring: KeyringService, desktop: dict[str, str]) -> None:
    lookup = [require_command("secret-tool"), "lookup", "service", "nono", "username", ACCOUNTS["openai"]]
    assert keyring.lookup("service", "nono", "username", ACCOUNTS["openai"]) == KEYS["openai"].encode()
    # The agent knows where the bus is: it is told, and the directory is granted to it.
    known = ["env", *(f"{name}={value}" for name, value in desktop.items()), *lookup]
    done = site.run([*flags(site, "secret service"), "--read", str(keyring.directory)], known, environment=desktop)
    assert KEYS["openai"] not in done.stdout + done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("store", ["secret service", "file"])
def test_not_from_a_unix_socket_in_its_own_directory(site: Site, desktop: dict[str, str], store: str) -> None:
    """As ssh-agent, gpg-agent and docker listen: no rule on files stands between."""
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = site.run(
        flags(site, store), [sys.executable, "-I", "-c", script, str(site.work / "agent.sock")], environment=desktop
    )
    assert done.returncode == 1
    assert "Address family not supported" in done.stderr or "Permission denied" in done.stderr


def test_not_from_the_file_that_it_is_stored_in(site: Site) -> None:
    """Even where its directory is granted."""
    arguments = flags(site, "file")
    key_file = site.vault / "openai.key"
    done = site.run([*arguments, "--read", str(site.vault)], ["cat", str(key_file)])
    assert KEYS["openai"] not in done.stdout
    assert "Permission denied" in done.stderr


@pytest.fixture
def session_key(site: Site) -> Iterator[str]:
    """The name of a key in the kernel's keyring of this user: its own name, so as not to touch a real one."""
    name = f"nono-test-{os.getpid()}"

    def credential(action: str) -> None:
        command = [sys.executable, "-m", "nono", "credential", action, name, "--store", "session"]
        subprocess.run(
            command, input=KEYS["openai"].encode(), env=site.environment, cwd=site.work, check=True, capture_output=True
        )

    credential("set")
    yield name
    credential("remove")


def test_not_from_the_kernels_keyring(site: Site, session_key: str) -> None:
    agent = site.agent("read_user_keyring", f"nono:{session_key}")
    control = subprocess.run(agent, env=site.environment, capture_output=True, text=True, check=False)
    assert control.stdout == f"{KEYS['openai']}\n"  # outside of the sandbox the same program does read it
    profile = site.profile({"openai": f"session://{session_key}"})
    done = site.run(["--profile", str(profile), "--allow-cwd"], agent)
    assert done.stdout == "EPERM\n"
