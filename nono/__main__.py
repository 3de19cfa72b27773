"""`python -m nono` and the console script `nono`."""

from __future__ import annotations

import gc
import sys

# Start-up makes no garbage, and looking for some costs 1 ms of 35; the session enables it once the child runs.
gc.disable()
# The directory of the script or, with -m, the working directory: an agent may have written modules there.
if not sys.flags.safe_path:
    del sys.path[0]
sys.path[:] = [directory for directory in sys.path if directory.startswith("/")]  # an empty entry is the working one

from nono.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
