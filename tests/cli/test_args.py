"""Flags by the hundred are parsed some at a time, which nobody can tell but by the clock."""

from __future__ import annotations

import pytest

from nono.cli import args
from nono.errors import UsageError

MANY = [word for number in range(200) for word in ("--read", f"/{number}")]


@pytest.mark.parametrize(
    "flags",
    [
        [*MANY, "--block-net", "-v", *MANY, "-v", "--timeout", "-5"],
        ["-v", *MANY, "-r", "/with --blank", "--read", "--two words"],
        [*(f"--allow=/{number}" for number in range(200)), "--sandbox", "notify"],
        [*(f"--allow=/{number}" for number in range(200)), "-a", "/x", *MANY, "--allow=", "--allow", "", "--allow=a=b"],
        [*MANY, "--env-credential-map", "openai", "KEY", *MANY, "-r/x", "--open-port=80", *MANY, "--open-port", "81"],
    ],
)
def test_many_flags_are_what_they_are_together(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = vars(args.parse(["run", *flags, "--", "command", "--read"])[1])
    monkeypatch.setattr(args, "_PARSED_AT_ONCE", 10**6)
    monkeypatch.setattr(args, "_PLAIN_AT_ONCE", 10**6)
    assert found == vars(args.parse(["run", *flags, "--", "command", "--read"])[1])


@pytest.mark.parametrize(
    "wrong",
    [
        ["--read"],
        ["--nothing"],
        ["word"],
        ["--read", "--allow", "/x"],
        ["--env-credential-map", "openai"],
        ["--reads=x"],
    ],
)
@pytest.mark.parametrize("after", [[], MANY])
def test_mistakes_among_many_flags_are_named_alike(wrong: list[str], after: list[str]) -> None:
    said = []
    for before in ([], MANY[:24], MANY):
        with pytest.raises(UsageError) as caught:
            args.parse(["run", *before, *wrong, *after, "--", "command"])
        said.append(str(caught.value))
    assert said == said[:1] * 3
