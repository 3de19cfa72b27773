"""What must not reach the agent by accident."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from nono.credentials.credential import Credential
from nono.errors import CredentialError, PolicyError, UsageError
from nono.kernel.secretmem import SecretBuffer
from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN
from nono.policy.network import select_routes
from nono.policy.routes import MAX_KEY_BYTES
from nono.proxy.chain import Chain
from nono.proxy.inject import injection
from nono.proxy.route import BoundRoute, destination
from nono.supervisor import guard
from tests.runs import KEYS, Site


class Key(NamedTuple):
    """A credential, as far as it is looked at here."""

    view: memoryview
    length: int


@pytest.fixture
def streams() -> Iterator[None]:
    """Puts the standard streams back."""
    saved = os.dup(0)
    yield
    os.dup2(saved, 0)
    os.close(saved)


def is_refused(sock: socket.socket, network: str) -> bool:
    os.dup2(sock.fileno(), 0)
    try:
        guard.check_standard_streams(network)
    except UsageError:
        return True
    return False


@pytest.mark.usefixtures("streams")
class TestStandardStreams:
    def test_a_socket_of_the_hosts_network_is_refused(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with socket.create_connection(listener.getsockname()) as connected:
                assert is_refused(connected, NETWORK_BLOCKED)
                assert not is_refused(connected, NETWORK_OPEN)
            assert is_refused(listener, NETWORK_BLOCKED)

    def test_a_datagram_socket_of_the_machine_is_refused_in_every_network(self) -> None:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as loose,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            assert is_refused(loose, NETWORK_OPEN)
            assert is_refused(udp, NETWORK_OPEN)

    def test_a_connected_pair_as_node_uses_it_is_accepted(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert not is_refused(theirs, NETWORK_BLOCKED)


def test_a_run_with_a_socket_for_input_does_not_start(site: Site) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as connected,
    ):
        process = site.start(
            ["--block-net", "--allow-cwd"], ["touch", str(site.work / "started")], stdin=connected.fileno()
        )
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert b"descriptor 0 is a socket" in stderr
    assert not (site.work / "started").exists()


def test_tls_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    fields = {"upstream": "https://x", "credential_key": "k", "tls_ca": str(tmp_path / "absent.pem")}
    with pytest.raises(PolicyError, match=r"tls_ca .*absent.pem does not exist"):
        guard.check_tls_files(select_routes(["x"], {"x": fields}))


@pytest.mark.parametrize(("mode", "most"), MAX_KEY_BYTES.items())
def test_a_key_that_fits_into_no_request_is_refused(mode: str, most: int) -> None:
    fields = {"upstream": "https://x", "credential_key": "k", "inject_mode": mode, "path_pattern": "/{}"}
    fields["query_param_name"] = "k"
    routes = select_routes(["x"], {"x": fields})
    for length in (most, most + 1):
        credential = Key(memoryview(b"%" * length), length)
        judged = nullcontext() if length == most else pytest.raises(CredentialError, match=f"longer than {most} bytes")
        with judged:
            guard.check_keys(routes, {"x": credential})  # type: ignore[dict-item]
        if length == most:  # the proxy agrees
            injection(destination(BoundRoute(routes[0], credential)))


@pytest.mark.parametrize(
    ("text", "sound"), [(b"me:secret", True), (b":", True), (b"secret", False), (b"a:" * 4000, False)]
)
def test_the_upstream_proxys_credential_must_be_user_and_password(text: bytes, sound: bool) -> None:
    with SecretBuffer(len(text)) as buffer:
        buffer.view[:] = text
        credential = Credential("corp", "files", buffer, len(text), "credential 'corp'")
        judged = nullcontext() if sound else pytest.raises(CredentialError, match=r"'corp' .* is not USER:PASSWORD")
        with judged:
            guard.check_upstream_credential(credential)
        if sound:  # the proxy agrees
            Chain("proxy.corp", 3128, (), credential, SecretBuffer).close()
        credential.close()
    guard.check_upstream_credential(None)


def test_a_key_for_the_environment_is_put_behind_its_variable() -> None:
    with SecretBuffer(8) as buffer:
        buffer.view[:] = b"sk-real\n"
        credential = Credential("groq", "files", buffer, 8, "credential 'groq'")
        loaded = {guard.env_credential_name("GROQ_API_KEY"): credential}
        assert guard.env_credentials([("groq", "GROQ_API_KEY")], loaded) == [b"GROQ_API_KEY=sk-real"]
        assert guard.env_credentials((), {}) == []
        credential.close()


def test_the_profile_cannot_be_changed_by_the_run_that_it_governs(site: Site) -> None:
    profile = site.work / "profile.json"
    profile.write_text(site.profile(site.store_in_files()).read_text())
    before = profile.read_text()
    for attack in (
        "echo > profile.json",
        "rm profile.json",
        "mv profile.json p",
        "chmod +x . && cp /etc/hosts profile.json",
    ):
        done = site.run(["--profile", str(profile), "--allow-cwd"], ["/bin/sh", "-c", attack])
        assert done.returncode != 0
    assert profile.read_text() == before
    assert site.run(["--profile", str(profile), "--allow-cwd"], ["cat", "profile.json"]).returncode == 0


def test_what_the_proxy_trusts_cannot_be_changed(site: Site) -> None:
    directory = site.work / "certs"
    directory.mkdir()
    bundle = site.work / "ca.pem"
    bundle.touch()
    environment = {"SSL_CERT_DIR": f"{directory}:/etc/ssl/certs", "OPENSSL_CONF": str(bundle)}
    for attack in ("cp /etc/hosts certs/0a1b2c3d.0", "echo > ca.pem", "mv certs c && mkdir certs", "rm ca.pem"):
        done = site.run(["--allow-cwd", "--block-net"], ["/bin/sh", "-c", attack], environment=environment)
        assert done.returncode != 0, attack
    done = site.run(
        ["--allow-cwd", "--block-net"], ["/bin/sh", "-c", "ls certs && cat ca.pem"], environment=environment
    )
    assert done.returncode == 0


def test_nonos_own_code_cannot_be_changed(site: Site) -> None:
    """nono, run from a directory that it grants: there it may read itself, not write itself."""
    package = site.work / "lib" / "nono"
    package.parent.mkdir()
    source = Path(guard.__file__).parent.parent
    subprocess.run(["cp", "-r", str(source), str(package)], check=True)
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); from nono.__main__ import main; main()"
    for attack, status in (
        ("echo evil >> lib/nono/loop.py", 2),
        ("echo evil > lib/h11.py", 2),
        ("mv lib old", 1),
        ("cat lib/nono/loop.py", 0),
    ):
        command = [sys.executable, "-c", code, "run", "-s", "--allow-cwd", "--", "/bin/sh", "-c", attack]
        done = subprocess.run(command, cwd=site.work, env=site.environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr


def test_a_module_planted_in_the_working_directory_is_not_imported(site: Site) -> None:
    profile = site.profile(site.store_in_files())
    names = "h11.py ssl.py selectors.py socket.py"
    plant = f'echo \'open("stolen", "w")\' | tee {names} > /dev/null; sleep 0.3'
    done = site.run(["--profile", str(profile), "--allow-cwd"], ["/bin/sh", "-c", plant])
    assert done.returncode == 0, done.stderr
    again = site.run(["--profile", str(profile), "--allow-cwd"], site.agent("ask_once"))
    assert "internal" not in again.stderr
    assert (site.work / "h11.py").exists()
    assert not (site.work / "stolen").exists()


def test_a_key_file_stays_closed_however_its_path_is_written(site: Site) -> None:
    reference = site.store_in_files()["openai"]
    for spelling in (reference.replace("/vault/", "/vault/../vault/"), reference.replace("/vault/", "//vault/./")):
        profile = site.profile({"openai": spelling})
        done = site.run(["--profile", str(profile), "--read", str(site.vault)], ["cat", str(site.vault / "openai.key")])
        assert done.returncode == 2
        assert KEYS["openai"] not in done.stdout


def test_modes_of_the_store_are_put_back(site: Site) -> None:
    profile = site.profile(site.store_in_files())
    keys = site.state / "credentials"
    keys.mkdir(parents=True, mode=0o700)
    (keys / "x").touch(mode=0o600)
    attack = f"import os; [os.chmod(p, 0o777) for p in {json.dumps([str(site.state), str(keys), str(keys / 'x')])}]"
    site.run(["--profile", str(profile), "--allow-cwd"], [sys.executable, "-I", "-c", attack])
    assert [path.stat().st_mode & 0o777 for path in (site.state, keys, keys / "x")] == [0o700, 0o700, 0o600]


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_home_that_is_a_link_can_be_worked_in(site: Site, is_linked: bool) -> None:
    """The link must not be replaced; what it leads to is not read-only for that."""
    (site.home / ".config" / "nono" / "profiles").mkdir(parents=True)
    (site.home / ".config" / "nono" / "profiles" / "p.json").write_text('{"workdir": {"access": "readwrite"}}')
    (site.home / "project").mkdir()
    home = site.directory / "named"
    home.symlink_to("home")
    environment = {"HOME": str(home if is_linked else site.home)}
    flags = ["-p", "p", "--workdir", str(site.home / "project"), "--block-net"]
    done = site.run(flags, ["touch", "made"], environment=environment)
    assert done.returncode == 0, done.stderr
    assert (site.home / "project" / "made").exists()


@pytest.mark.parametrize(
    ("links", "attack"),
    [
        ({".config/nono/profiles": "dots/profiles"}, "echo > dots/profiles/new.json"),
        ({".config/nono/profiles": "dots/profiles"}, "mv dots/profiles dots/p"),
        ({".config/nono/profiles/mine.json": "dots/mine.json"}, "echo > dots/mine.json"),
        ({".config/nono/profiles/mine.json": "dots/mine.json"}, "rm dots/mine.json"),
        ({".config": "dots/now/config", "dots/now": "real"}, "mv dots/now dots/old"),
        ({".config": "dots/now/config", "dots/now": "real"}, "ln -sfn /tmp dots/now"),
        ({".local/state": "dots/now/state", "dots/now": "real"}, "ln -sfn /tmp dots/now"),
    ],
)
def test_what_nonos_settings_are_links_to_stays_the_users(site: Site, links: dict[str, str], attack: str) -> None:
    """In a directory of dotfiles that the agent may write: it decides of no next run, with a profile or without."""
    (site.home / "dots" / "profiles").mkdir(parents=True)
    (site.home / "dots" / "mine.json").write_text("{}")
    for directory in ("config/nono/profiles", "state"):
        (site.home / "real" / directory).mkdir(parents=True)
    for link, target in links.items():
        (site.home / link).parent.mkdir(parents=True, exist_ok=True)
        (site.home / link).symlink_to(site.home / target)
    before = sorted(os.walk(site.home / "dots"))
    done = site.run(["--allow", str(site.home / "dots"), "--block-net"], ["sh", "-c", f"cd {site.home}; {attack}"])
    assert "wall " in done.stderr  # it did start
    assert done.returncode != 0, done.stderr
    assert sorted(os.walk(site.home / "dots")) == before
    assert (site.home / "dots" / "mine.json").read_text() == "{}"
