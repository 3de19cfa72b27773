"""The command line: the one place where an error becomes a sentence on stderr and an exit status.

No traceback reaches a user. One that would is a bug of ours, and is said to be one, with the type of the error and
the line of nono that it came from; never with its text, which may quote a secret.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from nono.cli import args, render
from nono.errors import NonoError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_RESERVE_BYTES = 1 << 18
_NO_MEMORY = "no memory is left for nono itself. Free some, or raise its limit with: ulimit -v unlimited"


def main() -> None:
    """Run the command line in sys.argv and exit.

    At once, without the interpreter's own farewell: a thread of the proxy may still be loading certificates, and the
    exit handler of OpenSSL would free what it works on (a segmentation fault in one of five short runs). All that
    must be left well was left before.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: nothing of ours may come to lie there
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    reserve = bytes(_RESERVE_BYTES)
    status = None
    try:
        status = run(sys.argv[1:])
    except MemoryError:
        pass  # also where there was too little left to make a sentence
    if status is None:  # by now what the error held on to is free
        del reserve
        if "nono.supervisor.scratch" in sys.modules:
            sys.modules["nono.supervisor.scratch"].remove_left()
        status = _say(_NO_MEMORY, 1)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # closed by whoever started us
                stream.flush()
        except OSError:
            pass  # nobody listens; the status still tells
    os._exit(status)


def run(argv: list[str]) -> int:
    """Run one command line; return the exit status (DESIGN section 5). Raises MemoryError, and nothing else."""
    configured = ""
    try:
        module, arguments = args.parse(argv)
        configured = _configured(arguments)
        status: int = module.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except NonoError as error:
        hint = f" ({configured}; --no-config leaves that out)" if configured and error.exit_status == 2 else ""
        return _say(f"{error}{hint}", error.exit_status, error.details)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's last flush does not complain either
        return 141
    except OSError as error:
        hint = " Raise the limit with: ulimit -n 1024." if error.errno == errno.EMFILE else ""
        return _say(f"this machine refuses: {os.strerror(error.errno or 0)} (at {_place(error)}).{hint}", 1)
    except MemoryError:
        raise
    except RuntimeError as error:
        if str(error) != "can't start new thread":  # threading's own words
            return _say_bug(error)
        return _say(
            "no thread can be started: too many processes run under this user (ulimit -u), or no memory is left "
            "(ulimit -v).",
            1,
        )
    except ImportError as error:  # its text is the loader's own
        return _say(
            f"a part of nono or of a library cannot be loaded ({error}, at {_place(error)}). Memory or descriptors are "
            "short (ulimit -v, ulimit -n), or the installation is damaged: install nono again.",
            1,
        )
    except Exception as error:  # noqa: BLE001  (the last resort: nothing else stands between it and the user)
        return _say_bug(error)


def _configured(arguments: argparse.Namespace) -> str:
    """Return what config.toml added to the flags, "" for nothing; said before the run to who wants to see all."""
    found = arguments.configured
    if found is None or not found.shown:
        return ""
    said = f"{render.short(found.path, render.home_of(os.environ))} adds {' '.join(found.shown)}"
    if getattr(arguments, "dry_run", False) or getattr(arguments, "verbose", 0):
        render.notice(said)
    return said


def _say_bug(error: Exception) -> int:
    return _say(
        f"internal error: {type(error).__name__} at {_place(error)}. This is a bug of nono; please report it.", 1
    )


def _say(message: str, status: int, details: Iterable[str] = ()) -> int:
    render.to_stderr("".join(f"{line}\n" for line in render.error(message, details)))
    return status


def _place(error: BaseException) -> str:
    """Return FILE:LINE of the innermost frame, without the path of this machine."""
    place = "nono"
    traceback = error.__traceback__
    while traceback is not None:
        place = f"{os.path.basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
