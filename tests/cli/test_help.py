"""The pages of help: 80 columns, cheap; and what a slip of the keyboard is answered."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nono.cli import args
from nono.errors import UsageError
from nono.policy.network import nearest

PAGES = [[], *([verb] for verb in args.VERBS)]


def actions() -> list[list[str]]:
    return [[verb, action] for verb in args.VERBS for action in args.actions_of(args.parser_of(verb)[1])]


def page(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        args.parse([*words, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [*PAGES, *actions()], ids=" ".join)
@pytest.mark.parametrize("columns", ["20", "300"])
def test_a_page_is_80_columns_wide_whatever_the_terminal(
    words: list[str], columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = page(words, capsys)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert text.startswith(f"usage: {' '.join(['nono', *words])}")
    assert "show this help and exit" in text


def test_help_imports_no_more_than_it_needs() -> None:
    script = (
        "import sys; sys.argv = ['nono', '--help']\n"
        "try:\n    from nono.cli import args; args.parse(['--help'])\n"
        "finally:\n    print(*{'shutil', 'typing', 'socket', 'nono.session', 'nono.cli.run'} & {*sys.modules}, "
        "file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr.split() == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rnu"], "unknown verb 'rnu'; did you mean run? See: nono --help"),
        (["RUN"], "did you mean run?"),
        (["credentials"], "did you mean credential?"),
        (["--silent", "run", "--", "true"], "flags stand behind the verb: nono run --silent"),
        (["profile", "lsit"], "groups; did you mean list? See: nono profile --help"),
        (["run", "--sandbox", "nothing"], "'nothing' is not one of auto, namespace, notify, landlock. See: nono run"),
        (["credential", "sk-test-0123456789012345678"], "argument ACTION: this is not one of set, "),
        (["--nothing"], "unrecognized arguments: --nothing. See: nono --help"),
        (["claude"], "to run a command: nono run -- claude"),
        (
            ["run", "--alow-domain", "x"],
            "unknown flag '--alow-domain'; did you mean --allow-domain? See: nono run --help",
        ),
        (["run", "--allow-domian=x"], "did you mean --allow-domain?"),
        (["run", "--nothing-of-the-kind"], "unknown flag '--nothing-of-the-kind'. See: nono run --help"),
        (["run", "cat"], "A command to run stands behind --: nono run -- cat"),
        (["learn", "cat"], "A command to run stands behind --: nono learn -- cat"),
        (["why", "Makefile"], "unknown argument 'Makefile'. Ask about a path with: nono why --path Makefile"),
        (["man", "run"], "unknown argument 'run'. See: nono man --help"),
        (["profile", "groups", "--jsno"], "unknown flag '--jsno'; did you mean --json?"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(words: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        args.parse(words)
    assert says in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("rnu", "run"),
        ("ru", "run"),
        ("shel", "shell"),
        ("x", ""),
        ("cat", ""),
        ("", ""),
        ("profiles", "profile"),
        ("dmeo", "demo"),
    ],
)
def test_the_nearest_is_near(word: str, meant: str) -> None:
    assert nearest(word, ["run", "shell", "profile", "demo", "man"]) == meant
    assert nearest(word, []) == ""


def test_paragraphs_are_filled_and_examples_are_not() -> None:
    example = "  cmd --flag          what it is for, at length, so that it must be broken\n  short"
    text = f"One two\nthree four.\n\nexamples:\n{example}"
    assert args.folded(text, 60) == [
        "One two three four.",
        "",
        "examples:",
        "  cmd --flag          what it is for, at length, so that it",
        "                      must be broken",
        "  short",
    ]
    assert args.folded("  command with many words and a flag", 30) == [
        "  command with many \\",
        "      words and a flag",
    ]
    assert args.folded("  a command that is quite long  then what", 34) == [
        "  a command that is quite long",
        "        then what",
    ]
    assert args.folded("x" * 90, 80) == ["x" * 90]


def test_help_is_a_verb_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="unknown verb 'x'"):
        args.parse(["help", "x"])
    for words, title in ((["help"], "usage: nono VERB"), (["help", "run"], "usage: nono run")):
        with pytest.raises(SystemExit):
            args.parse(words)
        assert capsys.readouterr().out.startswith(title)
