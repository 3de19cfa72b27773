"""Remove old logs so that nobody misses them: the ledger says first that the user did.

The entry is on the disk before the log is unlinked, so a log is gone only where the ledger says so; killed in between,
the log is still there, and verified as before. The log is locked meanwhile, so that no running session loses its own.
"""

from __future__ import annotations

import os
import time
from fcntl import LOCK_EX, LOCK_NB, flock

from nono.audit import ledger
from nono.audit.log import BUNDLE, encode
from nono.audit.read import SUFFIX, opened
from nono.audit.sync import fault_of
from nono.audit.verify import Session
from nono.errors import StoreError


def remove(directory: str, session: Session) -> bool:
    """Remove a session's log, as `verify` found it; return whether it could: False while it runs. Raises StoreError."""
    path = os.path.join(directory, session.session + SUFFIX)
    try:
        file = opened(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from None
    try:
        flock(file, LOCK_EX | LOCK_NB)
        told = {"kind": "removed", "time": time.time(), "session": session.session}
        told |= {"records": session.records, "state": session.state}
        entered = ledger.enter(os.path.join(directory, ledger.NAME), encode(told)[1:-1])
        fault = fault_of(entered)
        os.close(entered)
        if fault:
            raise StoreError(f"cannot write the audit ledger in {directory}: {fault}")
        for name in (path, path + BUNDLE, os.path.join(directory, f".{session.session}{BUNDLE}")):
            try:
                os.unlink(name)
            except FileNotFoundError:
                pass
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}") from None
    finally:
        file.close()
    return True
