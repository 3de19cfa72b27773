"""Where the user stands: home, working directory, the XDG base directories.

Reads the environment and asks the disk what exists; opens nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from nono.errors import UsageError
from nono.policy.capabilities import is_at_or_below
from nono.policy.paths import Place, normalised


def find_place(chosen_workdir: str | None, environment: Mapping[str, str]) -> Place:
    """Return where the user stands. Raises UsageError when there is no home or the working directory does not exist."""
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        raise UsageError("HOME is not set to an absolute path; set it to your home directory")
    try:
        workdir = normalised(os.path.abspath(chosen_workdir)) if chosen_workdir is not None else os.getcwd()
    except FileNotFoundError:
        raise UsageError("the current directory does not exist any more; change to one that does") from None
    if not os.path.isdir(workdir):
        raise UsageError(f"--workdir {chosen_workdir}: no such directory")
    return Place(
        home=normalised(home),
        workdir=workdir,
        temporary_directory=environment.get("TMPDIR") or "/tmp",
        config_home=_base_directory(environment, "XDG_CONFIG_HOME", home, ".config"),
        state_home=_base_directory(environment, "XDG_STATE_HOME", home, ".local/state"),
        runtime_dir=environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}",
        data_home=_base_directory(environment, "XDG_DATA_HOME", home, ".local/share"),
        platform=sys.platform,
        cache_home=_base_directory(environment, "XDG_CACHE_HOME", home, ".cache"),
        uid=str(os.getuid()),
        in_the_open=is_at_or_below(os.path.realpath(home), os.path.realpath(workdir)),
    )


def _base_directory(environment: Mapping[str, str], name: str, home: str, default: str) -> str:
    """Return an XDG base directory; a relative value is ignored, as the specification asks."""
    base = environment.get(name, "")
    return normalised(base if base.startswith("/") else os.path.join(home, default))
