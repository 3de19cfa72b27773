"""What the hosts of a World answer: a git server, a package index for pip, a registry for npm, an API that wants a key.

Each is a script for tests.fakes.Upstream, which notes every request. Nothing is simplified away that the real client
looks at: git's answers come from `git http-backend`, the wheel and the tarball are whole.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.fakes import Connection, Request, Script

PACKAGE, VERSION = "tinypackage", "1.2.3"
SAYS = "made in a test"


def git_server(repositories: Path) -> Script:
    """Serve the bare repositories in a directory, as a web server does: git-http-backend(1)."""

    def serve(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            path, _, query = request.target.partition("?")
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(repositories),
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_PROJECT_ROOT": str(repositories),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": request.method,
                "CONTENT_LENGTH": str(len(request.body)),
            }
            for header, variable in (
                ("Content-Type", "CONTENT_TYPE"),
                ("Content-Encoding", "HTTP_CONTENT_ENCODING"),
                ("Git-Protocol", "GIT_PROTOCOL"),
            ):
                environment.update((variable, value) for value in request.all(header))
            done = subprocess.run(
                ["git", "http-backend"], env=environment, input=request.body, capture_output=True, check=True
            )
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            fields = head.decode().split("\r\n")
            status = next((int(field.split()[1]) for field in fields if field.startswith("Status:")), 200)
            connection.answer(status, body, *(field for field in fields if not field.startswith("Status:")))

    return serve


def make_repository(path: Path) -> str:
    """Make a bare repository with one commit of one file, `README`; return the commit."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(path.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_NAME": "A. Tester", f"GIT_{role}_EMAIL": "tester@example.org"}

    def git(*arguments: str, stdin: str = "") -> str:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=path, env=environment, input=stdin, capture_output=True, check=True, text=True
        )
        return done.stdout.strip()

    path.mkdir(parents=True)
    git("init", "--quiet", "--bare", "--initial-branch=main")
    blob = git("hash-object", "-w", "--stdin", stdin=SAYS)
    tree = git("mktree", stdin=f"100644 blob {blob}\tREADME\n")
    commit = git("commit-tree", tree, "-m", "one file")
    git("update-ref", "refs/heads/main", commit)
    return commit


def files(answers: Mapping[str, tuple[str, bytes]]) -> Script:
    """Answer GET and HEAD of a path in `answers` with (Content-Type, body), anything else with 404."""

    def serve(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            kind, body = answers.get(request.target.partition("?")[0], ("", b""))
            connection.answer(200 if kind else 404, body, *([f"Content-Type: {kind}"] if kind else []))

    return serve


def package_index() -> Script:
    """An index for pip (PEP 503) at /simple/, with one wheel of PACKAGE."""
    wheel = make_wheel()
    name = f"{PACKAGE}-{VERSION}-py3-none-any.whl"
    link = f'<a href="/files/{name}#sha256={hashlib.sha256(wheel).hexdigest()}">{name}</a>'
    page = f"<!DOCTYPE html><html><body>{link}</body></html>".encode()
    return files({f"/simple/{PACKAGE}/": ("text/html", page), f"/files/{name}": ("application/zip", wheel)})


def make_wheel() -> bytes:
    """Return a wheel whose one module has SAYS as its `says`."""
    info = f"{PACKAGE}-{VERSION}.dist-info"
    contents = {
        f"{PACKAGE}.py": f"says = {SAYS!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text)}\n")
    contents[f"{info}/RECORD"] = "".join(lines) + f"{info}/RECORD,,\n"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
    return made.getvalue()


def npm_registry(origin: str) -> Script:
    """A registry for npm with one version of PACKAGE; `origin` is its own URL, without a slash at the end."""
    tarball = make_tarball()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    name = f"/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
    dist = {"tarball": origin + name, "integrity": integrity, "shasum": hashlib.sha1(tarball).hexdigest()}
    version = {"name": PACKAGE, "version": VERSION, "main": "index.js", "dist": dist}
    document = {"name": PACKAGE, "dist-tags": {"latest": VERSION}, "versions": {VERSION: version}}
    return files(
        {
            f"/{PACKAGE}": ("application/json", json.dumps(document).encode()),
            name: ("application/octet-stream", tarball),
        }
    )


def make_tarball() -> bytes:
    """Return an npm package whose one module exports SAYS."""
    contents = {
        "package/package.json": json.dumps({"name": PACKAGE, "version": VERSION, "main": "index.js"}),
        "package/index.js": f"module.exports = {json.dumps(SAYS)};\n",
    }
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path, text in contents.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(made.getvalue(), mtime=0)


def api(key: str) -> Script:
    """An API that answers the holder of `key` (`Authorization: Bearer KEY` or `token KEY`); anybody else: 401."""

    def serve(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            if request.all("Authorization") in ([f"Bearer {key}"], [f"token {key}"]):
                body, status = {"login": "tester", "path": request.target}, 200
            else:
                body, status = {"message": "Bad credentials"}, 401
            connection.answer(status, json.dumps(body).encode(), "Content-Type: application/json")

    return serve


def page(connection: Connection) -> None:
    """Answer every request with SAYS."""
    while connection.read_request() is not None:
        connection.answer(200, SAYS.encode(), "Content-Type: text/plain")


def presented(requests: list[Request]) -> set[str]:
    """Every value of a credential's header in these requests."""
    return {value for each in requests for name in ("Authorization", "Proxy-Authorization") for value in each.all(name)}
