"""A supervisor that is killed with -9 in the worst moment: after the clone, before the death signal is set.

The moment is made long by a library that comes before the C library's prctl(2).
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.runs import Site, require_command

SLOW = """
#include <stdarg.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int
prctl(int option, ...)
{
	static int count;
	struct timespec second = { 1, 0 };
	unsigned long arguments[4];
	va_list list;

	va_start(list, option);
	for (int index = 0; index < 4; index++)
		arguments[index] = va_arg(list, unsigned long);
	va_end(list);
	if (option == PR_SET_PDEATHSIG && arguments[0] != 0 && ++count == atoi(getenv("SLOW"))) {
		if (write(2, "now\\n", 4) == 4)
			syscall(SYS_nanosleep, &second, 0);
	}
	return syscall(SYS_prctl, option, arguments[0], arguments[1], arguments[2], arguments[3]);
}
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("slow")
    source, library = directory / "slow.c", directory / "slow.so"
    source.write_text(SLOW)
    subprocess.run([require_command("cc"), "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def running(marker: str) -> list[str]:
    """The processes that have `marker` on their command line; the init has its supervisor's."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found += [name] if marker.encode() in Path(f"/proc/{name}/cmdline").read_bytes() else []
            except OSError:
                continue
    return found


@pytest.mark.parametrize("wall", ["namespace", "notify"])
@pytest.mark.parametrize("moment", [1, 2], ids=["init", "agent"])
def test_nothing_outlives_it(site: Site, slow: Path, wall: str, moment: int) -> None:
    marker = f"60.{int.from_bytes(os.urandom(6))}"
    environment = {"LD_PRELOAD": str(slow), "SLOW": str(moment)}
    process = site.start(["--sandbox", wall, "--block-net"], ["sleep", marker], environment=environment)
    assert process.stderr is not None
    assert any(line == b"now\n" for line in process.stderr)
    assert running(marker)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while running(marker):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.communicate()
