"""Whole runs in a project whose files are signed, as a user has them: every verb that starts something, and what is
said of it; as an ordinary user; and together with all else that a run can be.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.runs import TESTED_WALL, WALL, Site, as_ordinary_user, lines, unfolded
from tests.signing import Signer

HAS_MOUNTS = TESTED_WALL != "notify"
SYSTEM_PYTHON = "/usr/bin/python3"
CONTENT = "how to do it\n"
NAMES = ("CLAUDE.md", ".claude/skills/a/SKILL.md")
FLAGS = ["--allow-cwd", "--block-net"]
# tries to change each signed file that it is told of, in every way that a script has, and says what that came to
AGENT = """
import os, shutil, sys
ways = {
    "write": lambda path: open(path, "a").write("x"), "truncate": lambda path: os.truncate(path, 0),
    "unlink": os.unlink,
    "replace": lambda path: os.replace("harmless", path), "move": lambda path: os.rename(path, "moved"),
    "link": lambda path: os.link(path, "linked"), "chmod": lambda path: os.chmod(path, 0o777),
    "move directory": lambda path: os.rename(os.path.dirname(path), "moved"),
}
open(os.path.join(os.environ["TMPDIR"], "harmless"), "w").close()
for path in sys.argv[1:]:
    for name, way in ways.items():
        try:
            way(path)
        except OSError:
            continue
        print(name, path)
    print(open(path).read(), end="")
"""


class Project:
    """A site whose working directory is a project with signed files."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.signer = Signer().trusted_by(site.home)
        self.files = [site.work / name for name in NAMES]
        for path in self.files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(CONTENT)
        self.signer.sign(*self.files)
        self.policy()

    def policy(self, **members: Any) -> None:
        self.signer.policy(self.site.work, self.signer, **{"includes": ["CLAUDE.md", "**/SKILL.md"], **members})

    def tamper(self) -> None:
        self.files[0].write_text("something else\n")

    def records(self) -> list[dict[str, Any]]:
        return [record for record in lines(self.site.audit_log()) if record.get("kind") == "trust"]


@pytest.fixture
def project(site: Site) -> Project:
    return Project(site)


