"""An agent's tools, unmodified, on a restricted network: `--network-profile claude-code --credential github`.

The machine is a World: names are resolved by its name server, which counts, at global addresses, behind certificates
that the system trusts. The user has the key of api.github.com in nono's file store, and settings of pip and npm that
name his company's package index and registry. Nobody told nono of these hosts: it asks pip and npm.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import standins
from tests.e2e.world import World
from tests.fakes import Upstream
from tests.runs import Site, require_command, use_if_present

KEY = "github_pat_test_Rk7Wq2ZxVb9LmTs4HdYn8PcJf3Ge6Ua5Xo1Ki0Nv"
PASSWORD = "company-Hn4Rv8BzKq6WcXt2LpYd9MjGs5"
INDEX, REGISTRY = "python-packages.example-corp.test", "node-packages.example-corp.test"
PYTHON = ["--read", sys.prefix, "--read", sys.base_prefix]  # this one may stand anywhere
FLAGS = ["--network-profile", "claude-code", "--credential", "github", "--allow-cwd", *PYTHON]


class Done(NamedTuple):
    """What a command did: `queries` is what the name server was asked meanwhile."""

    status: int
    stdout: str
    stderr: str
    directory: Path
    queries: list[str]


class Developer(NamedTuple):
    """A machine and a user of it; what api.github.com stands for there."""

    world: World
    site: Site
    api: Upstream

    def nono(self, *arguments: str, stdin: str = "") -> str:
        """Run a nono command outside of any sandbox; return what it printed."""
        command = [*self.world.enter(self.site.work), sys.executable, "-m", "nono", *arguments]
        done = subprocess.run(
            command, env=self.site.environment, input=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, script: str, *flags: str) -> Done:
        """Run a line of shell in the sandbox, in a fresh directory."""
        directory = Path(tempfile.mkdtemp(dir=self.site.work))
        before = len(self.world.dns.queries)
        done = self.site.run([*FLAGS, *flags], ["sh", "-c", script], wrap=self.world.enter(directory))
        queries = [name for name, _ in self.world.dns.queries[before:]]
        return Done(done.returncode, done.stdout, done.stderr, directory, queries)

    def audit(self) -> list[dict[str, object]]:
        return self.site.exchanges()


@pytest.fixture(scope="module")
def developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Developer]:
    for command in ("curl", "git"):
        require_command(command)
    directory = tmp_path_factory.mktemp("developer")
    with World(directory / "world") as world, Site(directory / "site") as site:
        repositories = directory / "repositories"
        standins.make_repository(repositories / "acme" / "widgets.git")
        world.serve("github.com", standins.git_server(repositories))
        world.serve(INDEX, standins.package_index())
        world.serve(REGISTRY, standins.npm_registry(f"https://{REGISTRY}"))
        site.environment["PATH"] = f"{Path(sys.executable).parent}:{site.environment['PATH']}"
        (site.home / ".config" / "pip").mkdir(parents=True)
        (site.home / ".config" / "pip" / "pip.conf").write_text(
            f"[global]\nindex-url = https://me:{PASSWORD}@{INDEX}/simple/\ndisable-pip-version-check = yes\n"
        )
        npm = f"registry=https://{REGISTRY}/\n//{REGISTRY}/:_authToken={PASSWORD}\n"
        (site.home / ".npmrc").write_text(npm)
        made = Developer(world, site, world.serve("api.github.com", standins.api(KEY)))
        made.nono("credential", "set", "github", "--store", "file", stdin=KEY)
        made.nono("profile", "groups")  # asks the package managers, so that the first run need not
        yield made


TOOLS = {
    "git": ("git clone --quiet https://github.com/acme/widgets.git", "widgets/README", "github.com"),
    "pip": (f"pip install --target there {standins.PACKAGE}", f"there/{standins.PACKAGE}.py", INDEX),
    "npm": (f"npm install {standins.PACKAGE}", f"node_modules/{standins.PACKAGE}/index.js", REGISTRY),
}
API = "https://api.github.com/user"


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_works_unmodified(developer: Developer, tool: str) -> None:
    if tool == "npm":
        use_if_present("npm")
    command, makes, host = TOOLS[tool]
    done = developer.run(command)
    assert done.status == 0, done.stderr
    assert standins.SAYS in (done.directory / makes).read_text()
    assert set(done.queries) - {"api.github.com"} == {host}


@pytest.mark.parametrize(
    "header", ["", '-H "Authorization: Bearer $GITHUB_TOKEN"', '-H "Authorization: token $GITHUB_TOKEN"']
)
def test_a_call_gets_the_real_key_on_its_way_out(developer: Developer, header: str) -> None:
    before = len(developer.api.requests)
    done = developer.run(
        f"curl -sS --fail-with-body {header} {API}; env; curl --cacert $SSL_CERT_FILE -sS -v {API} 2>&1"
    )
    assert done.status == 0, done.stderr
    assert '"login": "tester"' in done.stdout, done.stdout
    assert KEY not in done.stdout + done.stderr + json.dumps(developer.audit())
    assert standins.presented(developer.api.requests[before:]) == {f"Bearer {KEY}"}


def test_the_settings_that_are_handed_over_hold_no_password(developer: Developer) -> None:
    done = developer.run("env; cat $PIP_CONFIG_FILE $npm_config_userconfig; cat ~/.npmrc ~/.config/pip/pip.conf")
    assert f"index-url=https://{INDEX}/simple/" in done.stdout
    assert f"registry=https://{REGISTRY}/" in done.stdout
    assert PASSWORD not in done.stdout
    refused = done.stderr.count("Permission denied") + done.stderr.count("No such file")  # in /tmp they are not seen
    assert refused == 2, done.stderr


def test_another_key_does_not_take_the_place_of_the_real_one(developer: Developer) -> None:
    before = len(developer.api.requests)
    done = developer.run(f"curl -sS -H 'Authorization: Bearer stolen-elsewhere' {API}")
    assert standins.presented(developer.api.requests[before:]) <= {f"Bearer {KEY}"}, done


def test_what_is_not_named_is_refused_with_the_flag(developer: Developer) -> None:
    page = developer.world.serve("www.example.org", standins.page)
    tunnelled, plain = "curl -sS https://www.example.org/", "curl -sS http://www.example.org/"
    done = developer.run(f"{plain}; {tunnelled}; pip download --no-deps --retries 1 -i https://www.example.org/ x")
    assert "--allow-domain www.example.org" in done.stdout, "the body of an answer to http://"
    assert "response 403" in done.stderr
    assert "403 www.example.org is not in the allowlist" in done.stderr, "what pip says"
    said = " ".join(" ".join(done.stderr.splitlines()[-2:]).split())
    told = r"nono denied connect www\.example\.org, \d+ times \(not in the allowlist\) --allow-domain www\.example\.org"
    assert re.fullmatch(told, said), done.stderr
    assert not page.connections
    assert "www.example.org" not in done.queries, "a denied name is never looked up"
    done = developer.run(tunnelled, "--allow-domain", "www.example.org")
    assert done.stdout == standins.SAYS, done.stderr


def test_all_of_it_in_one_run(developer: Developer) -> None:
    use_if_present("npm")
    done = developer.run(" && ".join([*(command for command, _, _ in TOOLS.values()), f"curl -sSf {API}"]))
    assert done.status == 0, done.stderr
    assert all(standins.SAYS in (done.directory / makes).read_text() for _, makes, _ in TOOLS.values())
    assert set(done.queries) == {"api.github.com", *(host for _, _, host in TOOLS.values())}
