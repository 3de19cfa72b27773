"""Real clients and the proxy: each answers its 407 with the token of the environment, and is refused without.

`nono proxy` runs on a machine whose internet is ours (world.py); a client there has the variables that it printed, and
what a user gives it anyway: the certificates that it is to trust, the package index that it is to use. "Without": the
same variables, but no user and password in the proxy's URL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.e2e import standins
from tests.e2e.world import World
from tests.runs import TIMEOUT_S, Site, require_command, use_if_present

CLIENTS = Path(__file__).parent / "clients"
PAGE, CODE, INDEX, REGISTRY = (
    f"{name}.example-corp.test" for name in ("www", "code", "python-packages", "node-packages")
)


class Proxied(NamedTuple):
    """A machine, a user of it, and the variables by which his programs find the proxy that runs there."""

    world: World
    site: Site
    variables: Mapping[str, str]

    def run(self, command: list[str], *, token: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a client, with the token or without."""
        trust = dict.fromkeys(
            ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "GIT_SSL_CAINFO"), self.world.authority.ca
        )
        environment = {**self.site.environment, **self.variables, **trust, **more}
        if not token:
            url = urlsplit(self.variables["HTTPS_PROXY"])
            bare = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://{url.hostname}:{url.port}")
            environment |= {**bare, **more}
        return self.world.run(command, environment=environment, workdir=self.site.work)


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxied]:
    with World(tmp_path / "world") as world, Site(tmp_path / "site") as site:
        world.serve(PAGE, standins.page)
        repositories = tmp_path / "repositories"
        standins.make_repository(repositories / "acme" / "widgets.git")
        world.serve(CODE, standins.git_server(repositories))
        world.serve(INDEX, standins.package_index())
        world.serve(REGISTRY, standins.npm_registry(f"https://{REGISTRY}"))
        command = [sys.executable, "-m", "nono", "proxy", "--json", "--allow-domain", ".example-corp.test"]
        with subprocess.Popen(
            [*world.enter(site.work), *command], env=site.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            yield Proxied(world, site, json.loads(process.stdout.readline())["env"])
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0


def curl(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    return proxied.run([require_command("curl"), "--silent", "--show-error", f"https://{PAGE}/"], token=token)


def curl_that_waits_for_the_challenge(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    command = [require_command("curl"), "--silent", "--show-error", "--proxy-anyauth", f"https://{PAGE}/"]
    return proxied.run(command, token=token)


def git(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    command = [require_command("git"), "clone", "--quiet", f"https://{CODE}/acme/widgets.git"]
    done = proxied.run(command, token=token, GIT_TERMINAL_PROMPT="0")
    return _shows(done, proxied.site.work / "widgets" / "README")


def pip(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--target", "there", standins.PACKAGE]
    more = {"PIP_INDEX_URL": f"https://{INDEX}/simple/", "PIP_RETRIES": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return _shows(proxied.run(command, token=token, **more), proxied.site.work / "there" / f"{standins.PACKAGE}.py")


def npm(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    command = [use_if_present("npm"), "install", "--fetch-retries=0", standins.PACKAGE]
    done = proxied.run(command, token=token, NPM_CONFIG_REGISTRY=f"https://{REGISTRY}/")
    return _shows(done, proxied.site.work / "node_modules" / standins.PACKAGE / "index.js")


def node_fetch(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    command = [use_if_present("node"), str(CLIENTS / "fetch.mjs"), f"https://{PAGE}/"]
    knows = 'process.exit(process.allowedNodeEnvironmentFlags.has("--use-env-proxy") ? 0 : 1)'
    if subprocess.run([command[0], "-e", knows], check=False).returncode:
        pytest.skip("this Node's fetch reads no proxy from the environment (22.21 and 24.0 do)")
    return proxied.run(command, token=token)


def undici(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    """What Node's fetch is made of, as npm brings it; asked by name, it honours the variables in an older Node."""
    node, npm = use_if_present("node"), os.path.realpath(use_if_present("npm"))
    package = Path(npm).parent.parent / "node_modules" / "undici"
    has = f"process.exit(require({json.dumps(str(package))}).EnvHttpProxyAgent ? 0 : 1)"
    if subprocess.run([node, "-e", has], check=False, capture_output=True).returncode:
        pytest.skip("this npm brings no undici that has an EnvHttpProxyAgent")
    return proxied.run([node, str(CLIENTS / "fetch.mjs"), f"https://{PAGE}/", str(package)], token=token)


def go(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    compiler = use_if_present("go")
    program = proxied.site.work / "fetch"
    build = [compiler, "build", "-o", str(program), str(CLIENTS / "fetch.go")]
    subprocess.run(build, env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}, check=True)
    return proxied.run([str(program), f"https://{PAGE}/"], token=token)


def java(client: str, proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    use_if_present("javac")
    url = urlsplit(proxied.variables["HTTPS_PROXY"])
    # Basic for CONNECT is off unless this property says otherwise (JDK-8168839).
    options = (
        f"-Dhttps.proxyHost={url.hostname} -Dhttps.proxyPort={url.port} -Djdk.http.auth.tunneling.disabledSchemes="
    )
    command = ["java", str(CLIENTS / "Fetch.java"), client, f"https://{PAGE}/"]
    bare = {} if token else {"HTTPS_PROXY": f"http://{url.hostname}:{url.port}"}
    return proxied.run(command, token=token, JAVA_TOOL_OPTIONS=options, **bare)


def java_http_client(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    return java("HttpClient", proxied, token)


def java_url_connection(proxied: Proxied, token: bool) -> subprocess.CompletedProcess[str]:
    return java("HttpsURLConnection", proxied, token)


def _shows(done: subprocess.CompletedProcess[str], file: Path) -> subprocess.CompletedProcess[str]:
    """What was installed, as if it had been printed."""
    return subprocess.CompletedProcess(
        done.args, done.returncode, file.read_text() if file.exists() else "", done.stdout + done.stderr
    )


Client = Callable[[Proxied, bool], "subprocess.CompletedProcess[str]"]
ALL: dict[Client, str] = {  # with what each of them says without the token
    curl: "407",
    curl_that_waits_for_the_challenge: "407",
    git: "407",
    pip: "407",
    npm: "407",
    node_fetch: "407",
    undici: "407",
    go: "Proxy Authentication Required",
    java_http_client: "407",
    java_url_connection: "407",
}


@pytest.mark.parametrize(("client", "says"), ALL.items(), ids=[client.__name__ for client in ALL])
def test_client_answers_the_challenge(proxied: Proxied, client: Client, says: str) -> None:
    refused = client(proxied, False)
    assert refused.returncode != 0
    assert standins.SAYS not in refused.stdout
    assert says in refused.stderr
    assert not proxied.world.dns.queries, "a stranger's request causes no look-up"
    done = client(proxied, True)
    assert done.returncode == 0, done.stderr
    assert standins.SAYS in done.stdout