def refused(done: subprocess.CompletedProcess[str], *names: str) -> None:
    """The agent has not started, and each file is named on a line of its own."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("nono: ")
    assert "nothing was started" in first
    for name in names:
        assert any(line.startswith(f"      {name} ") for line in rest), done.stderr


def test_what_is_signed_is_read_and_stays_as_it_is(project: Project) -> None:
    done = project.site.run(FLAGS, [sys.executable, "-c", AGENT, *NAMES])
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == ("" if HAS_MOUNTS else "chmod CLAUDE.md\n")
        + CONTENT
        + ("" if HAS_MOUNTS else f"chmod {NAMES[1]}\n")
        + CONTENT
    )
    policy = project.site.work / "trust-policy.json"
    assert f"trust 2 files verified, signed by default ({policy})" in unfolded(done.stderr)
    assert {(record["what"], record.get("path"), record.get("outcome")) for record in project.records()} >= {
        ("file", name, "verified") for name in NAMES
    }


@pytest.mark.skipif(not os.path.exists(SYSTEM_PYTHON), reason="this Python is not one that everybody may read")
def test_an_ordinary_user_has_the_same(project: Project) -> None:
    with as_ordinary_user(project.site, 12345) as prefix:
        done = project.site.run(FLAGS, [SYSTEM_PYTHON, "-c", AGENT, *NAMES], wrap=prefix)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(CONTENT) == 2
        assert done.stdout == 2 * CONTENT or not HAS_MOUNTS
        project.tamper()
        refused(project.site.run(FLAGS, ["echo", "started"], wrap=prefix), "CLAUDE.md")


def test_the_agent_works_beside_them(project: Project) -> None:
    if not HAS_MOUNTS:
        pytest.skip("without a mount namespace nothing new can be made in a directory with a signed file")
    script = "touch new .claude/skills/a/new && mkdir d && mv new d && cp CLAUDE.md copy && git init -q . && ls d"
    done = project.site.run(FLAGS, ["sh", "-c", script])
    assert (done.returncode, done.stdout) == (0, "new\n"), done.stderr


def test_what_was_tampered_with_is_refused(project: Project) -> None:
    project.tamper()
    marker = project.site.work / "started"
    refused(project.site.run(FLAGS, ["touch", str(marker)]), "CLAUDE.md")
    assert not marker.exists()
    assert project.records() == []
    for flags in ([*FLAGS, "--silent"], [*FLAGS, "--dry-run"], ["--block-net"], ["--read", ".", "--block-net"]):
        refused(project.site.run(flags, ["true"]), "CLAUDE.md")


def test_an_override_is_said_loudly(project: Project) -> None:
    project.tamper()
    done = project.site.run([*FLAGS, "--trust-override"], ["cat", "CLAUDE.md"])
    assert (done.returncode, done.stdout) == (0, "something else\n")
    assert "warning --trust-override: the agent gets 1 file that is not verified" in unfolded(done.stderr)
    assert [record["override"] for record in project.records() if record["what"] == "rules"] == [True]


def test_an_override_is_never_written_down(project: Project) -> None:
    config = project.site.home / ".config/nono/config.toml"
    config.write_text("[run]\ntrust-override = true\n")
    done = project.site.run(FLAGS, ["true"])
    assert done.returncode == 2
    assert "--trust-override is typed each time, or not at all" in done.stderr
    config.unlink()
    profile = project.site.vault / "p.json"
    for key in ("trust_override", "trust-override"):
        profile.write_text(json.dumps({key: True}))
        done = project.site.run([*FLAGS, "-p", str(profile)], ["true"])
        assert done.returncode == 2
        assert key in done.stderr


def test_a_profile_may_skip_directories(project: Project) -> None:
    other = project.site.work / "third-party/SKILL.md"
    other.parent.mkdir()
    other.write_text("from elsewhere")
    refused(project.site.run(FLAGS, ["true"]), "third-party/SKILL.md")
    profile = project.site.vault / "p.json"
    profile.write_text(json.dumps({"skipdirs": ["third-party"]}))
    for flags in (["-p", str(profile)], ["--skip-dir", "third-party"]):
        assert project.site.run([*FLAGS, *flags], ["true"]).returncode == 0
    profile.write_text(json.dumps({"skipdirs": ["third/party"]}))
    for flags in (["-p", str(profile)], ["--skip-dir", "third/*"]):
        done = project.site.run([*FLAGS, *flags], ["true"])
        assert done.returncode == 2
        assert "the name of a directory" in done.stderr


def test_a_dry_run_verifies_and_starts_nothing(project: Project) -> None:
    done = project.site.run([*FLAGS, "--dry-run"], ["touch", "started"])
    assert done.returncode == 0
    assert "2 files verified" in done.stdout
    assert "(signed, read-only)" in done.stdout
    assert not (project.site.work / "started").exists()


@pytest.mark.skipif(not HAS_MOUNTS, reason="without a mount namespace the agent can make no such file")
def test_what_the_run_leaves_is_told_and_refused_the_next_time(project: Project) -> None:
    script = "mkdir -p new && echo evil > new/SKILL.md"
    done = project.site.run([*FLAGS, "--silent"], ["sh", "-c", script])
    assert done.returncode == 0
    assert "new/SKILL.md, new since this run, is not signed" in unfolded(done.stderr)
    assert [record["path"] for record in project.records() if record["what"] == "new"] == ["new/SKILL.md"]
    refused(project.site.run(FLAGS, ["true"]), "new/SKILL.md")


@pytest.mark.skipif(not HAS_MOUNTS, reason="without a mount namespace the agent can make no such file")
def test_an_undone_run_leaves_nothing_to_be_told_the_next_time(project: Project) -> None:
    done = project.site.run([*FLAGS, "--rollback"], ["sh", "-c", "echo evil > .claude/SKILL.md; echo x > other"])
    assert done.returncode == 0, done.stderr
    refused(project.site.run(FLAGS, ["true"]), ".claude/SKILL.md")
    assert project.site.nono(["rollback", "restore", "last"]).returncode == 0
    assert all(path.read_text() == CONTENT for path in project.files)
    assert project.site.run(FLAGS, ["true"]).returncode == 0


def test_a_stream_does_not_lead_around_it(project: Project) -> None:
    before = project.files[0].read_text()
    with project.files[0].open("ab") as stream:
        with project.site.start(FLAGS, ["echo", "more"], stdout=stream) as process:
            _, stderr = process.communicate()
    assert process.returncode == 2
    assert b"signed, read-only" in stderr
    assert project.files[0].read_text() == before


def test_a_grant_of_the_file_itself_does_not_either(project: Project) -> None:
    done = project.site.run(["--write-file", "CLAUDE.md", "--block-net"], ["true"])
    assert done.returncode == 2
    assert "cannot be made writable (signed, read-only" in done.stderr


def test_every_verb_that_starts_something_verifies(project: Project) -> None:
    shell = project.site.vault / "shell"
    shell.write_text("#!/bin/sh\necho started\n")
    shell.chmod(0o755)
    verbs = {
        "shell": (["shell", *WALL, *FLAGS], {"SHELL": str(shell)}),
        "wrap": (["wrap", *FLAGS, "--", "echo", "started"], {}),
        "learn": (["learn", *WALL, "--block-net", "--force", "-o", "learned.json", "--", "echo", "started"], {}),
    }
    for arguments, environment in verbs.values():
        done = project.site.nono(arguments, environment=environment)
        assert done.stdout == "started\n", done.stderr
        assert "2 files verified" in done.stderr
    project.tamper()
    for arguments, environment in verbs.values():
        refused(project.site.nono(arguments, environment=environment), "CLAUDE.md")


def test_wrap_leaves_them_read_only_and_can_make_nothing_beside_them(project: Project) -> None:
    script = "echo x >> CLAUDE.md; touch new; cat CLAUDE.md"
    done = project.site.nono(["wrap", *FLAGS, "--", "sh", "-c", script])
    assert done.stdout == CONTENT
    assert not (project.site.work / "new").exists()


@pytest.mark.parametrize("probe", [[], ["--probe"]])
def test_why_names_the_reason(project: Project, probe: list[str]) -> None:
    done = project.site.nono(["why", *WALL, *FLAGS, *probe, "--path", "CLAUDE.md", "--op", "write"])
    assert done.returncode == 3
    said = f"It stays read-only (signed, read-only: {project.files[0]}), whatever is granted."
    assert said in unfolded(done.stdout)
    assert project.site.nono(["why", *WALL, *FLAGS, *probe, "--path", "CLAUDE.md"]).returncode == 0
    beside = project.site.nono(["why", *WALL, *FLAGS, *probe, "--path", "new", "--op", "write"])
    assert beside.returncode == (0 if HAS_MOUNTS else 3)
    inside = [sys.executable, "-m", "nono", "why", "--self", "--path", "CLAUDE.md", "--op", "write"]
    done = project.site.run([*FLAGS, "-r", _own_path()], inside)
    assert done.returncode == 3, done.stderr
    assert "signed, read-only" in unfolded(done.stdout)


@pytest.mark.skipif(not HAS_MOUNTS, reason="what Landlock denies is told as before")
def test_what_was_denied_of_them_is_explained_at_the_end(project: Project) -> None:
    path = project.files[0]
    script = f"echo >> {path}; rm -f {path}; true"
    text = unfolded(project.site.run(FLAGS, ["sh", "-c", script]).stderr)
    assert f"denied write {path}" in text
    assert f"it stays read-only (signed, read-only: {path})" in text


def test_below_tmp_the_agent_keeps_a_tmp_of_its_own(project: Project) -> None:
    if not str(project.site.work).startswith("/tmp/") or not HAS_MOUNTS:
        pytest.skip("the site is not below /tmp, or there are no mounts")
    script = "touch /tmp/mine && ls /tmp/mine && touch beside && echo x >> CLAUDE.md"
    done = project.site.run(FLAGS, ["sh", "-c", script])
    assert done.stdout == "/tmp/mine\n"
    assert (project.site.work / "beside").exists()
    assert not Path("/tmp/mine").exists()
    assert project.files[0].read_text() == CONTENT


def test_a_temporary_directory_elsewhere_is_no_way_around_it(project: Project) -> None:
    """There what lies below /tmp shows in it, by a second name."""
    if not str(project.site.work).startswith("/tmp/") or not HAS_MOUNTS:
        pytest.skip("the site is not below /tmp, or there are no mounts")
    work = str(project.site.work)
    script = (
        f"cd $TMPDIR{work[4:]} && ls && for f in CLAUDE.md {NAMES[1]}; do echo x >> $f; rm -f $f; done; touch beside"
    )
    done = project.site.run(FLAGS, ["sh", "-c", script], environment={"TMPDIR": "/var/tmp"})
    assert "CLAUDE.md" in done.stdout, done.stderr
    assert all(path.read_text() == CONTENT for path in project.files)
    assert (project.site.work / "beside").exists()


def test_without_the_library_nothing_starts(project: Project) -> None:
    hidden = project.site.vault / "cryptography"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ImportError('hidden')\n")
    done = project.site.run(FLAGS, ["true"], environment={"PYTHONPATH": f"{project.site.vault}:{_own_path()}"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'nono[trust]'" in done.stderr


def _own_path() -> str:
    return str(Path(__file__).parents[2])


def test_with_few_descriptors_it_is_one_or_the_other(project: Project) -> None:
    for number in range(50):
        path = project.site.work / f"many/{number}/SKILL.md"
        path.parent.mkdir(parents=True)
        path.write_text(CONTENT)
        project.signer.sign(path)
    for most in (20, 32, 48, 64):
        done = project.site.run(
            FLAGS, ["true"], preexec_fn=lambda most=most: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        )
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_a_project_of_a_clone_is_refused_until_its_user_has_read_it(project: Project) -> None:
    Signer("maintainer").policy(project.site.work, project.signer, includes=["CLAUDE.md"])
    done = project.site.run(FLAGS, ["true"])
    assert done.returncode == 1
    assert "sign it yourself: nono trust sign-policy" in done.stderr
    done = project.site.run([*FLAGS, "--trust-override"], ["true"])
    assert done.returncode == 0
    assert "what the project's policy forbids is not asked" in unfolded(done.stderr)


def test_a_policy_of_somebody_elses_is_passed_over(site: Site) -> None:
    (site.work / "trust-policy.json").write_text('{"Version": "2012-10-17", "Statement": []}')
    (site.work / "CLAUDE.md").write_text(CONTENT)
    done = site.run(FLAGS, ["sh", "-c", "echo x >> CLAUDE.md"])
    assert done.returncode == 0
    assert "is not a trust policy of nono's and is passed over" in unfolded(done.stderr)
    assert (site.work / "CLAUDE.md").read_text() != CONTENT


def test_a_signer_outside_of_the_sandbox_who_changes_a_file_in_time_is_caught(project: Project) -> None:
    """The agent's start waits for a fifo that the profile's key comes through; the file changes meanwhile."""
    fifo = project.site.vault / "fifo"
    os.mkfifo(fifo)
    program = textwrap.dedent(
        f"""
        import os, sys
        from nono.session import trust
        recheck = trust.Trusted.recheck
        from nono.session import verification
        def late(self, recheck=verification.Verified.recheck):
            open({str(project.files[0])!r}, "a").write("late")
            recheck(self)
        verification.Verified.recheck = late
        sys.argv[1:] = ["run", *{WALL!r}, *{FLAGS!r}, "--", "touch", "started"]
        from nono.cli import main
        main()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project.site.work, capture_output=True, text=True, timeout=60,
        env={**project.site.environment, "PYTHONPATH": _own_path()},
    )  # fmt: skip
    assert done.returncode == 1
    assert "CLAUDE.md was changed after it was verified; nothing was started" in done.stderr
    assert not (project.site.work / "started").exists()
