"""Real toolchains, unmodified, with nono's profile for each: `nono run -p python-dev`, and nothing else.

The machine is a World. Its user has settings that name his company's sources of packages; everything else is as it
comes. Each toolchain fetches a package through the proxy, builds what uses it, and runs that, all in the sandbox. What
it fetched is gone with the run: caches of the user's, which his own builds run from, are not written.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import sources, standins
from tests.e2e.standins import PACKAGE, SAYS, VERSION
from tests.e2e.world import World
from tests.runs import Site, use_if_present

INDEX, REGISTRY = "python-packages.example-corp.test", "node-packages.example-corp.test"
MODULES, CRATES = "go-packages.example-corp.test", "rust-packages.example-corp.test"
ARTIFACTS = "java-packages.example-corp.test"
PYTHON = ["--read", sys.prefix, "--read", sys.base_prefix]  # this one may stand anywhere


class Developer(NamedTuple):
    """A machine and its user."""

    world: World
    site: Site

    def run(self, profile: str, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run lines of shell with a profile, in a fresh directory below the home directory.

        Checks that all went well, and that nothing else of the user's is made: his caches are not the agent's.
        """
        directory = Path(tempfile.mkdtemp(dir=self.site.home / "src"))
        for name, text in FILES.get(profile, {}).items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text)
        before = self._files()
        done = self.site.run(["-p", profile, *flags], ["sh", "-ec", script], wrap=self.world.enter(directory))
        assert done.returncode == 0, done.stderr
        assert {path for path in self._files() - before if not path.is_relative_to(directory)} == set()
        return done

    def _files(self) -> set[Path]:
        return {path for path in self.site.home.rglob("*") if not path.is_relative_to(self.site.state)}


FILES = {
    "go-dev": {
        "go.mod": f"module example\n\ngo 1.20\n\nrequire {sources.MODULE} v{VERSION}\n",
        "main.go": f'package main\n\nimport "{sources.MODULE}"\n\nfunc main() {{ println({PACKAGE}.Says()) }}\n',
    },
    "rust-dev": {
        "Cargo.toml": '[package]\nname = "example"\nversion = "0.1.0"\nedition = "2021"\n'
        f'[dependencies]\n{PACKAGE} = "{VERSION}"\n',
        "src/main.rs": f'fn main() {{ println!("{{}}", {PACKAGE}::says()) }}\n',
    },
    "java-dev": {
        "pom.xml": '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><parent>'
        f"<groupId>{sources.GROUP}</groupId><artifactId>{PACKAGE}</artifactId><version>{VERSION}</version>"
        "<relativePath/></parent><artifactId>example</artifactId><packaging>pom</packaging></project>",
        "Main.java": f'class Main {{ public static void main(String[] a) {{ System.out.println("{SAYS}"); }} }}\n',
    },
}
SETTINGS = {
    ".config/pip/pip.conf": f"[global]\nindex-url = https://{INDEX}/simple/\ndisable-pip-version-check = yes\n",
    ".npmrc": f"registry=https://{REGISTRY}/\n",
    ".config/go/env": f"GOPROXY=https://{MODULES}\nGOSUMDB=off\n",
    ".cargo/config.toml": '[source.crates-io]\nreplace-with = "company"\n'
    f'[source.company]\nregistry = "sparse+https://{CRATES}/index/"\n',
    ".m2/settings.xml": "<settings><mirrors><mirror><id>company</id><mirrorOf>*</mirrorOf>"
    f"<url>https://{ARTIFACTS}/repository</url></mirror></mirrors></settings>",
}


@pytest.fixture(scope="module")
def developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Developer]:
    directory = tmp_path_factory.mktemp("developer")
    with World(directory / "world") as world, Site(directory / "site") as site:
        world.serve(INDEX, standins.package_index())
        world.serve(REGISTRY, standins.npm_registry(f"https://{REGISTRY}"))
        world.serve(MODULES, sources.go_proxy())
        world.serve(CRATES, sources.crates(f"https://{CRATES}"))
        world.serve(ARTIFACTS, sources.maven_repository())
        for name, text in SETTINGS.items():
            (site.home / name).parent.mkdir(parents=True, exist_ok=True)
            (site.home / name).write_text(text)
        (site.home / "src").mkdir()
        site.state.mkdir(parents=True)
        yield Developer(world, site)


