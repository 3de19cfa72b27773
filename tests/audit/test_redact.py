"""No secret stays in what people type; what is no secret stays readable."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nono.audit import redact, shapes
from nono.policy import variables

SECRET = "hunter2"
KEYS = [
    prefix + ("a1B2c3D4e5F6g7H8i9J0" * 4)[: max(rest, 20)]
    for prefix, rest in sorted({**variables.key_prefixes(), **shapes.PREFIXES}.items())
]
HEX = "9f86d081884c7d659a2feaa0c55ad015"
RANDOM = "wJalrXUtnFEMIK7MDENGbPxRfiCYz9Qk"
PARTED = {  # secrets of several parts, the part that must not stay, and what looks like it
    "jwt": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN", "eyJzdWIi"),
    "slack": ("/services/T024BE7LD/B0ABCDEF1/" + RANDOM[:24], RANDOM[:24]),
    "slack trigger": ("/triggers/T024BE7LD/12345678901/" + HEX, HEX),
    "discord": ("/api/webhooks/123456789012345678/" + RANDOM * 2, RANDOM),
    "telegram": ("/bot123456789:AAH" + RANDOM + "/sendMessage", RANDOM),
    "teams": (f"/webhookb2/{HEX}-0@{HEX}-1/IncomingWebhook/{HEX}/x", HEX),
    "ifttt": ("/trigger/x/with/key/" + RANDOM, RANDOM),
    "lark": ("/open-apis/bot/v2/hook/550e8400-e29b-41d4-a716-446655440000", "550e8400"),
    "twilio": ("/v1/SK" + HEX, HEX),
    "mailgun": ("/v3/key-" + HEX, HEX),
    "databricks": ("/x/dapi" + HEX, HEX),
}


@pytest.mark.parametrize(
    "words",
    [
        ["--api-key", SECRET],
        ["--token=" + SECRET],
        ["--apiToken", SECRET],
        ["--db.password=" + SECRET],
        ["--access-token", "-" + SECRET],
        ["--token", "--secret", SECRET],
        ["env", "OPENAI_API_KEY=" + SECRET, "agent"],
        ["docker", "run", "-e", "DB_PASSWORD=" + SECRET, "image"],
        ["docker", "login", "-u", "me", "-p", SECRET],
        ["skopeo", "copy", "--src-creds", f"me:{SECRET}", "docker://x"],
        ["env", f"REGISTRY_CREDS=me:{SECRET}", "agent"],
        ["kubectl", "create", "secret", "generic", "x", f"--from-literal=name={SECRET}"],
        ["kubectl", "create", "secret", "generic", "x", "--from-literal", f"name={SECRET}"],
        ["java", "-Djavax.net.ssl.keyStorePassword=" + SECRET],
        ["git", "clone", f"https://me:{SECRET}@example.com/x.git"],
        ["git", "clone", f"https://{SECRET}@example.com/x.git"],
        ["curl", f"https://example.com/?a=1&access_token={SECRET}&b=2"],
        ["curl", f"https://example.com/?sig={SECRET}"],
        ["curl", f"https://me:a/{SECRET}@example.com/"],
        ["curl", "-H", f"Authorization: Bearer {SECRET}"],
        ["curl", "-H", f"Authorization:Basic {SECRET}"],
        ["curl", "-HX-Api-Key: " + SECRET],
        ["curl", "-H", f"Cookie: a=1; b={SECRET}"],
        ["curl", "-u", f"me:{SECRET}"],
        ["curl", f"-ume:{SECRET}"],
        ["http", "example.com", f"Authorization:Token {SECRET}"],
        ["sh", "-c", f"curl -H 'Authorization: Bearer {SECRET}' https://x"],
        ["sh", "-c", f'API_KEY="two {SECRET}" agent'],
        ["sh", "-c", f"API_KEY=two\\ {SECRET} agent"],
        ["sh", "-c", f"agent --api-key {SECRET} --verbose"],
        ["sh", "-c", f"agent --password 'two {SECRET}' --verbose"],
        ["sh", "-c", f'sh -c "agent --password \\"two {SECRET}\\""'],
        ["sh", "-c", f'sh -c "TOKEN=x agent --api-key {SECRET}"'],
        ["sh", "-c", f"mysql -uroot -p{SECRET} db"],
        ["mysql", "-uroot", "-p" + SECRET],
        ["/usr/bin/sshpass", "-p", SECRET, "ssh", "host"],
        ["redis-cli", "-a", SECRET],
        ["agent", '{"model": "x", "api_key": "' + SECRET + '"}'],
        ["agent", '{"api_key":"' + SECRET + '"}'],
        ["agent", "password: " + SECRET],
        ["agent", "PASSWORD:" + SECRET],
        ["agent", "bearer", SECRET],
        ["agent", "BEARER " + SECRET],
        ["agent", f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END"],
        ["psql", f"postgresql://me:{SECRET}@db/x"],
        ["agent", f"proxy=http://me:{SECRET}@proxy:3128"],
        ["python", "-c", f"import x; api_key = '{SECRET}'; x.go(api_key)"],
        ["sh", "-c", f"PASSWORD+={SECRET} agent"],
        ["curl", f"https://example.com/?next=%2Fa%3Faccess_token%3D{SECRET}"],
        ["aws", "configure", "set", "aws_secret_access_key", SECRET],
        ["npm", "config", "set", "//registry.example/:_authToken", SECRET],
        ["fish", "-c", f"set -x API_TOKEN {SECRET}; agent"],
        ["sh", "-c", f"echo 'machine h login me password {SECRET}' > ~/.netrc"],
        ["agent", "X-Auth-Token", SECRET],
        ["curl", f"--user=me:{SECRET}"],
        ["az", "login", "-p", SECRET],
        ["ssh-keygen", "-N", SECRET],
    ],
    ids=" ".join,
)
def test_nothing_of_a_secret_stays(words: list[str]) -> None:
    assert SECRET not in "\n".join(redact.argv(words))
    assert SECRET not in redact.text(" ".join(words))


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_known_by_their_shape(key: str) -> None:
    for text in (key, f"say {key} aloud", f"x{key}", f"'{key}'", f"--model={key},", f"/v1/{key}/x"):
        assert key[5:] not in "".join(redact.argv(["agent", text])), text
        assert key not in redact.without_keys(text)


@pytest.mark.parametrize("name", PARTED)
def test_secrets_of_several_parts_are_known_in_paths_and_words(name: str) -> None:
    secret, part = PARTED[name]
    for text in (secret, f"https://x.example{secret}", f"curl -X POST 'https://x.example{secret}' -d x"):
        assert part not in redact.without_keys(text)
        assert part not in "".join(redact.argv(["agent", text]))


@pytest.mark.parametrize(
    "text", [HEX, HEX.upper(), HEX * 2, HEX[:16] * 3, f"--x={HEX}", f"a,{HEX},b", f'{{"x":"{HEX}"}}']
)
def test_hexadecimal_that_stands_alone_is_taken_for_a_key(text: str) -> None:
    (shown,) = redact.argv([text])
    assert HEX[:8] not in shown.lower()
    assert "***" in shown


def test_a_name_full_of_prefixes_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent chooses the names that it is denied, and waits for nothing: nono does, at the end."""
    looked_at = 0
    real = redact._run

    def run(value: str, at: int, of: frozenset[str]) -> int:
        nonlocal looked_at
        end = real(value, at, of)
        looked_at += end - at
        return end

    monkeypatch.setattr(redact, "_run", run)
    text = "/" + "sk-" * 1000
    assert redact.without_keys(text) == text
    assert looked_at < 3 * len(text)
    assert redact.without_keys(f"{text}{KEYS[0]}") == "/***"


