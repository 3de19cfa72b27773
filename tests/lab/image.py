"""The file system that a lab's machine starts with: a part of this machine, each file at its own path.

A kernel unpacks an initramfs, an archive of cpio's "newc" format, into its first file system before it runs /init.
There is no disk and nothing is installed: Python with its library, the packages that nono and pytest need, nono and
its tests as they are in this tree, a few commands, and the shared libraries of all of them, as `ldd` names them. Modes
are simplified (everybody may read everything, nothing is set-user-ID): an ordinary user can run what is root's here.

Two files differ from this machine's: /etc/passwd and the like are made up, and `cc`, which the tests' attack program is
compiled with, is a script that hands out the program compiled here.

Source: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from packaging.requirements import Requirement

from tests.confined import Place

ROOT = Path(__file__).parents[2]
PACKAGES = ("nono", "pytest", "cryptography")
COMMANDS = (
    "sh", "bash", "cat", "chmod", "cp", "env", "false", "head", "id", "ls", "mkdir", "mv", "rm", "sleep", "stty",
    "tail", "touch", "true", "wc",
)  # fmt: skip
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
# Parts of Python's library that are as large as the rest together, and that no test uses.
LEFT_OUT = re.compile(
    r"site-packages|dist-packages|tests?|idlelib|_?tkinter.*|ensurepip|lib2to3|turtledemo|pydoc_data|config-.*|.*\.opt-\d\.pyc"
)
USER = 12345
OWN_FILES = {
    "/etc/passwd": f"root:x:0:0::/root:/bin/sh\nuser:x:{USER}:{USER}::/home/user:/bin/sh\n",
    "/etc/group": f"root:x:0:\ntty:x:5:\nuser:x:{USER}:\n",
    "/etc/shadow": "root:*:::::::\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/resolv.conf": "",
}
COMPILED = "/usr/local/lib/attack"
COMPILER = f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\nexec cp {COMPILED} "$2"\n'


class Entry(NamedTuple):
    """One file, directory or symbolic link. content: bytes, or where to read them."""

    mode: int
    content: bytes | Path = b""
    mtime_s: int = 0


class Image:
    """Paths and what is there; `write` makes the archive."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def add(self, path: str | Path, entry: Entry | None = None) -> None:
        """Add `path` as it is on this machine, or as `entry`, with every directory and link that leads there."""
        ahead, here = [part for part in reversed(os.fspath(path).split("/")) if part], ""
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                here = os.path.dirname(here)
                continue
            candidate = f"{here}/{part}"
            if os.path.islink(candidate) and (ahead or entry is None):
                target = os.readlink(candidate)
                self.entries[candidate] = Entry(stat.S_IFLNK | 0o777, os.fsencode(target))
                ahead.extend(reversed(target.split("/")))
                here = "" if target.startswith("/") else here
                continue
            here = candidate
            if ahead or (entry is None and os.path.isdir(here)):
                self.entries.setdefault(here, Entry(stat.S_IFDIR | 0o755))
            else:
                self.entries[here] = entry or _as_it_is(here)

    def add_tree(self, top: str | Path, left_out: re.Pattern[str] | None = None) -> None:
        for directory, names, files in os.walk(top):
            names[:] = [name for name in names if left_out is None or not left_out.fullmatch(name)]
            for name in (*names, *files):
                if left_out is None or not left_out.fullmatch(name):
                    self.add(f"{directory}/{name}")

    def add_libraries(self) -> None:
        """Add the shared libraries of every program and library that is in the image."""
        binaries = [path for path, entry in self.entries.items() if _is_elf(entry)]
        # A file that is not dynamic makes ldd's status 1, and says so on standard error.
        told = subprocess.run(["ldd", *binaries], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        for library in sorted(set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told, re.MULTILINE))):
            self.add(library)

    def write(self, file: BinaryIO) -> None:
        for number, (path, entry) in enumerate(sorted(self.entries.items()), 1):
            content = entry.content.read_bytes() if isinstance(entry.content, Path) else entry.content
            _write_member(file, path.lstrip("/"), number, entry.mode, entry.mtime_s, content)
        _write_member(file, "TRAILER!!!", 0, 0, 0, b"")


def _as_it_is(path: str) -> Entry:
    found = os.stat(path)
    return Entry(stat.S_IFREG | (0o755 if found.st_mode & 0o111 else 0o644), Path(path), int(found.st_mtime))


def _is_elf(entry: Entry) -> bool:
    if not isinstance(entry.content, Path):
        return False
    with open(entry.content, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _write_member(file: BinaryIO, name: str, inode: int, mode: int, mtime_s: int, content: bytes) -> None:
    encoded = os.fsencode(name) + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device (2), the device that it is (2), length of name, checksum
    numbers = (inode, mode, 0, 0, 1, mtime_s, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
    file.write(header + b"\0" * (-len(header) % 4))
    file.write(content + b"\0" * (-len(content) % 4))


def needed_packages(names: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield the installed packages `names` and what they need, each once."""
    todo, seen = list(names), set()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        yield found
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo += [requirement.name]


def make(target: Path) -> None:
    """Write the archive to `target`: 100 MB or so, not compressed, as nothing but memory is copied."""
    image = Image()
    image.add(sys.executable)
    image.add(f"{sys.prefix}/pyvenv.cfg")
    image.add_tree(sysconfig.get_path("stdlib"), LEFT_OUT)
    for package in needed_packages(PACKAGES):
        for installed in package.files or ():
            if (found := Path(installed.locate())).exists() and found.suffix != ".pyc":
                image.add(found)
    image.add(f"{sysconfig.get_path('purelib')}/lab.pth", Entry(stat.S_IFREG | 0o644, f"{ROOT}\n".encode()))
    image.add_tree(ROOT / "nono")
    image.add_tree(ROOT / "tests")
    for name in ("pyproject.toml", "README.md"):
        image.add(ROOT / name)
    for command in COMMANDS:
        if program := shutil.which(command, path=PATH):
            image.add(program)
    for link in ("/bin", "/sbin", "/lib", "/lib64"):
        image.add(link)
    image.add("/etc/ld.so.cache")
    place = Place()
    image.add(COMPILED, Entry(stat.S_IFREG | 0o755, Path(place.attack).read_bytes()))
    place.remove()
    image.add_libraries()
    for path, text in OWN_FILES.items():
        mode = 0o600 if path == "/etc/shadow" else 0o644
        image.add(path, Entry(stat.S_IFREG | mode, text.encode()))
    image.add("/usr/local/bin/cc", Entry(stat.S_IFREG | 0o755, COMPILER.encode()))
    first = f"#!{sys.executable} -I\n{(ROOT / 'tests/lab/guest.py').read_text()}"
    image.add("/init", Entry(stat.S_IFREG | 0o755, first.encode()))
    with target.open("wb") as file:
        image.write(file)
