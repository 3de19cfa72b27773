"""env://VAR: the value leaves the environment block, and nothing else about the command changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nono.credentials import env
from nono.errors import CredentialError

KEY = "sk-Vw3kQ9zLx7RbTn5HcYp2MfJd8GsXe4Aq6Zu1Nv0Wi"
PROGRAM = """\
import json, os, sys
from nono.credentials import env, reference
values = env.hand_over([reference.parse("env://KEY_ONE"), reference.parse("env://KEY_TWO"), reference.parse("other")])
told = {
    "argv": sys.argv, "flags": [sys.flags.isolated, sys.flags.dev_mode], "executable": sys.executable,
    "prefix": sys.prefix, "environment": sorted(os.environ), "pid": os.getpid(), "cwd": os.getcwd(),
    "inherited": [os.get_inheritable(value.fd) for value in values.values()],
    "block": open("/proc/self/environ").read(), "stdin": sys.stdin.read(),
}
for name in ("KEY_ONE", "KEY_TWO"):
    try:
        buffer, length = env.read(name, values)
        told[name] = bytes(buffer.view[:length]).decode()
    except Exception as error:
        told[name] = repr(error)
print(json.dumps(told))
"""


def start(arguments: list[str], tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), "ODD": "a\nb=ü", **environment},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_hands_over_and_starts_again_the_same(tmp_path: Path) -> None:
    arguments = ["-X", "dev", "program.py", "run", "--x", "", "a b", "--", "ü"]
    with start(arguments, tmp_path, KEY_ONE=KEY, KEY_TWO="two\n") as process:
        told = json.loads(process.communicate("typed")[0])
    assert told["KEY_ONE"] == KEY
    assert told["KEY_TWO"] == "two\n"
    assert KEY not in told["block"]
    assert "ODD=a\nb=ü" in told["block"]
    assert told["environment"] == ["LC_CTYPE", "ODD", "PATH", "PYTHONPATH"] or told["environment"] == [
        "ODD",
        "PATH",
        "PYTHONPATH",
    ]
    assert told["argv"] == ["program.py", "run", "--x", "", "a b", "--", "ü"]
    assert told["flags"] == [0, True]
    assert (told["executable"], told["prefix"]) == (sys.executable, sys.prefix)
    assert told["pid"] == process.pid
    assert told["cwd"] == str(tmp_path)
    assert told["stdin"] == "typed"
    assert told["inherited"] == [False, False]


def test_does_not_start_again_when_no_variable_is_set(tmp_path: Path) -> None:
    with start(["program.py"], tmp_path) as process:
        told = json.loads(process.communicate("")[0])
    assert "KEY_ONE is not set" in told["KEY_ONE"]


@pytest.mark.parametrize(
    "mark", ["KEY_ONE=0:5", "KEY_ONE=77:5", "KEY_ONE=x:y", "KEY_ONE", "KEY_ONE=3:99999999", "=,:,=:", "KEY_ONE=-1:1"]
)
def test_ignores_a_mark_that_it_did_not_leave(tmp_path: Path, mark: str) -> None:
    with start(["program.py"], tmp_path, NONO_HANDED_OVER=mark) as process:
        told = json.loads(process.communicate("")[0])
    assert "KEY_ONE is not set" in told["KEY_ONE"]
    assert "NONO_HANDED_OVER" not in told["environment"]


def test_refuses_a_value_that_no_key_is_as_long_as(monkeypatch: pytest.MonkeyPatch) -> None:
    from nono.credentials.reference import parse

    monkeypatch.setenv("TEST_LONG_KEY", "k" * 16387)
    with pytest.raises(CredentialError, match="TEST_LONG_KEY is longer than"):
        env.hand_over([parse("env://TEST_LONG_KEY")])
