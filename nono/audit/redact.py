"""Secrets are taken out of what people type: command lines, URLs, headers.

Pure. What is redacted is more than need be, because what is written stays; the value goes, what it is of stays:

    --api-key X   --token=X   OPENAI_API_KEY=X   {"password": "X"}     a name that sounds like a secret's, and its value
    -H 'Authorization: Bearer X'   'Cookie: a=X'                       the whole value of such a header
    https://user:X@host/   ?access_token=X                             in a URL
    Bearer X                                                           what follows that word
    sk-…   ghp_…   eyJ…                                                known shapes of keys (policy/data/variables.json)
    zJ8kQ2…                                                            32 characters or more, of all three sorts
    -----BEGIN … PRIVATE KEY-----                                      and all that follows
    mysql -pX   curl -u user:X   sshpass -p X                          flags of some commands

A secret that looks like a word, in a place that says nothing about it (`login hunter2`), is not found. This module runs
before the agent starts: it searches strings, because to compile expressions would take milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nono.policy import variables

MARK = "***"
_LONGEST = 4096  # characters of an argument that are kept, and looked at
_MOST = 1000  # arguments
_NESTED = 3
# Parts of a name: wherever they stand in it, and as one of its words.
_IN_NAMES = ("token", "secret", "passw", "passphrase", "apikey", "credential", "authoriz", "authent", "privatekey")
_WORDS = frozenset((
    "key", "keys", "pass", "pwd", "pw", "pat", "auth", "oauth", "sig", "signature", "pin", "otp", "jwt", "bearer",
    "cookie", "cookies", "session", "sessionid", "sid", "sas", "psk", "dsn", "userpass",
))  # fmt: skip
_ENDS = ("key", "pwd", "pass", "cookie", "auth")  # of a name without words: accesskey, userpass
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.+=~")
_SCHEMES = ("bearer", "basic", "digest", "negotiate", "token", "apikey")
_QUOTES = "\"'`"
_RANDOM = 32  # characters
_SHAPES = variables.key_prefixes()
# Flags whose value is a secret, by command; with the value in the same word (-pX) or in the next one.
_FLAGS = {
    "mysql": ("-p",), "mysqldump": ("-p",), "mysqladmin": ("-p",), "mariadb": ("-p",), "mariadb-dump": ("-p",),
    "sshpass": ("-p",), "redis-cli": ("-a",), "mongosh": ("-p",), "mongo": ("-p",), "docker": ("-p",),
    "podman": ("-p",), "ldapsearch": ("-w",), "ldapmodify": ("-w",), "7z": ("-p",), "zip": ("-P",), "unzip": ("-P",),
    "smbclient": ("-U",), "curl": ("-u", "-U", "-b", "-E"), "http": ("-a",), "https": ("-a",), "sqlcmd": ("-P",),
    "openssl": ("-k", "-K", "-passin", "-passout", "-pass"), "expect": ("-c",), "xfreerdp": ("/p",), "vault": (),
}  # fmt: skip
_USER_FLAGS = ("-u", "--user", "--proxy-user")  # USER:PASSWORD, of whatever command


def argv(arguments: Sequence[str]) -> list[str]:
    """Return a command line without its secrets."""
    kept = [argument[:_LONGEST] for argument in arguments[:_MOST]]
    shown = _words(kept)
    for index, argument in enumerate(arguments[:_MOST]):
        if len(argument) > _LONGEST:  # the last word may be the half of a secret, without its shape
            shown[index] = _without_last_word(shown[index]) + f"… ({len(argument)} characters)"
    if len(arguments) > _MOST:
        shown.append(f"… ({len(arguments)} arguments)")
    return shown


def text(value: str) -> str:
    """Return any text, as one that a person typed, without its secrets."""
    return _one(value, 0)


def url(value: str) -> str:
    """Return a URL without user, password and secret parameters."""
    return _one(value, 0)


def headers(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return header fields; of those that authenticate, the name only."""
    return [(name, MARK if is_secret_name(name) else _one(value, 0)) for name, value in pairs]


def without_keys(value: str) -> str:
    """Return a text without what has the shape of a provider's key. Quick: for each request's path."""
    if len(value) < 16 or not any(prefix in value for prefix in _SHAPES):
        return value
    return _replaced(value, _shapes(value))


