"""Whatever is wrong before the agent starts: one clear sentence, the right exit status, and no agent.

Every case runs a command that would leave a file behind, on the real `python -m nono run`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.demo import certificates
from tests.cli.refused import NOT_EXECUTABLE, NOT_FOUND, OWN, SECRET, USAGE, refuse
from tests.runs import KEYS, WITHOUT_LANDLOCK, Site, lines, require_command


def test_the_measure_is_right(site: Site) -> None:
    mark = site.work / "the-agent-ran"
    assert site.run(["--allow-cwd"], ["touch", str(mark)]).returncode == 0
    assert mark.exists()


# The command line.


def test_unknown_flag(site: Site) -> None:
    refuse(site, ["--frobnicate"], USAGE, r"--frobnicate.*nono run --help")


def test_missing_command(site: Site) -> None:
    refuse(site, [], USAGE, r"no command to run.*nono run .*-- ", command=[])


def test_command_not_found(site: Site) -> None:
    refuse(site, [], NOT_FOUND, r"command not found: no-such-command", command=["no-such-command"])


def test_command_path_not_found(site: Site) -> None:
    refuse(site, [], NOT_FOUND, r"command not found: \./no-such-command", command=["./no-such-command"])


def test_a_command_in_one_word(site: Site) -> None:
    refuse(site, [], NOT_FOUND, r"command not found: make test\. Write its words apart", command=["make test"])


def test_command_not_executable(site: Site) -> None:
    (site.work / "notes.txt").write_text("no program")
    refuse(site, [], NOT_EXECUTABLE, r"\./notes\.txt: .*chmod \+x", command=["./notes.txt"])


def test_command_is_a_directory(site: Site) -> None:
    refuse(site, [], NOT_EXECUTABLE, r"is a directory", command=[str(site.work)])


def test_command_of_no_known_format(site: Site) -> None:
    program = site.work / "program"
    program.write_bytes(b"\x7fELF, or so it says")
    program.chmod(0o755)
    done = site.run(["--allow-cwd", "--silent"], [str(program)])
    assert done.returncode == NOT_EXECUTABLE
    assert re.search(r"^nono: .*/program is not a program for this machine", done.stderr)


@pytest.mark.parametrize("flag", ["--allow", "--read", "--write", "--allow-file", "--read-file", "--write-file"])
def test_path_that_does_not_exist(site: Site, flag: str) -> None:
    refuse(site, [flag, "/no/such/path"], USAGE, r"/no/such/path")


@pytest.mark.parametrize("flag", ["--allow", "--read-file"])
def test_empty_path(site: Site, flag: str) -> None:
    refuse(site, [flag, ""], USAGE, r"empty")


def test_workdir_that_does_not_exist(site: Site) -> None:
    refuse(site, ["--workdir", "/no/such/directory"], USAGE, r"--workdir /no/such/directory: no such directory")


def test_port_out_of_range(site: Site) -> None:
    refuse(site, ["--proxy-port", "70000"], USAGE, r"--proxy-port.*70000")


def test_credential_without_network(site: Site) -> None:
    refuse(site, ["--block-net", "--credential", "openai"], USAGE, r"--block-net")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--network-profile", "claud-code"], r"claud-code.*Did you mean 'claude-code'"),
        (["--network-profile", "minimal", "--block-net"], r"exclude each other"),
        (["--allow-domain", "*"], r"every host"),
        (["--allow-domain", "example.com:0"], r"port"),
        (["--allow-domain", "a\u200bb\x1b[2J.example"], r"host name"),
        (["--allow-domain", f"https://user:{SECRET}@example.com/"], r"leave the user name out"),
        (["--allow-domain", f"user:{SECRET}@example.com"], r"leave the user name out"),
        (["--allow-domain", f"ftp://user:{SECRET}@example.com"], r"'example.com'"),
        (["--network-profile", "minimal", "--deny-domain", f"https://{SECRET}@x"], r"'x'"),
        (["--deny-domain", "example.com"], r"alone it has no effect"),
        (["--network-profile", "minimal", "--deny-domain", "https://x/y"], r"HOST:PORT"),
        (["--allow-endpoint", "github:GET:/x"], r"add --credential github"),
        (["--upstream-proxy", "proxy.example:3128"], r"--network-profile"),
        (["--network-profile", "minimal", "--upstream-proxy", f"u:{SECRET}@x:1"], r"--upstream-proxy-credential NAME"),
        (["--network-profile", "minimal", "--upstream-bypass", "a b"], r"--upstream-bypass 'a b'"),
        (["--open-port", "5432"], r"--open-port.*--block-net"),
        (["--block-net", "--listen-port", "0"], r"0 is not a port"),
    ],
)
def test_network_flags_that_cannot_be_honoured(site: Site, flags: list[str], sentence: str) -> None:
    refuse(site, flags, USAGE, sentence)


def test_a_proxy_of_the_environment_that_cannot_be_used(site: Site) -> None:
    socks = {"ALL_PROXY": f"socks5h://u:{SECRET}@localhost:1080"}
    refuse(site, ["--network-profile", "minimal"], USAGE, r"ALL_PROXY.*--upstream-proxy direct", environment=socks)
    assert (
        site.run(["--network-profile", "minimal", "--upstream-proxy", "direct"], ["true"], environment=socks).returncode
        == 0
    )


# Paths.


def fill(site: Site) -> None:
    """Make a home with something protected, odd links and a name that is not UTF-8."""
    (site.home / ".aws").mkdir()
    (site.home / ".aws" / "config").write_text("region")
    (site.home / ".aws" / "credentials").write_text(SECRET)
    (site.home / ".config" / "nono").mkdir(parents=True)
    site.state.mkdir(parents=True)
    for name, target in (
        ("loop", "loop"),
        ("a", "b"),
        ("b", "a"),
        ("dangling", "nowhere"),
        ("aws", site.home / ".aws"),
    ):
        (site.work / name).symlink_to(target)
    os.mkdir(os.fsencode(site.work) + b"/odd-\xff\xfe")


ODD = os.fsdecode(b"odd-\xff\xfe")
NOWHERE = r"no such file or directory, a link that leads nowhere"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--allow", "loop"], NOWHERE),
        (["--read", "a/b/a"], NOWHERE),
        (["--write-file", "dangling"], NOWHERE),
        (["--read", "../../no-such"], NOWHERE),
        (["--read-file", ODD + "-no"], r"odd-\\udcff\\udcfe-no: no such file"),
        (["--read", "~/.local/state/nono"], r"protected \(deny_nono, .* leave it out$"),
        (["--allow", "~/.config/nono"], r"protected \(deny_nono, .* leave it out$"),
        (["--allow", "~/.aws"], r"leave it out, or open it with --bypass-protection \S+/\.aws$"),
        (["--read", "aws"], r"--bypass-protection \S+/\.aws$"),
        (["--read-file", "aws/config"], r"--bypass-protection \S+/home/\.aws/config$"),
        (
            ["--bypass-protection", "~/.aws/config", "--read-file", "~/.aws/credentials"],
            r"protected \(deny_credentials",
        ),
        (["--bypass-protection", "~/.aws/config", "--read", "~/.aws"], r"protected \(deny_credentials"),
        (["--bypass-protection", "~/.local/state/nono"], r"nono's own settings and state"),
        (["--bypass-protection", "~/.config/nono/x"], r"nono's own settings and state"),
        (["--bypass-protection", "~/.awz"], r"did you mean \S+/\.aws\?"),
        (["--bypass-protection", "/"], r"is not protected itself, only in it"),
        (["--bypass-protection", ODD], r"odd-\\udcff\\udcfe: .*nothing to bypass"),
        (["--bypass-protection", ""], r"empty"),
        (["--deny", ""], r"empty"),
        (["--deny", "/"], r"deny everything"),
        (["--deny", "*.env"], r"nono expands no \* in paths"),
        (["--deny", "."], r"--allow-cwd .*denied by --deny .*leave one of them out"),
        (["--deny", "sub/..", "--read", "aws"], r"denied by --deny"),
        (["--allow-unix-socket", ""], r"empty"),
        (["--allow-unix-socket", "~/.ssh/agent"], r"protected \(deny_credentials"),
        (["--allow-unix-socket", "aws/socket"], r"protected \(deny_credentials"),
    ],
)
def test_paths_that_cannot_be_honoured(site: Site, flags: list[str], sentence: str) -> None:
    fill(site)
    refuse(site, flags, USAGE, sentence)


@pytest.mark.parametrize(
    "flags",
    [
        ["--allow", "odd", "--read", "odd", "--allow", "./odd/../odd"],  # overlapping
        ["--read", "..", "--allow", "odd"],  # around and inside
        ["--deny", "dangling", "--deny", "loop", "--deny", "no-such/thing"],
        ["--allow", ODD],
        ["--deny", ODD],
    ],
)
def test_odd_paths_that_can_be_honoured(site: Site, flags: list[str]) -> None:
    fill(site)
    (site.work / "odd").mkdir()
    done = site.run(["--allow-cwd", *flags], ["touch", "odd/here"])
    assert done.returncode == 0, done.stderr
    assert (site.work / "odd" / "here").exists()


def test_a_grant_of_the_root_opens_nothing_that_is_protected(site: Site) -> None:
    fill(site)
    (site.state / "x").write_text(SECRET)
    files = [str(path) for path in (site.home / ".aws" / "credentials", site.state / "x")]
    done = site.run(["--read", "/", "--silent"], ["cat", "/etc/passwd", *files])
    assert done.returncode == 1
    assert "root" in done.stdout
    assert SECRET not in done.stdout


def test_a_bypass_opens_its_path_alone(site: Site) -> None:
    fill(site)
    files = [str(site.home / ".aws" / name) for name in ("config", "credentials")]
    for grant in (["--read-file", files[0]], ["--read", str(site.home)]):
        done = site.run([*grant, "--bypass-protection", files[0]], ["cat", *files])
        assert (done.returncode, done.stdout) == (1, "region"), done.stderr
        assert re.search(r"unprotected +~/\.aws/config", done.stderr)
    done = site.run(["--bypass-protection", files[0]], ["cat", files[0]])
    assert (done.returncode, done.stdout) == (1, ""), "a bypass grants nothing"


def test_a_working_directory_that_has_vanished(site: Site) -> None:
    gone = site.work / "gone"
    gone.mkdir()
    wrap = ["sh", "-c", f'cd {gone} && rmdir {gone} && exec "$@"', "sh"]
    refuse(site, [], USAGE, r"the current directory does not exist", wrap=wrap)


# Walls, limits and secrets.


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--memory", "lots"], r"--memory 'lots' is not a size; write e\.g\. 512M"),
        (["--memory", ""], r"--memory '' is not a size"),
        (["--memory", "512"], r"must be 1M to"),
        (["--max-processes", "0"], r"--max-processes '0' is not a count"),
        (["--timeout", "soon"], r"--timeout 'soon' is not a duration"),
        (["--timeout", "0"], r"more than 0"),
        (["--timeout", ODD], r"--timeout 'odd-\\udcff\\udcfe' is not a duration"),
        (["--sandbox", "chroot"], r"--sandbox.*chroot.*namespace"),
        (["--sandbox", "landlock"], r"any address on the proxy's port, and listen\(\) without bind.*--accept-leaks"),
        (["--accept-leaks"], r"--sandbox landlock alone"),
        (["--env-credential", ""], r"--env-credential takes names"),
        (["--env-credential", f"file:///{SECRET}"], r"--env-credential-map REF VAR"),
        (["--env-credential", "openai", "--credential", "openai"], r"OPENAI_API_KEY holds the token"),
        (["--env-credential-map", "x", "PATH"], r"PATH means something else"),
        (["--env-credential-map", "x", "A B"], r"the name of an environment variable"),
    ],
)
def test_walls_limits_and_secrets_that_cannot_be_honoured(site: Site, flags: list[str], sentence: str) -> None:
    refuse(site, flags, USAGE, sentence)


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        ('{"filesystem": {"bypass_protection": ["~/.config/nono"]}}', r"filesystem\.bypass_protection\[0\] .* own"),
        ('{"filesystem": {"deny": ["$NOPE"]}}', r"p\.json: filesystem\.deny\[0\]: \$NOPE: .* is not expanded"),
        ('{"environment": {"set_vars": {"TMPDIR": "/x"}}}', r"environment\.set_vars: TMPDIR is set by nono itself"),
        ('{"environment": {"deny_vars": ["A=B"]}}', r"environment\.deny_vars\[0\]: expected the name of a variable"),
        ('{"env_credentials": {"x": "PATH"}}', r"PATH means something else"),
    ],
)
def test_profile_that_cannot_be_honoured(site: Site, profile: str, sentence: str) -> None:
    path = site.vault / "p.json"
    path.write_text(profile)
    refuse(site, ["--profile", str(path)], USAGE, sentence)


# Profiles.


def test_profile_that_does_not_exist(site: Site) -> None:
    refuse(site, ["--profile", "nobody"], USAGE, r"no profile 'nobody'.*There are .*codex.*profiles/NAME\.json")


def test_profile_file_that_does_not_exist(site: Site) -> None:
    refuse(site, ["--profile", "./nobody.json"], USAGE, r"nobody\.json")


def test_profile_that_cannot_be_read(site: Site) -> None:
    (site.work / "directory.json").mkdir()
    refuse(site, ["--profile", "./directory.json"], USAGE, r"directory\.json.*[Ii]s a directory")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", r"profile .*p\.json"),
        (b"{", r"profile .*p\.json"),
        (b"[]", r"profile .*p\.json.*object"),
        (b'{"filesystm": {}}', r"p\.json.*filesystm"),
        (b'{"filesystem": {"read": "/etc"}}', r"p\.json.*filesystem\.read"),
        (b'{"meta": {"name": "\xff"}}', r"p\.json.*UTF-8"),
    ],
    ids=["empty", "cut off", "no object", "unknown field", "wrong type", "not UTF-8"],
)
def test_profile_that_is_wrong(site: Site, text: bytes, sentence: str) -> None:
    path = site.vault / "p.json"
    path.write_bytes(text)
    refuse(site, ["--profile", str(path)], USAGE, sentence)


@pytest.mark.parametrize(
    ("upstream", "sentence"),
    [
        ("http://example.org/", r"clear text.*https://"),
        ("ftp://example.org/", r"not a URL"),
        ("https://", r"not a URL"),
        ("https://example.org/../x", r"'\.\.'"),
        ("https://user@example.org/", r"plain ASCII URL without user"),
    ],
)
def test_profile_with_a_wrong_upstream(site: Site, upstream: str, sentence: str) -> None:
    profile = site.profile(site.store_in_files(), upstreams={"openai": upstream})
    refuse(site, ["--profile", str(profile)], USAGE, sentence)


# The machine.


def test_kernel_without_user_namespaces(site: Site) -> None:
    require_command("unshare")
    # Inside a user namespace of its own, even an ordinary user may set its limit to none.
    none_left = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    wrap = ["unshare", "--user", "--map-root-user", "sh", "-c", none_left, "sh"]
    refuse(site, ["--block-net", "--silent", "--sandbox", "namespace"], OWN, r"max_user_namespaces", wrap=wrap)


@pytest.mark.parametrize("attempt", range(6))
def test_an_agent_that_ends_at_once_ends_well_without_namespaces(site: Site, attempt: int) -> None:
    """The mediator is told to end while its thread is starting."""
    require_command("unshare")
    none_left = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    wrap = ["unshare", "--user", "--map-root-user", "sh", "-c", none_left, "sh"]
    done = site.run(["--block-net"], ["true"], wrap=wrap)
    assert done.returncode == 0, done.stderr
    assert "seccomp notifier" in done.stderr


def test_kernel_without_landlock(site: Site) -> None:
    refuse(site, ["--block-net"], OWN, r"Landlock", wrap=WITHOUT_LANDLOCK)


def test_no_memory_can_be_locked(site: Site) -> None:
    require_command("prlimit")
    if os.geteuid() == 0:
        pytest.skip("root may lock memory without limit")
    profile = site.profile(site.store_in_files())
    wrap = ["prlimit", "--memlock=0:0"]
    refuse(site, ["--profile", str(profile)], OWN, r"RLIMIT_MEMLOCK", wrap=wrap)


# The upstream: what is wrong there is told to the agent, which runs already.


def wrong_upstream(site: Site, upstream: str | None = None) -> str:
    """Return the message of the 502 that the agent gets from the openai route."""
    profile = site.profile(site.store_in_files(), upstreams={"openai": upstream} if upstream else {})
    done = site.run(["--profile", str(profile), "--allow-cwd"], site.agent("ask_once"))
    (answer,) = lines(done.stdout)
    assert answer["status"] == 502
    assert answer["x-nono-error"]
    error = answer["body"]["error"]
    assert error["type"] == "nono_error"
    assert not any(received.accepted for received in site.upstream.received)
    assert KEYS["openai"] not in done.stdout + done.stderr
    return str(error["message"])


def test_upstream_name_that_does_not_resolve(site: Site) -> None:
    assert re.search(r"no-such-host\.invalid", wrong_upstream(site, "https://no-such-host.invalid/v1"))


def test_upstream_that_refuses_connections(site: Site) -> None:
    assert re.search(r"localhost", wrong_upstream(site, "https://localhost:1/v1"))


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Site]:
    """A site whose services have a certificate of another authority than the one that its profile trusts."""
    (tmp_path / "other").mkdir()
    with Site(tmp_path / "site", certificates.make(str(tmp_path / "other"))) as made:
        yield made


def test_upstream_with_a_wrong_certificate(impostor: Site) -> None:
    assert re.search(r"certificate", wrong_upstream(impostor))
