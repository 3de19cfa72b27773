"""How `nono run` refuses: one clear sentence, the right exit status, and no agent."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.runs import Site

USAGE, OWN, NOT_EXECUTABLE, NOT_FOUND = 2, 1, 126, 127
SECRET = "sk-bad-3f9Lw8RkQz7TnYb5"


def refuse(
    site: Site,
    flags: list[str],
    status: int,
    sentence: str,
    *,
    command: list[str] | None = None,
    environment: dict[str, str] | None = None,
    wrap: Sequence[str] = (),
) -> None:
    """Assert that `nono run` ends with `status` and one line that matches `sentence`, and starts no agent."""
    mark = site.work / "the-agent-ran"
    done = site.run(
        ["--allow-cwd", *flags],
        ["touch", str(mark)] if command is None else command,
        environment=environment or {},
        wrap=wrap,
    )
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert done.stderr.startswith("nono: ")
    assert done.stderr.count("\n") == 1, "one sentence, no traceback"
    assert re.search(sentence, done.stderr), done.stderr
    assert SECRET[:12] not in done.stderr
    assert not mark.exists()
    assert list(site.tmp.iterdir()) == [], "nothing is left behind"
