"""Interception in real runs: the bundle that the child's programs read, and what happens without `cryptography`."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from nono.policy.environment import CA_VARIABLES
from tests.runs import KEYS, Site, lines

# Asks the upstream by its own name, through the proxy, with the trust that the environment names and no key at all.
CHILD = """
import base64, http.client, json, os, ssl, sys, urllib.parse
proxy, url = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"]), urllib.parse.urlsplit(sys.argv[1])
token = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=ssl.create_default_context())
connection.set_tunnel(url.hostname, url.port, {"Proxy-Authorization": "Basic " + token})
shown = {"bundles": sorted({os.environ.get(name, "") for name in NAMES})}
try:
    connection.request("POST", url.path + "/chat/completions", b"{}")
    response = connection.getresponse()
    shown |= {"status": response.status, "body": response.read().decode()}
except OSError as error:
    shown["refused"] = str(error)
print(json.dumps(shown))
""".replace("NAMES", repr(CA_VARIABLES))
WITHOUT_CRYPTOGRAPHY = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cryptography":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def ask(site: Site, *, intercept: bool = True, **environment: str) -> dict[str, Any]:
    profile = site.profile(site.store_in_files({"openai": KEYS["openai"]}), tls_intercept=intercept)
    program = site.work / "child.py"
    program.write_text(CHILD)
    command = [sys.executable, str(program), site.upstream.url("openai")]
    done = site.run(["--profile", str(profile), "--allow-cwd"], command, environment=environment)
    assert done.returncode == 0, done.stderr
    (shown,) = lines(done.stdout)
    return shown


def test_a_program_that_insists_on_https_gets_the_key_injected(site: Site) -> None:
    shown = ask(site)
    assert shown["status"] == 200, shown
    assert KEYS["openai"] not in shown["body"]
    (path,) = shown["bundles"]
    assert path.startswith(str(site.tmp))
    assert list(site.tmp.iterdir()) == [], "the bundle went with the run"
    entries = site.exchanges()
    assert [(entry["method"], entry["route"], entry["status"]) for entry in entries] == [
        ("CONNECT", "", 200), ("POST", "openai", 200),
    ]  # fmt: skip


def test_a_path_of_a_host_is_granted_without_a_key_and_no_other(site: Site) -> None:
    url = site.upstream.url("openai")
    program = site.work / "child.py"
    program.write_text(CHILD)
    environment = {"SSL_CERT_FILE": site.certificates.authority}  # as the user trusts this host
    for path, status in (("/openai/**", 401), ("/other/**", 403)):  # 401: the upstream's own, there was no key
        granted = f"https://{urllib.parse.urlsplit(url).netloc}{path}"
        done = site.run(
            ["--allow-domain", granted, "--allow-cwd"], [sys.executable, str(program), url], environment=environment
        )
        assert done.returncode == 0, done.stderr
        (shown,) = lines(done.stdout)
        assert shown["status"] == status, shown
        assert ("--allow-domain" in shown["body"]) is (status == 403)


def test_who_does_not_intercept_has_no_bundle(site: Site) -> None:
    shown = ask(site, intercept=False)
    assert shown["bundles"] == [""]
    assert "403" in shown["refused"]


def test_without_cryptography_the_refusal_names_the_extra(site: Site) -> None:
    (site.directory / "without").mkdir()
    (site.directory / "without" / "sitecustomize.py").write_text(WITHOUT_CRYPTOGRAPHY)
    shown = ask(site, PYTHONPATH=str(site.directory / "without"))
    assert shown["bundles"] == [""]
    assert "403" in shown["refused"]
    assert "pip install 'nono[intercept]'" in site.audit_log()


def test_the_proxy_alone_names_a_bundle_until_it_ends(site: Site) -> None:
    profile = site.profile(site.store_in_files({"openai": KEYS["openai"]}), tls_intercept=True)
    command = [sys.executable, "-m", "nono", "proxy", "--profile", str(profile), "--json"]
    with subprocess.Popen(command, cwd=site.work, env=site.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = json.loads(process.stdout.readline())
            (path,) = {line["env"][name] for name in CA_VARIABLES}
            assert Path(path).stat().st_mode & 0o777 == 0o644
            url = urllib.parse.urlsplit(site.upstream.url("openai"))
            token = base64.b64encode(f"nono:{line['env']['NONO_PROXY_TOKEN']}".encode()).decode()
            context = ssl.create_default_context(cafile=path)
            connection = http.client.HTTPSConnection("127.0.0.1", line["port"], context=context, timeout=10)
            connection.set_tunnel(str(url.hostname), url.port, {"Proxy-Authorization": f"Basic {token}"})
            connection.request("POST", url.path + "/chat/completions", b"{}")
            assert connection.getresponse().status == 200
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert not os.path.exists(path)
        finally:
            process.kill()
