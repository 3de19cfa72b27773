"""What each manager's answer becomes. The fakes answer in the form of the real ones (pip 23, npm 11, cargo 1.95, go
1.26, Maven 3.8, RubyGems 3.3), to the arguments that they are given."""

from __future__ import annotations

import os
import signal
import time
import zipfile
from pathlib import Path

import pytest

from nono.registries import ask
from nono.registries.cache import Answer
from tests.registries.conftest import Machine

PIP = """
if arguments[0] == "download":
    for index in os.environ.get("PIP_INDEX_URL", "index.example:443").split():
        visit(index, "PIP_PROXY")
    sys.exit("ERROR: No matching distribution found for pip")
assert arguments[:2] == ["install", "--dry-run"]
print(json.dumps({"version": "1", "install": [{"download_info": {"url": FILE}, "metadata": {"name": "pip"}}]}))
"""
NPM = """
if arguments[:2] == ["config", "list"]:
    settings = {"registry": "https://mirror.example/npm/", "@us:registry": "https://us.example:8443/", "cidr": None}
    print(json.dumps(settings))
else:
    print("https://tarballs.example/once-1.4.0.tgz")
"""
CARGO = """
assert arguments[:2] == ["fetch", "--manifest-path"]
manifest = pathlib.Path(arguments[2]).read_text()
assert "itoa" in manifest and "[workspace]" in manifest  # which a Cargo.toml above is then not asked for
home = pathlib.Path(os.environ["CARGO_HOME"])
if "CARGO_HTTP_PROXY" in os.environ:
    visit("sparse.example:443", variable="CARGO_HTTP_PROXY")
    sys.exit(101)
index = home / "registry/index/sparse.example-1949cf8c6b5b557f"
index.mkdir(parents=True)
(index / "config.json").write_text('{"dl": "https://crates.example/{crate}/{version}", "api": "https://api.example"}')
"""
GO = """
assert arguments == ["env", "-json", "GOPROXY", "GOSUMDB"] and os.environ["GOTOOLCHAIN"] == "local"
print(json.dumps({"GOPROXY": os.environ["GOPROXY"], "GOSUMDB": os.environ["GOSUMDB"]}))
"""
GEM = """
if arguments[0] == "sources":
    print("*** CURRENT SOURCES ***\\n\\nhttps://gems.example/\\nhttp://old.example:9292/gems")
else:
    assert arguments[:2] == ["install", "--explain"]
    settings = pathlib.Path(os.environ["GEMRC"].split(":")[-1])
    assert settings.stat().st_mode & 0o777 == 0o600
    proxy = settings.read_text().removeprefix(":http_proxy: ").strip()
    visit("index.gems.example:443", url=proxy)
    visit("gems.example:443", url=proxy)
    sys.exit(2)
"""
MVN = """
assert arguments == ["--batch-mode", "--version"]
print("\\x1b[1mApache Maven 3.8.7\\x1b[m\\nMaven home: " + HOME + "\\nJava version: 17.0.15, vendor: Debian")
"""
SUPER_POM = """<?xml version="1.0"?><project><modelVersion>4.0.0</modelVersion><repositories><repository>
<id>central</id><url>https://central.example/maven2</url></repository></repositories><pluginRepositories>
<pluginRepository><id>central</id><url>https://central.example/maven2</url></pluginRepository></pluginRepositories>
</project>"""


def hosts(answer: Answer) -> list[str]:
    return [host.entry for host in answer.hosts]


@pytest.fixture
def scratch(tmp_path: Path) -> str:
    (tmp_path / "scratch").mkdir()
    return str(tmp_path / "scratch")


def test_pip_names_its_indexes_and_the_index_its_files(machine: Machine, scratch: str) -> None:
    machine.program("pip", f"FILE = 'https://files.example/packages/pip.whl'{PIP}")
    machine.environment["PIP_INDEX_URL"] = "a.example:443 b.example:444 http://c.example/simple/pip/"
    answer = ask.ask(machine.tool("pip"), scratch)
    assert hosts(answer) == ["a.example", "b.example:444", "c.example", "files.example"]
    assert [host.source for host in answer.hosts] == ["PIP_INDEX_URL"] * 3 + ["named by the index of pip"]
    assert answer.whole


def test_pip_is_asked_without_the_shim_of_pyenv(machine: Machine, scratch: str) -> None:
    real = machine.program(
        "pip", f"FILE = 'https://files.example/pip.whl'{PIP}", machine.home / ".pyenv/versions/3/bin"
    )
    machine.program("pip", "sys.exit('this would write all shims anew')", machine.home / ".pyenv/shims")
    machine.program("pyenv", f"assert arguments == ['which', 'pip']; print({str(real)!r})", machine.home / ".pyenv/bin")
    machine.environment["PATH"] = str(machine.home / ".pyenv/shims")
    assert hosts(ask.ask(machine.tool("pip"), scratch)) == ["index.example", "files.example"]


