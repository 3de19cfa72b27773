"""config.toml: the flags that a user gives each time, and who may write it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nono.cli import args
from nono.cli.config import configured
from nono.errors import UsageError
from tests.runs import Site


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file is looked for."""
    directory = tmp_path / "config" / "nono"
    directory.mkdir(parents=True, mode=0o755)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return directory / "config.toml"


def parsed(config: Path, text: str, *argv: str) -> dict[str, object]:
    config.write_text(text)
    config.chmod(0o600)
    return vars(args.parse(argv)[1])


def mistake(config: Path, text: str, *argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parsed(config, text, *(argv or ("run", "--", "true")))
    assert caught.value.exit_status == 2
    said = str(caught.value)
    assert str(config) in said
    return said


def test_lists_add_up_and_anything_else_is_replaced(config: Path) -> None:
    text = """
        [run]
        allow = ["~/src", "/opt/with space"]
        open-port = [80, 443]
        profile = "mine"
        silent = true
        verbose = 2
        timeout = 600
        allow-cwd = false
        env-credential-map = [["file:///k", "KEY"], ["other", "OTHER"]]
        sandbox = "notify"
    """
    found = parsed(
        config, text, "run", "--allow", "/srv", "-p", "other", "-v", "--open-port", "22", "--", "cmd", "--read"
    )
    assert found["allow"] == ["~/src", "/opt/with space", "/srv"]
    assert found["open_port"] == [80, 443, 22]
    assert found["profile"] == "other"
    assert (found["silent"], found["verbose"], found["allow_cwd"]) == (True, 3, False)
    assert (found["timeout"], found["sandbox"]) == ("600", "notify")
    assert found["env_credential_map"] == [["file:///k", "KEY"], ["other", "OTHER"]]
    assert found["command"] == ["cmd", "--read"]


def test_a_verb_has_its_own_section_and_its_actions_theirs(config: Path) -> None:
    text = '[run]\nallow-cwd = true\n[credential.set]\nstore = "file"\n[proxy]\nport = 8080\n'
    assert parsed(config, text, "proxy")["port"] == 8080
    assert parsed(config, text, "credential", "set", "openai")["store"] == "file"
    assert parsed(config, text, "credential", "set", "--store", "session", "openai")["store"] == "session"
    assert parsed(config, text, "credential", "list")["store"] is None
    assert parsed(config, text, "run", "--", "x")["allow_cwd"] is True


def test_no_config_and_help_look_at_nothing_in_it(config: Path) -> None:
    text = "[run]\nallow = ["
    assert parsed(config, text, "run", "--no-config", "--", "x")["allow"] == []
    with pytest.raises(SystemExit):
        parsed(config, text, "run", "--help")


def test_why_explains_a_run_with_what_the_run_would_have(config: Path) -> None:
    text = '[run]\nallow = ["/opt"]\nlog-file = "/tmp/log"\n'
    assert parsed(config, text, "why", "--path", "/opt")["allow"] == ["/opt"]


def test_why_self_does_not_look_for_it(config: Path) -> None:
    """Inside a sandbox it cannot be read."""
    config.write_text("[run]\nallow = [")
    found = configured(str(config), "why", args.parser_of("why")[1], ["--self"], ["why"])
    assert (found.words, found.shown) == ([], [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[run]\nalow = []", "there is no alow in [run]; did you mean allow?"),
        ("[run]\nallow_cwd = true", "did you mean allow-cwd?"),
        ("[run]\nhelp = true", "there is no help in [run]"),
        ("[run]\nno-config = true", "there is no no-config"),
        ("[rnu]\nallow = []", "[rnu] is no verb; did you mean [run]?"),
        ("[nothing-like-it]\n", "[nothing-like-it] is no verb; there are run, "),
        ("allow = []", "allow is in no section"),
        ("[run]\nallow = '~/src'", "found '~/src', expected a list, e.g. allow = [\"DIR\"]"),
        ("[run]\nallow = [5]", "found 5, expected a string"),
        ("[run]\nallow = [[]]", "found a list, expected a string"),
        ("[run]\nsilent = 'yes'", "found 'yes', expected true or false"),
        ("[run]\nsilent = 1", "found 1, expected true or false"),
        ("[run]\nprofile = ['a']", "found a list, expected a string"),
        ("[run]\nprofile = 2026-01-01", "found a date, expected a string"),
        ("[run]\nopen-port = [true]", "found true, expected a number"),
        ("[run]\nopen-port = [70000]", "70000 is not a port"),
        ("[run]\nopen-port = 80", "found 80, expected a list, e.g. open-port = [N]"),
        ("[run]\nsandbox = 'none'", "found 'none', expected one of auto, namespace, notify, landlock"),
        ("[run]\nverbose = 99", "found 99, expected a number from 0 to 9"),
        ("[run]\ntimeout = 1.5", "found a number with a point, expected a string"),
        ("[run]\nenv-credential-map = ['a', 'B']", "found 'a', expected lists of 2 strings"),
        ("[run]\nenv-credential-map = [['--allow', '/']]", "expected a string that does not begin with -"),
        ("[run]\nallow = [", "Invalid value (at end of document)"),
        ("[run]\nallow = ['\x01']", "line"),
        ("credential = 5", "credential is in no section"),
        ("run = 5", "run is in no section"),
        ("[run.set]\n", "there is no set in [run]"),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("#" * (1 << 21), "larger than 1 MiB"),
    ],
)
def test_mistakes_are_named(config: Path, text: str, says: str) -> None:
    assert says in mistake(config, text)


def test_mistakes_of_actions_are_named(config: Path) -> None:
    said = mistake(config, "[credential]\nstore = 'file'", "credential", "list")
    assert "store in [credential] is no action; write a section, e.g. [credential.set]" in said
    said = mistake(config, "[credential.set]\nstor = 'file'", "credential", "set", "openai")
    assert "there is no stor in [set]" in said or "there is no stor" in said


def test_what_is_no_text_is_named(config: Path) -> None:
    config.write_bytes(b"[run]\nprofile = '\xff'")
    with pytest.raises(UsageError, match="not valid UTF-8"):
        args.parse(["run", "--", "x"])


def test_a_file_that_others_may_write_is_refused(config: Path) -> None:
    config.write_text("")
    for mode in (0o666, 0o620, 0o602):
        config.chmod(mode)
        with pytest.raises(UsageError, match="other users may write it"):
            args.parse(["run", "--", "x"])
    config.chmod(0o644)
    args.parse(["run", "--", "x"])
    config.parent.chmod(0o775)
    with pytest.raises(UsageError, match=f"{config.parent}: other users may write it"):
        args.parse(["run", "--", "x"])
    args.parse(["run", "--no-config", "--", "x"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_a_file_of_another_user_is_refused(config: Path) -> None:
    config.write_text("")
    os.chown(config, 12345, -1)
    with pytest.raises(UsageError, match="belongs to another user"):
        args.parse(["run", "--", "x"])


def test_what_is_no_file_is_refused(config: Path) -> None:
    os.mkfifo(config)
    with pytest.raises(UsageError, match="not a regular file"):  # without waiting for somebody who writes
        args.parse(["run", "--", "x"])
    config.unlink()
    config.symlink_to("nowhere")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        args.parse(["run", "--", "x"])


def test_a_link_denies_what_it_leads_to_even_where_it_is_ignored(config: Path, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles" / "nono.toml"
    target.parent.mkdir()
    target.write_text('[run]\nallow = ["/opt"]\n')
    config.symlink_to(target)
    found = args.parse(["run", "--", "x"])[1]
    assert (found.deny, found.allow) == ([str(target)], ["/opt"])
    found = args.parse(["run", "--no-config", "--", "x"])[1]
    assert (found.deny, found.allow) == ([str(target)], [])
    assert args.parse(["credential", "list"])  # starts no agent


def test_a_link_that_an_agent_may_turn_elsewhere_is_refused(config: Path, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles" / "nono.toml"
    target.parent.mkdir()
    target.write_text("")
    (tmp_path / "way").symlink_to(target)
    (tmp_path / "dots").symlink_to(target.parent)
    for through in (tmp_path / "way", tmp_path / "dots" / "nono.toml", Path("../../dots/nono.toml")):
        config.unlink(missing_ok=True)
        config.symlink_to(through)
        with pytest.raises(UsageError, match=f"ln -sfn {target} {config}"):
            args.parse(["run", "--", "x"])
    config.unlink()
    config.symlink_to(config)
    with pytest.raises(UsageError):
        args.parse(["run", "--", "x"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08X}" for c in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value) if value is not None else '""'


@given(
    key=st.sampled_from(["allow", "silent", "verbose", "profile", "open-port", "env-credential-map", "nothing"]),
    value=VALUES,
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_value_is_taken_or_named(config: Path, key: str, value: object) -> None:
    config.write_text(f"[run]\n{key} = {toml(value)}\n")
    try:
        args.parse(["run", "--", "x"])
    except UsageError:
        pass  # named; anything else is a bug


def nono(site: Site, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nono", *argv]
    return subprocess.run(command, cwd=site.work, env=site.environment, capture_output=True, text=True, check=False)


@pytest.fixture
def written(site: Site) -> Path:
    directory = site.home / ".config" / "nono"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "config.toml"


def test_a_run_has_it_and_who_wants_to_see_it_is_told(site: Site, written: Path) -> None:
    (site.home / "src").mkdir()
    (site.home / "src" / "note").write_text("hello\n")
    written.write_text('[run]\nread = ["~/src"]\nsilent = true\n')
    result = nono(site, "run", "--", "cat", f"{site.home}/src/note")
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello\n", "")
    denied = nono(site, "run", "--no-config", "-s", "--", "cat", f"{site.home}/src/note")
    assert denied.returncode == 1
    assert denied.stdout == ""
    shown = nono(site, "run", "--dry-run", "--", "true")
    said = " ".join(shown.stderr.split())
    assert "~/.config/nono/config.toml adds --read=~/src --silent" in said


def test_a_mistake_that_it_makes_says_so(site: Site, written: Path) -> None:
    written.write_text("[run]\nblock-net = true\n")
    result = nono(site, "run", "--credential", "openai", "--", "true")
    assert result.returncode == 2
    assert "config.toml adds --block-net; --no-config leaves that out" in result.stderr


def test_no_secret_of_it_is_shown(site: Site, written: Path) -> None:
    written.write_text('[run]\nenv-credential-map = [["sk-pasted-0123456789", "KEY"]]\n')
    result = nono(site, "run", "--dry-run", "-v", "--", "true")
    assert "sk-pasted" not in result.stdout + result.stderr


def test_the_agent_can_write_neither_the_file_nor_what_it_links_to(site: Site, written: Path) -> None:
    real = site.home / "src" / "dotfiles" / "nono.toml"
    real.parent.mkdir(parents=True)
    real.write_text("[run]\n")
    (site.home / "src" / "other").write_text("")
    written.symlink_to(real)
    script = (
        f"echo >> {site.home}/src/other && echo wrote; echo >> {real} || echo not; "
        f"mv {real.parent} {site.home}/src/moved || echo not; rm {real} || echo not; echo >> {written} || echo not"
    )
    for flags in ([], ["--no-config"]):
        result = nono(site, "run", "-s", *flags, "--allow", f"{site.home}/src", "--", "sh", "-c", script)
        assert result.stdout.split() == ["wrote", "not", "not", "not", "not"], result.stderr
    assert real.read_text() == "[run]\n"


def test_without_the_file_nothing_more_is_imported(site: Site, written: Path) -> None:
    script = (
        "import sys; sys.argv = ['nono']; from nono.cli import args; args.parse(['run', '--', 'x']); "
        "print(*[name for name in ('tomllib', 'nono.cli.config', 'difflib', 'shutil') if name in sys.modules])"
    )
    for text, imported in (None, ""), ("", "tomllib nono.cli.config"):
        if text is not None:
            written.write_text(text)
        command = [
            sys.executable,
            "-I",
            "-c",
            f"sys = __import__('sys'); sys.path.insert(0, {os.getcwd()!r}); {script}",
        ]
        result = subprocess.run(command, env=site.environment, capture_output=True, text=True, check=True)
        assert result.stdout.strip() == imported


@pytest.mark.parametrize("linked", [False, True])
def test_the_agent_makes_none_where_there_is_none(site: Site, linked: bool) -> None:
    directory = site.home / ".config" / "nono"
    elsewhere = site.home / "src" / "dotfiles"
    elsewhere.mkdir(parents=True)
    if linked:
        directory.parent.mkdir(exist_ok=True)
        directory.symlink_to(elsewhere)
    (site.home / "src" / "note").write_text("")
    script = (
        f"cd {site.home}; echo > src/note && echo wrote; mkdir -p .config/nono; "
        "echo '[run]' > .config/nono/config.toml; mv .config moved; rm .config/nono; mv src/dotfiles src/moved; "
        "echo '[run]' > src/dotfiles/config.toml"
    )
    result = nono(site, "run", "-s", "--allow", str(site.home), "--", "sh", "-c", script)
    assert result.stdout == "wrote\n", result.stderr
    assert not (directory / "config.toml").exists()
    assert directory.is_symlink() == linked
