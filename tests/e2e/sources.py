"""Where packages come from, beside those of standins.py: a module proxy for Go, an index for cargo, a Maven repository.

Each is a script for tests.fakes.Upstream with one package, whose one function says SAYS.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile

from tests.e2e.standins import PACKAGE, SAYS, VERSION, files
from tests.fakes import Script

MODULE = f"example-corp.test/{PACKAGE}"  # as Go names it
GROUP = "test.example-corp"  # as Maven does


def go_proxy() -> Script:
    """A module proxy, with one version of MODULE (https://go.dev/ref/mod#goproxy-protocol)."""
    mod = f"module {MODULE}\n\ngo 1.20\n"
    source = f'package {PACKAGE}\n\nfunc Says() string {{ return "{SAYS}" }}\n'
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in {"go.mod": mod, "says.go": source}.items():
            archive.writestr(f"{MODULE}@v{VERSION}/{name}", text)
    info = json.dumps({"Version": f"v{VERSION}", "Time": "2024-01-01T00:00:00Z"})
    directory = f"/{MODULE}/@v"
    return files(
        {
            f"{directory}/list": ("text/plain", f"v{VERSION}\n".encode()),
            f"{directory}/v{VERSION}.info": ("application/json", info.encode()),
            f"{directory}/v{VERSION}.mod": ("text/plain", mod.encode()),
            f"{directory}/v{VERSION}.zip": ("application/zip", made.getvalue()),
            f"/{MODULE}/@latest": ("application/json", info.encode()),
        }
    )


def crates(origin: str) -> Script:
    """A sparse index for cargo below /index/, with one crate; `origin` is its own URL, without a slash at the end."""
    crate = make_crate()
    entry = {
        "name": PACKAGE,
        "vers": VERSION,
        "deps": [],
        "cksum": hashlib.sha256(crate).hexdigest(),
        "features": {},
        "yanked": False,
    }
    return files(
        {
            "/index/config.json": ("application/json", json.dumps({"dl": f"{origin}/crates"}).encode()),
            f"/index/{PACKAGE[:2]}/{PACKAGE[2:4]}/{PACKAGE}": ("text/plain", json.dumps(entry).encode()),
            f"/crates/{PACKAGE}/{VERSION}/download": ("application/gzip", crate),
        }
    )


def make_crate() -> bytes:
    """Return a crate with one function."""
    contents = {
        "Cargo.toml": f'[package]\nname = "{PACKAGE}"\nversion = "{VERSION}"\nedition = "2021"\n',
        "src/lib.rs": f'pub fn says() -> &\'static str {{ "{SAYS}" }}\n',
    }
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path, text in contents.items():
            entry = tarfile.TarInfo(f"{PACKAGE}-{VERSION}/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(made.getvalue(), mtime=0)


def maven_repository() -> Script:
    """A repository with one POM, which others have as their parent: what Maven fetches before it runs any plugin."""
    pom = (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        f"<groupId>{GROUP}</groupId><artifactId>{PACKAGE}</artifactId><version>{VERSION}</version>"
        f"<packaging>pom</packaging><name>{SAYS}</name></project>"
    ).encode()
    path = f"/repository/{GROUP.replace('.', '/')}/{PACKAGE}/{VERSION}/{PACKAGE}-{VERSION}.pom"
    return files(
        {
            path: ("application/xml", pom),
            f"{path}.sha1": ("text/plain", hashlib.sha1(pom).hexdigest().encode()),
        }
    )