def is_secret_name(name: str) -> bool:
    """Whether what is called so sounds like a secret: --api-key, DB_PASSWORD, X-Auth-Token, accessToken."""
    lower = name.lower()
    plain = lower.replace("-", "").replace("_", "").replace(".", "")
    if any(part in plain for part in _IN_NAMES) or plain.endswith(_ENDS):
        return True
    spaced = "".join(
        f" {c}" if c.isupper() and not before.isupper() else c for before, c in zip(f" {name}", name, strict=False)
    )
    words = spaced.lower().replace("-", " ").replace("_", " ").replace(".", " ").split()
    return not _WORDS.isdisjoint(words) or not _WORDS.isdisjoint(lower.replace("_", "-").replace(".", "-").split("-"))


def _words(words: Sequence[str], depth: int = 0) -> list[str]:
    """Redact words that belong together: a flag's value may be the next one."""
    flags = {flag for word in words for flag in _FLAGS.get(word.rpartition("/")[2], ())}
    shown = []
    before = ""
    for word in words:
        if _takes_secret(before, flags):
            shown.append(MARK)
        elif before in _USER_FLAGS and ":" in word:
            shown.append(f"{word.partition(':')[0]}:{MARK}")
        else:
            shown.append(_flag(word, flags) or _one(word, depth))
        before = word.strip(_QUOTES)
    return shown


def _takes_secret(before: str, flags: Iterable[str]) -> bool:
    """Whether the word behind this one is a secret."""
    if before in flags or before.lower() in ("bearer", "-----begin"):
        return True
    if not before.startswith("-"):  # a header's name, or an object's, apart from its value
        return before.endswith((":", "=")) and is_secret_name(_name_before(before, len(before) - 1))
    return "=" not in before and is_secret_name(before.strip("-"))


def _flag(word: str, flags: Iterable[str]) -> str:
    """Return -pSECRET redacted; "" where the word is none of `flags`."""
    for flag in flags:
        if word.startswith(flag) and len(word) > len(flag):
            return flag + MARK
    if word.startswith("-u") and ":" in word and not word.startswith("--"):
        return f"{word.partition(':')[0]}:{MARK}"
    return ""


def _one(value: str, depth: int) -> str:
    """Redact one text: what is found in it as a whole, then its words, with quotes seen and not seen."""
    value = _replaced(value, _spans(value))
    if depth < _NESTED and any(c.isspace() for c in value):
        for split in (_plain_words, _quoted_words):
            value = _each_word(value, split, depth)
    return value


def _each_word(value: str, split: object, depth: int) -> str:
    places = list(split(value))  # type: ignore[operator]
    if len(places) < 2:
        return value
    shown = _words([value[begin:end] for begin, end in places], depth + 1)
    return _replaced(value, ((begin, end, new) for (begin, end), new in zip(places, shown, strict=True)))


def _plain_words(value: str) -> Iterator[tuple[int, int]]:
    at = 0
    for word in value.split():
        at = value.index(word, at)
        yield at, at + len(word)
        at += len(word)


def _quoted_words(value: str) -> Iterator[tuple[int, int]]:
    """Yield the words as a shell sees them, roughly: quotes and backslashes hold blanks together."""
    at = 0
    while at < len(value):
        if value[at].isspace():
            at += 1
            continue
        begin, quote = at, ""
        while at < len(value) and (quote or not value[at].isspace()):
            if value[at] == "\\" and quote != "'":
                at += 1
            elif value[at] == quote:
                quote = ""
            elif not quote and value[at] in _QUOTES:
                quote = value[at]
            at += 1
        yield begin, min(at, len(value))


def _spans(value: str) -> Iterator[tuple[int, int, str]]:
    """Yield what is to be replaced, wherever it stands: (begin, end, by what)."""
    yield from _shapes(value)
    if "://" in value or "@" in value:
        yield from _users(value)
    for separator in "=:":
        yield from _named(value, separator)
    if "earer" in value or "EARER" in value or ":" in value:
        yield from _after_schemes(value)
    if len(value) >= _RANDOM:
        yield from _random(value)


