"""`python -m nono` and the console script `nono`."""

from __future__ import annotations

import gc

# Start-up makes no garbage, and looking for some costs 1 ms of 35; the session enables it once the child runs.
gc.disable()

from nono.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