def test_pip_without_a_network_names_its_index_only(machine: Machine, scratch: str) -> None:
    program = machine.program("pip", f"FILE = 1{PIP.replace('print', 'sys.exit')}")
    answer = ask.ask(machine.tool("pip"), scratch)
    assert hosts(answer) == ["index.example"]
    assert answer.hosts[0].source == f"the default of {program}"
    assert not answer.whole


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/x", "https://169.254.169.254/x", "http://[::1]/x", "https://localhost/x", "https://10.0.0.1:8443/x",
     "file:///etc/passwd", "https://*.example/x", "https://a%00.example/", "https://[/", "//x", "https://.com/", ""],
)  # fmt: skip
def test_an_index_does_not_lead_to_this_machine_or_anywhere_unsound(machine: Machine, scratch: str, url: str) -> None:
    machine.program("pip", f"FILE = {url!r}{PIP}")
    assert hosts(ask.ask(machine.tool("pip"), scratch)) == ["index.example"]


def test_a_private_mirror_that_the_user_named_is_listed(machine: Machine, scratch: str) -> None:
    machine.program("pip", f"FILE = ''{PIP}")
    machine.environment["PIP_INDEX_URL"] = "10.1.2.3:443"
    (host,) = ask.ask(machine.tool("pip"), scratch).hosts
    assert (host.entry, host.source) == ("10.1.2.3", "PIP_INDEX_URL")
    assert ask.is_private(host.entry)
    assert ask.is_private("localhost:8080")
    assert ask.is_private("[::1]:80")
    assert not ask.is_private("mirror.example")


def test_npm_names_its_registry_and_those_of_scopes(machine: Machine, scratch: str) -> None:
    machine.program("npm", NPM)
    settings = machine.file(".npmrc", "registry=https://mirror.example/npm/\n")
    answer = ask.ask(machine.tool("npm"), scratch)
    assert hosts(answer) == ["mirror.example", "us.example:8443", "tarballs.example"]
    assert answer.hosts[0].source == str(settings)
    assert answer.whole


def test_cargo_names_its_index_the_index_its_files_and_the_settings_more(machine: Machine, scratch: str) -> None:
    machine.program("cargo", CARGO)
    registries = (
        '[registries.us]\nindex = "sparse+https://crates.us.example/"\n[source.x]\nregistry = "https://x.example"\n'
    )
    machine.file(".cargo/config.toml", registries)
    machine.environment["CARGO_REGISTRIES_MORE_INDEX"] = "sparse+https://more.example/index/"
    answer = ask.ask(machine.tool("cargo"), scratch)
    assert hosts(answer) == ["sparse.example", "more.example", "crates.us.example", "x.example", "crates.example"]
    assert answer.whole


@pytest.mark.parametrize(
    ("proxies", "sums", "expected"),
    [
        ("https://a.example,direct", "sums.example", ["a.example", "sums.example"]),
        ("https://a.example/x|http://b.example:81,off", "off", ["a.example", "b.example:81"]),
        ("https://a.example", "sums.example+033de0ae+Ac4z https://s.example/sumdb", ["a.example", "s.example"]),
        ("https://a.example", "sums.example+033de0ae+Ac4z", ["a.example", "sums.example"]),
        ("direct", "off", []),
        ("file:///go", "", []),
    ],
)
def test_go_names_its_proxies_and_checksums(
    machine: Machine, scratch: str, proxies: str, sums: str, expected: list[str]
) -> None:
    machine.program("go", GO)
    machine.environment |= {"GOPROXY": proxies, "GOSUMDB": sums}
    assert hosts(ask.ask(machine.tool("go"), scratch)) == expected


def test_gem_names_its_sources_and_what_it_asks_first(machine: Machine, scratch: str) -> None:
    machine.program("gem", GEM)
    answer = ask.ask(machine.tool("gem"), scratch)
    assert hosts(answer) == ["gems.example", "old.example:9292", "index.gems.example"]
    assert answer.whole


def maven(machine: Machine) -> None:
    home = machine.home / "maven"
    (home / "lib").mkdir(parents=True)
    (home / "lib/maven-broken.jar").write_text("no archive")
    with zipfile.ZipFile(home / "lib/maven-model-builder-3.x.jar", "w") as jar:
        jar.writestr("org/apache/maven/model/pom-4.0.0.xml", SUPER_POM)
    machine.program("mvn", f"HOME = {str(home)!r}{MVN}")


def settings(*elements: str) -> str:
    return f'<settings xmlns="urn:maven:settings">{"".join(elements)}</settings>'