def _shapes(value: str) -> Iterator[tuple[int, int, str]]:
    for prefix, rest in _SHAPES.items():
        at = value.find(prefix)
        while at >= 0:
            end = _run(value, at, _KEY)
            if end - at >= len(prefix) + min(rest, 16):
                yield at, end, MARK
            at = value.find(prefix, at + len(prefix))
    at = value.find("-----BEGIN ")
    if at >= 0 and "PRIVATE KEY" in value[at : at + 64]:
        yield at, len(value), MARK


def _users(value: str) -> Iterator[tuple[int, int, str]]:
    """Yield USER:PASSWORD of URLs, also of those whose password should have been escaped and was not."""
    at = value.find("://")
    while at >= 0:
        begin = at + 3
        end = begin
        while end < len(value) and not value[end].isspace() and value[end] not in _QUOTES + "<>":
            end += 1
        authority = min((place for c in "/?#" if (place := value.find(c, begin, end)) >= 0), default=end)
        user = value.rfind("@", begin, authority)
        if user < 0 and not value[begin:authority].rpartition(":")[2].isdigit() and ":" in value[begin:authority]:
            user = value.rfind("@", begin, end)
        if user >= 0:
            yield begin, user, MARK
        at = value.find("://", max(begin, user))


def _named(value: str, separator: str) -> Iterator[tuple[int, int, str]]:
    """Yield the values that stand behind a secret's name and `separator`."""
    at = value.find(separator)
    while at >= 0:
        begin = at + 1
        if is_secret_name(_name_before(value, at)) and begin < len(value):
            end = _value_end(value, begin) if separator == "=" else len(value)
            if end > begin:
                yield begin, end, MARK
        at = value.find(separator, begin)


def _name_before(value: str, at: int) -> str:
    """Return the name that ends before `at`, out of quotes and blanks."""
    end = at
    while end > 0 and value[end - 1] in " \t\"'`\\]":
        end -= 1
    begin = end
    while begin > 0 and value[begin - 1] in _NAME:
        begin -= 1
    return value[begin:end]


def _value_end(value: str, begin: int) -> int:
    """Return where NAME=VALUE ends: at a blank outside of quotes, or at the next parameter of a URL."""
    stops = "&#" if "://" in value[:begin] or "?" in value[:begin] else ""
    at, quote = begin, ""
    while at < len(value) and (quote or not (value[at].isspace() or value[at] in stops)):
        if value[at] == "\\" and quote != "'":
            at += 1
        elif value[at] == quote:
            quote = ""
        elif not quote and value[at] in _QUOTES:
            quote = value[at]
        at += 1
    return min(at, len(value))


def _after_schemes(value: str) -> Iterator[tuple[int, int, str]]:
    """Yield what stands behind `Bearer `, to the end of its word; behind other schemes, where a colon comes before."""
    lower = value.lower() if value.isascii() else "".join(c.lower() if c.isascii() else c for c in value)
    for scheme in _SCHEMES:
        at = lower.find(scheme)
        while at >= 0:
            begin = at + len(scheme)
            while begin < len(value) and (value[begin].isspace() or value[begin] in _QUOTES + ":="):
                begin += 1
            if begin > at + len(scheme) and (scheme == "bearer" or value[:at].rstrip(f" \t{_QUOTES}").endswith(":")):
                end = begin
                while end < len(value) and not value[end].isspace() and value[end] not in _QUOTES:
                    end += 1
                if end > begin:
                    yield begin, end, MARK
            at = lower.find(scheme, begin)


def _random(value: str) -> Iterator[tuple[int, int, str]]:
    """Yield runs that nobody types by hand: long, with digits, lower and upper case."""
    at = 0
    while at < len(value):
        end = _run(value, at, _KEY)
        run = value[at:end]
        if end - at >= _RANDOM and not run.islower() and not run.isupper() and any(c.isdigit() for c in run):
            yield at, end, MARK
        at = end + 1


def _run(value: str, at: int, of: frozenset[str]) -> int:
    while at < len(value) and value[at] in of:
        at += 1
    return at


def _replaced(value: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """Return `value` with each span replaced; spans that meet or overlap are one."""
    parts: list[str] = []
    done = 0
    for begin, end, new in sorted(spans):
        if begin >= done:
            parts += [value[done:begin], new]
        done = max(done, end)
    return "".join([*parts, value[done:]])


def _without_last_word(value: str) -> str:
    return value.rstrip()[: max(0, len(value.rstrip()) - len(value.split()[-1]))] if value.split() else ""
