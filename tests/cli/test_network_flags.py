"""The network flags at work, in real runs: what the agent reaches with them, and what it is told without."""

from __future__ import annotations

import pytest

from tests.runs import Site, lines

ALLOWED, DENIED = (200, None), (403, "endpoint_denied")


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([], ALLOWED),
        (["openai:POST:/chat/*"], ALLOWED),
        (["openai:GET:/models", "openai:*:/chat/completions"], ALLOWED),
        (["openai:GET:/chat/*"], DENIED),
        (["openai:POST:/v1/chat/*"], DENIED),
    ],
)
def test_an_endpoint_of_a_flag_restricts_its_route(
    site: Site, endpoints: list[str], expected: tuple[int, str | None]
) -> None:
    flags = [word for endpoint in endpoints for word in ("--allow-endpoint", endpoint)]
    profile = site.profile(site.store_in_files())
    done = site.run(["--profile", str(profile), "--allow-cwd", *flags], site.agent("ask_once"))
    (answer,) = lines(done.stdout)
    assert (answer["status"], answer["x-nono-error"]) == expected, done.stderr


def test_a_network_profile_grants_its_hosts_and_no_other(site: Site) -> None:
    requests = ["CONNECT api.anthropic.com:443", "CONNECT a.invalid:443", "CONNECT api.openai.com:22"]
    flags = ["--network-profile", "minimal", "--deny-domain", "api.anthropic.com", "--allow-cwd"]
    done = site.run(flags, site.agent("proxied", *requests))
    assert [(answer["status"], answer["code"]) for answer in lines(done.stdout)] == [(403, "host_denied")] * 3
    assert "--network-profile minimal" in done.stderr, "the summary"
    entries = site.exchanges()
    assert [entry["host"] for entry in entries] == ["api.anthropic.com:443", "a.invalid:443", "api.openai.com:22"]
    assert "denied by --deny-domain" in entries[0]["reason"]
    assert "--allow-domain a.invalid" in entries[1]["reason"]
    assert "--allow-domain api.openai.com:22" in entries[2]["reason"]