def mirror(of: str, url: str, more: str = "") -> str:
    return f"<mirrors><mirror><id>m</id><mirrorOf>{of}</mirrorOf><url>{url}</url>{more}</mirror></mirrors>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["central.example"]),
        (settings(mirror("central", "https://m.example/c")), ["m.example"]),
        (settings(mirror("*", "https://m.example/all")), ["m.example"]),
        (settings(mirror("external:*,!central", "https://m.example")), ["m.example", "central.example"]),
        (settings(mirror("other", "https://m.example")), ["m.example", "central.example"]),
        (settings(mirror("external:http:*", "http://0.0.0.0/", "<blocked>true</blocked>")), ["central.example"]),
        (settings(mirror("*", "https://${env.JAVA_HOME}.example/")), ["jdk.example"]),
        (settings(mirror("*", "https://${mirror}/")), []),
        (settings("<profiles><profile><repositories><repository><id>us</id><url>https://us.example</url></repository>"
                  "</repositories></profile></profiles>"), ["us.example", "central.example"]),
    ],
)  # fmt: skip
def test_maven_names_its_repositories_and_mirrors(
    machine: Machine, scratch: str, text: str, expected: list[str]
) -> None:
    maven(machine)
    machine.environment["JAVA_HOME"] = "jdk"
    if text:
        machine.file(".m2/settings.xml", text)
    assert hosts(ask.ask(machine.tool("maven"), scratch)) == expected


def running(group: str) -> list[str]:
    """Return the processes of a group, but for zombies. Source: proc(5), /proc/PID/stat fields 3 and 5."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if its_group == group and state != "Z":
            found.append(path.parent.name)
    return found


def test_settings_that_cannot_be_read_are_no_answer(machine: Machine, scratch: str) -> None:
    maven(machine)
    machine.file(".m2/settings.xml", "<settings>")
    answer = ask.ask(machine.tool("maven"), scratch)
    assert (answer.hosts, answer.whole) == ((), False)


@pytest.mark.parametrize("name", ["pip", "npm", "cargo", "go", "maven", "gem"])
@pytest.mark.parametrize(
    "body",
    ["sys.exit(1)", "print('[]')", "print('{}')", "sys.stdout.buffer.write(os.urandom(10000))",
     "print('{\"GOPROXY\": 1, \"install\": 1, \"registry\": 1}')"],
)  # fmt: skip
def test_an_answer_of_another_form_is_none(machine: Machine, scratch: str, name: str, body: str) -> None:
    machine.program("mvn" if name == "maven" else name, body)
    answer = ask.ask(machine.tool(name), scratch)
    assert (answer.hosts, answer.whole) == ((), False)


def test_a_program_runs_in_the_root_with_nothing_to_read_and_a_clean_environment(
    machine: Machine, scratch: str
) -> None:
    seen = machine.home / "seen"
    machine.program(
        "go", f"pathlib.Path({str(seen)!r}).write_text(json.dumps([os.getcwd(), sys.stdin.read(), dict(os.environ)]))"
    )
    machine.environment |= {"PYTHONSTARTUP": "x", "SECRET": "y"}
    ask.ask(machine.tool("go"), scratch)
    cwd, stdin, environment = ask._json('{"x": ' + seen.read_text() + "}")["x"]
    assert (cwd, stdin) == ("/", "")
    assert environment.keys() - {"LC_CTYPE"} == {"HOME", "PATH", "TMPDIR", "GOTOOLCHAIN"}
    assert environment["TMPDIR"] == scratch


def test_a_process_of_another_session_that_holds_the_output_is_not_waited_for(
    machine: Machine, scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "TIMEOUT_S", 0.5)
    pid_file = Path(scratch, "pid")
    body = f"os.fork() and os._exit(0); os.setsid(); pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))"
    machine.program("go", f"{body}; time.sleep(60)")
    start = time.monotonic()
    ask.ask(machine.tool("go"), scratch)
    assert time.monotonic() - start < 10
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)",
        "os.fork(); time.sleep(60)",
        "os.fork() or time.sleep(60)",  # the child holds the output open
        "\nwhile True: print('x' * 1000)",
    ],
)
def test_a_program_that_does_not_end_is_ended(
    machine: Machine, scratch: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "TIMEOUT_S", 0.5)
    machine.program("go", f"pathlib.Path({scratch!r}, str(os.getpid())).touch(); {body}")
    start = time.monotonic()
    assert ask.ask(machine.tool("go"), scratch).hosts == ()
    assert time.monotonic() - start < 10
    (group,) = os.listdir(scratch)
    while running(group):  # a signal takes effect when the kernel comes to it
        assert time.monotonic() - start < 10
