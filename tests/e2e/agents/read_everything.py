"""Read every file that can be read, and write all of it to standard output, for the test to search.

Left out: the installed software (the arguments), which the test's key cannot be in, and what is endless or not a file.
/proc is read to the depth where processes tell about themselves.
"""

import itertools
import os
import stat
import sys

SKIPPED = {"/sys", "/dev", *sys.argv[1:]}
PROC_FILES = ("environ", "cmdline", "maps", "mem", "status", "stat", "auxv", "fd", "cwd", "root")
LARGEST = 8 << 20


def copy(path, output):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return 0
        output.write(b"\n" + os.fsencode(path) + b"\n")
        left = LARGEST
        while left and (data := os.read(fd, min(left, 1 << 20))):
            output.write(data)
            left -= len(data)
        return 1
    except OSError:
        return 0
    finally:
        os.close(fd)


def starts():
    """Where to begin: every directory that can be listed of those that an agent would think of, and all above them."""
    known = [os.getcwd(), "/", "/etc", "/home", "/opt", "/proc", "/root", "/run", "/srv", "/tmp", "/var"]
    known += [value for value in os.environ.values() if value.startswith("/")]
    for path in list(known):
        while path != "/":
            known.append(path)
            path = os.path.dirname(path)
    return dict.fromkeys(path for path in known if path not in SKIPPED)


def files():
    for directory, names, file_names in itertools.chain.from_iterable(map(os.walk, starts())):
        if directory == "/proc":
            names[:] = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                yield from (f"/proc/{pid}/{name}" for name in PROC_FILES)
            yield from (f"/proc/{name}" for name in ("keys", "key-users", "net/unix", "net/tcp", "self/mountinfo"))
            continue
        names[:] = [name for name in names if os.path.join(directory, name) not in SKIPPED]
        yield from (os.path.join(directory, name) for name in file_names)


count = sum(copy(path, sys.stdout.buffer) for path in files())
sys.stdout.buffer.write(b"\nread %d files\n" % count)