def test_a_secret_in_a_path_of_a_start_is_taken_out() -> None:
    assert redact.without_keys(f"/home/me/{KEYS[0]}/x") == "/home/me/***/x"


def test_long_random_text_is_taken_for_a_key() -> None:
    for text in ("zJ8kQ2vB5nX1mC7aS4dF6gH3jK9lP0oI", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgN"):
        assert redact.argv(["agent", text]) == ["agent", "***"]


@pytest.mark.parametrize(
    "words",
    [
        ["python", "-m", "agent", "--verbose", "--model", "gpt-4", "src/main.py"],
        ["claude", "-p", "Fix the tests in src/, then say what you did."],
        ["claude", "-p", "Fix the access-token handling and the password reset; the token must be in tests/a1.txt"],
        ["pytest", "-k", "token", "tests/x1.py", "tests/test_token.py", "3"],
        ["sh", "-c", "cd /srv && make -j4 && ./run > out.txt 2>&1"],
        ["git", "log", "--since=2026-01-01", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"],
        ["curl", "https://example.com:8443/a/b?page=2#top"],
        ["cat", "src/task-management-application/risk-assessment-dashboard.py"],
        ["node", "-e", "console.log(1 + 1)"],
        ["npx", "https://cdn.example/@scope/package@1.0.0"],
        ["agent", "http://127.0.0.1:8080/x@y", "http://localhost:80/@x", "http://[::1]:8080/a@b", "http://h/x@y"],
        ["uv", "run", "--python", "3.12", "550e8400-e29b-41d4-a716-446655440000"],
        ["agent", "", " ", "é", "\x1b[31m"],
        ["cat", "desk-2026-11-22-Meeting-notes.txt", "task-20261122-README.md", "src/risk-1/TASK-2026-REPORT-FINAL.md"],
        ["curl", "https://x.example/services/team/billing/report", "https://x.example/api/webhooks/123/list"],
        ["curl", "https://x.example/bot/status", "https://x.example/triggers/T1/2/3", "with/key/bindings"],
        ["docker", "run", f"image@sha256:{HEX * 2}", "--digest", f"sha512-{HEX}"],
        ["pip", "install", f"--hash=sha256:{HEX * 2}", f"x==1 --checksum={HEX}"],
        ["git", "show", HEX + "01234567", f"commit {HEX}", f"--rev={HEX}"],
        ["node", f"dist/main.{HEX}.js", f"build-{HEX}/x", f".git/objects/9f/{HEX}012345", f"~/.cache/{HEX}"],
        ["dd", "0" * 40, "1" * 64, "a" * 32, "00000000000000000000000000000001"],
        ["vi", "eyJ.txt", "keyJournal.py", "a.eyJ", "monkey-business-2026.md", "dapier/models.py"],
        ["make", "glc_test", "hvs.c", "ntn_model_v2_final.bin", "ATBBREVIATION"],
    ],
    ids=" ".join,
)
def test_what_is_no_secret_stays(words: list[str]) -> None:
    assert redact.argv(words) == words


def test_what_a_secret_is_of_stays() -> None:
    assert redact.argv(["agent", "--api-key", "x1", "--token=x2", "DB_PASSWORD=x3"]) == [
        "agent", "--api-key", "***", "--token=***", "DB_PASSWORD=***",
    ]  # fmt: skip
    assert redact.url("https://me:pw@example.com/a?b=1&key=x&c=2#d") == "https://***@example.com/a?b=1&key=***&c=2#d"
    shown = redact.text("curl -H 'Authorization: Bearer x' https://e.example")
    assert shown.startswith("curl -H 'Authorization:***")


def test_headers_lose_the_values_that_authenticate() -> None:
    pairs = [("Authorization", "Bearer x"), ("Cookie", "a=b"), ("X-Goog-Api-Key", "k"), ("Accept", "*/*")]
    assert redact.headers(pairs) == [(name, "***") for name, _ in pairs[:3]] + [("Accept", "*/*")]


def test_a_long_argument_is_cut_where_no_half_of_a_secret_stays() -> None:
    key = KEYS[0]
    text = "word " * 408 + key
    assert len(text) > 2048 > len("word " * 408)
    (shown,) = redact.argv([text])
    assert key[:6] not in shown
    assert shown.endswith(f"… ({len(text)} characters)")
    assert len(redact.argv(["x"] * 5000)) == 1001
    (shown,) = redact.argv([f"--api-key={'x' * 10_000}"])
    assert "xxx" not in shown
    assert redact.argv(["y" * 5000]) == ["… (5000 characters)"]


VALUES = st.text(string.ascii_letters + string.digits + "-_.~+/!$%^*@", min_size=6, max_size=40).filter(
    lambda value: value.strip("-_.") and "://" not in value
)
NAMES = st.sampled_from(
    ["api-key", "API_KEY", "apiKey", "token", "GITHUB_TOKEN", "my.secret", "DB_PASSWORD", "pwd", "auth"]
)
FILLERS = st.lists(
    st.sampled_from(["run", "--verbose", "-x", "a=b", "https://e.example/?q=1", "it's", '"two words"', "é"])
)
SHAPES = st.sampled_from(
    [
        lambda name, value: [f"--{name}", value],
        lambda name, value: [f"--{name}={value}"],
        lambda name, value: [f"{name}={value}"],
        lambda name, value: [f"{name}: {value}"],
        lambda name, value: [f"-H{name}: {value}"],
        lambda name, value: [f"https://e.example/a?b=1&{name}={value.replace('#', '')}"],
        lambda name, value: ["-H", f"Authorization: Bearer {value}"],
        lambda name, value: [f"https://user:{value}@e.example/a"],
        lambda name, value: ["env", f"A=b {name}='{value} {value}' cmd"],
    ]
)


@settings(max_examples=600, deadline=None)
@given(shape=SHAPES, name=NAMES, value=VALUES, before=FILLERS, after=FILLERS)
@example(shape=lambda n, v: [f"--{n}", v], name="token", value="--a=bc", before=[], after=[])
@example(shape=lambda n, v: [f"https://user:{v}@e.example/a"], name="pwd", value="@0000/", before=[], after=[])
def test_no_value_stays_wherever_it_stands(
    shape: object, name: str, value: str, before: list[str], after: list[str]
) -> None:
    value = f"{value}Zq"  # what no filler and no name has
    words = [*before, *shape(name, value), *after]  # type: ignore[operator]
    assert value not in "\n".join(redact.argv(words)), redact.argv(words)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=8))
def test_any_text_is_taken_and_nothing_is_added_to_it_twice(words: list[str]) -> None:
    shown = redact.argv(words)
    assert len(shown) == len(words)
    redact.text(" ".join(words))
    redact.without_keys(" ".join(words))
