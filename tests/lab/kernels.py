"""Debian's own kernels, one for each series that this machine's apt offers: fetched and unpacked, never installed.

Debian keeps more than one series for a release (12 has 6.1, and 6.12 from backports or security updates). Of each, the
newest "cloud" build is taken: the smallest package, with all built in that the lab needs. What was fetched stays in a
cache directory, so that a second run needs no network while apt's lists stay the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

# linux-image-6.1.0-56-cloud-amd64, linux-image-6.12.117+deb12-cloud-amd64; not the meta packages, which have no version
PACKAGE = re.compile(r"linux-image-(\d+)\.(\d+)\.\d\S*-cloud-amd64")


class Kernel(NamedTuple):
    """series: "6.1". package: its Debian name. image: what a boot loader loads."""

    series: str
    package: str
    image: Path


def offered() -> dict[str, str]:
    """Return the newest package of each series, oldest series first; empty where there is no apt, or no such kernel."""
    if shutil.which("apt-cache") is None:
        return {}
    listed = subprocess.run(
        ["apt-cache", "pkgnames", "linux-image-"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    newest: dict[tuple[int, int], str] = {}
    for name in sorted(listed.split(), key=_version):
        if found := PACKAGE.fullmatch(name):
            newest[int(found[1]), int(found[2])] = name
    return {f"{major}.{minor}": newest[major, minor] for major, minor in sorted(newest)}


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def fetch(series: str, package: str) -> Kernel:
    """Download the package unless it is in the cache, and return its kernel."""
    place = _cache() / package.replace("linux-image", "vmlinuz", 1)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=scratch, check=True)
            (archive,) = Path(scratch).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, f"{scratch}/unpacked"], check=True)
            (image,) = Path(scratch).glob("unpacked/boot/vmlinuz-*")
            image.rename(place)  # at once: a run that was broken off leaves nothing half
    return Kernel(series, package, place)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nono-lab"