def use_rust(site: Site) -> None:
    """Let the user have the machine's cargo: the system's, or rustup's, which is in some home directory."""
    cargo = Path(use_if_present("cargo"))
    if not cargo.is_relative_to("/usr"):
        bin_directory, rustup = site.home / ".cargo" / "bin", cargo.parents[2] / ".rustup"
        bin_directory.symlink_to(cargo.parent)
        (site.home / ".rustup").symlink_to(rustup)
        site.environment["PATH"] = f"{bin_directory}:{site.environment['PATH']}"


def test_python_makes_an_environment_and_installs_into_it(developer: Developer) -> None:
    script = f"""
        {sys.executable} -m venv env
        env/bin/pip install --quiet {PACKAGE}
        env/bin/python -c 'import {PACKAGE}; print({PACKAGE}.says)'
    """
    assert developer.run("python-dev", script, *PYTHON).stdout == f"{SAYS}\n"


def test_node_installs_with_npm(developer: Developer) -> None:
    use_if_present("npm")
    script = f"npm install --no-audit --no-fund {PACKAGE}; node -e 'console.log(require(\"{PACKAGE}\"))'"
    assert developer.run("node-dev", script).stdout.endswith(f"{SAYS}\n")


FASTER = {
    "pnpm": ("node-dev", f"pnpm add {PACKAGE}; node -e 'console.log(require(\"{PACKAGE}\"))'"),
    "uv": (
        "python-dev",
        f"""
        uv venv --quiet --python {sys.executable} env
        uv pip install --quiet --system-certs --python env/bin/python --index-url https://{INDEX}/simple/ {PACKAGE}
        env/bin/python -c 'import {PACKAGE}; print({PACKAGE}.says)'
        """,
    ),
}


@pytest.mark.parametrize("command", FASTER)
def test_faster_installers_work_too(developer: Developer, command: str) -> None:
    program = Path(use_if_present(command))
    profile, script = FASTER[command]
    flags = [*PYTHON, "--read", str(program.parent.parent)]
    done = developer.run(profile, f"PATH={program.parent}:$PATH\n{script}", *flags)
    assert done.stdout.endswith(f"{SAYS}\n"), done.stdout


def test_go_fetches_a_module_and_builds(developer: Developer) -> None:
    go = Path(use_if_present("go"))
    developer.site.environment["PATH"] = f"{go.parent}:{developer.site.environment['PATH']}"
    assert SAYS in developer.run("go-dev", "go mod tidy && go run .").stderr.splitlines()


def test_rust_fetches_a_crate_and_builds(developer: Developer) -> None:
    use_rust(developer.site)
    assert developer.run("rust-dev", "cargo run --quiet").stdout == f"{SAYS}\n"


def trust_in_java(world: World) -> None:
    """Let Java trust the World's certificates: the system's bundle for it lies beside those that a World replaces."""
    bundle = world.directory / "certificates" / "java" / "cacerts"
    bundle.parent.mkdir()
    command = [use_if_present("keytool"), "-importcert", "-noprompt", "-storetype", "JKS", "-storepass", "changeit"]
    command += ["-file", world.authority.ca, "-keystore", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)


def test_maven_fetches_through_the_mirror_of_the_user(developer: Developer) -> None:
    use_if_present("mvn")
    trust_in_java(developer.world)
    script = f"mvn --quiet validate; cat $TMPDIR/.m2/repository/test/example-corp/{PACKAGE}/{VERSION}/*.pom"
    assert f"<name>{SAYS}</name>" in developer.run("java-dev", script).stdout


def test_java_compiles_and_runs(developer: Developer) -> None:
    use_if_present("javac")
    assert developer.run("java-dev", "javac Main.java && java Main").stdout == f"{SAYS}\n"
