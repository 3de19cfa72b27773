"""A run that can be undone, as a user has it: the question on a terminal; a disk that is full, or cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nono.cli.review import Bar
from tests.e2e.terminals import TerminalSession, nono
from tests.rollback.trees import Picture, grow, picture
from tests.runs import Site, unfolded

FLAGS = ["--rollback", "--allow-cwd", "--block-net"]
AGENT = "echo new > added; echo more >> tree/edited; rm tree/removed"


@pytest.fixture
def before(site: Site) -> Picture:
    grow(site.work / "tree")
    return picture(site.work)


def in_terminal(site: Site, script: str = AGENT, *flags: str) -> TerminalSession:
    return TerminalSession(site, nono("sh", "-c", script, flags=[*FLAGS, *flags]))


def test_the_user_sees_what_changed_and_puts_all_back(site: Site, before: Picture) -> None:
    with in_terminal(site) as session:
        shown = session.expect(b"[k] ")
        for line in (b"added       ~/work/added", b"modified", b"removed"):
            assert line.replace(b"~/work/", b"") in shown.replace(os.fsencode(site.work) + b"/", b"")
        session.type(b"d\n")
        assert b"+more" in session.expect(b"[k] ")
        session.type(b"what?\n")
        session.expect(b"[k] ")
        session.type(b"r\n")
        session.expect(b"restored")
        assert session.wait() == 0
    assert picture(site.work) == before


@pytest.mark.parametrize("answer", [b"k\n", b"\n", b"\x04", b"\x03", b"c\nk\nk\nk\n"])
def test_whatever_is_no_clear_answer_keeps(site: Site, before: Picture, answer: bytes) -> None:
    with in_terminal(site) as session:
        for line in answer.splitlines(keepends=True):
            session.expect(b"[k] ")
            session.type(line)
        session.expect(b"kept")
        assert session.wait() == 0
    assert (site.work / "added").exists()
    assert picture(site.work) != before


def test_files_are_chosen_one_by_one(site: Site, before: Picture) -> None:
    with in_terminal(site, f"{AGENT}; mkdir new; echo > new/file; echo > new/other") as session:
        session.expect(b"[k] ")
        session.type(b"c\n")
        for name, answer in (
            (b"added", b"k"), (b"new/", b"r"), (b"new/file", b"k"), (b"new/other", b"r"), (b"tree/edited", b"r"),
        ):  # fmt: skip
            assert name in session.expect(b"[k] ")
            session.type(answer + b"\n")
        assert b"tree/removed" in session.expect(b"[k] ")
        session.type(b"q\n")
        session.expect(b"restored")
        assert session.wait() == 0
    assert (site.work / "added").exists()
    assert (site.work / "new/file").exists()
    assert not (site.work / "new/other").exists()
    assert not (site.work / "tree/removed").exists()
    assert picture(site.work)[b"/tree/edited"] == before[b"/tree/edited"]


def test_keys_that_were_typed_for_the_agent_are_no_answer(site: Site, before: Picture) -> None:
    with in_terminal(site, f"{AGENT}; echo ready; sleep 1") as session:
        session.expect(b"ready")
        session.type(b"r\nr\n")
        session.expect(b"[k] ")
        session.type(b"k\n")
        session.expect(b"kept")
        session.wait()
    assert picture(site.work) != before


@pytest.mark.parametrize("flag", ["--no-rollback-prompt", "--silent"])
def test_who_does_not_want_to_be_asked_is_not(site: Site, before: Picture, flag: str) -> None:
    with in_terminal(site, AGENT, flag) as session:
        assert session.wait() == 0
    assert picture(site.work) != before
    assert site.nono(["rollback", "restore", "last"]).returncode == 0
    assert picture(site.work) == before


def test_without_changes_nothing_is_asked(site: Site, before: Picture) -> None:
    with in_terminal(site, "exit 3") as session:
        session.expect(b"nothing of what is tracked was changed")
        assert session.wait() == 3
    assert picture(site.work) == before


def test_the_bar_is_shown_after_a_second_and_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    now = 0.0
    bar = Bar(lambda: now)
    bar(10, 0)
    bar(0, 10_000_000)
    assert capsys.readouterr().err == ""
    now = 1.5
    bar(5_000_000, 10_000_000)
    assert " 50% of 10 MB" in capsys.readouterr().err
    bar(0, -1)
    assert capsys.readouterr().err == "\r\x1b[K"
    bar(0, -1)
    assert capsys.readouterr().err == ""


# ── a full disk, and one that cannot be written ──────────────────────────────────────────────────────────────────────


def in_namespace(site: Site, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own: mounts in it are nobody else's."""
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "--propagation", "private", "sh", "-ec", script],
        cwd=site.work,
        env={**site.environment, "NONO": f"{sys.executable} -m nono"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "unshare" in done.stderr:
        pytest.skip(f"no mount namespace can be had: {done.stderr}")
    return done


def test_a_full_disk_loses_nothing(site: Site) -> None:
    """On a small disk the agent leaves no room; what was there before does not fit beside it."""
    script = f"""
        mkdir small; mount -t tmpfs -o size=4m none small; cd small
        mkdir kept; for i in 1 2 3; do dd if=/dev/zero of=kept/$i bs=300k count=1 2>/dev/null; echo $i >> kept/$i; done
        sha256sum kept/* > {site.tmp}/before
        $NONO run {" ".join(FLAGS)} -- sh -c 'rm kept/1; echo x > kept/2; cat /dev/zero > filler || true' 2>&1
        ls -l kept > {site.tmp}/state
        if $NONO rollback restore last kept 2>&1; then echo RESTORED; fi
        ls -l kept | diff {site.tmp}/state - && ls -A | tr '\\n' ' '
        rm filler
        $NONO rollback restore last kept 2>&1
        sha256sum -c {site.tmp}/before
    """
    done = in_namespace(site, script)
    said = unfolded(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No space left on device (it takes 608 kB, 0 kB are free)" in said
    assert "RESTORED" not in said
    assert "filler kept" in said
    assert said.endswith("kept/1: OK kept/2: OK kept/3: OK")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can remount")
def test_a_disk_that_cannot_be_written_any_more_loses_nothing(site: Site) -> None:
    script = f"""
        mkdir small; mount -t tmpfs -o size=4m none small; cd small
        echo one > a; echo two > b
        $NONO run {" ".join(FLAGS)} -- sh -c 'echo x > a; rm b' 2>&1
        mount -o remount,ro .
        if $NONO rollback restore last 2>&1; then echo RESTORED; fi
        cat a; ls -A | tr '\\n' ' '
        mount -o remount,rw .
        $NONO rollback restore last 2>&1
        cat a b
    """
    done = in_namespace(site, script)
    said = unfolded(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was changed: Read-only file system x a" in said
    assert "RESTORED" not in said
    assert said.endswith("one two")


def test_a_store_that_is_full_stops_the_run_before_it_starts(site: Site) -> None:
    script = f"""
        mkdir -p {site.state}; mount -t tmpfs -o size=1m none {site.state}; chmod 700 {site.state}
        dd if=/dev/urandom of=large bs=2M count=1 2>/dev/null
        $NONO run {" ".join(FLAGS)} -- touch started 2>&1 || echo "status $?"
        ls -A | tr '\\n' ' '
    """
    said = unfolded(in_namespace(site, script).stdout)
    assert "No space left on device" in said
    assert said.endswith("status 1 large")


def test_a_store_that_fills_up_during_the_run_keeps_the_baseline(site: Site) -> None:
    script = f"""
        mkdir -p {site.state}; mount -t tmpfs -o size=2m none {site.state}; chmod 700 {site.state}
        echo one > a
        $NONO run {" ".join(FLAGS)} -- sh -c 'echo x > a; dd if=/dev/urandom of=large bs=4M count=1' 2>&1
        rm large
        $NONO rollback restore last --force 2>&1
        cat a
    """
    said = unfolded(in_namespace(site, script).stdout)
    assert "the state after the run could not be taken" in said
    assert said.endswith("one")


def test_a_restore_that_was_killed_is_finished_by_the_next(site: Site, before: Picture) -> None:
    done = site.run(FLAGS, ["sh", "-c", AGENT])
    assert done.returncode == 0, done.stderr
    script = (
        "import os, sys; from nono.cli import args; rename, count = os.rename, [0]\n"
        "def killed(*args, **named):\n"
        "    count[0] += 1\n"
        "    if count[0] == 5: os._exit(9)\n"
        "    rename(*args, **named)\n"
        "os.rename = killed\n"
        "from nono.cli import run; sys.exit(run(['rollback', 'restore', 'last']))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script], cwd=site.work, env=site.environment, capture_output=True, text=True, check=False
    )
    assert killed.returncode == 9, killed.stderr
    assert picture(site.work) != before
    assert "a restore was interrupted" in unfolded(site.nono(["rollback", "list"]).stdout)
    refused = site.run(FLAGS, ["touch", "started"])
    assert "was interrupted in the same files" in unfolded(refused.stderr)
    assert not (site.work / "started").exists()
    assert site.nono(["rollback", "cleanup", "--keep", "0"]).returncode == 1
    done = site.nono(["rollback", "restore", "last"])
    assert "it was finished" in unfolded(done.stderr), done.stderr
    assert picture(site.work) == before


def test_no_path_of_this_machine_is_in_help(site: Site) -> None:
    text = site.nono(["rollback", "restore", "--help"]).stdout
    assert "--undo" in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
