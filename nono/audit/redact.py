"""Secrets are taken out of what people type: command lines, URLs, headers.

Pure. What is redacted is more than need be, because what is written stays; the value goes, what it is of stays:

    --api-key X   --token=X   OPENAI_API_KEY=X   {"password": "X"}     a name that sounds like a secret's, and its value
    set api_key X1   machine h login u password X1                     the same without a sign, if X1 is no mere word
    -H 'Authorization: Bearer X'   'Cookie: a=X'                       the whole value of such a header
    https://user:X@host/   ?access_token=X                             in a URL
    Bearer X                                                           what follows that word
    sk-…   ghp_…   https://hooks.slack.com/services/…   eyJ….eyJ…      known shapes (variables.json, shapes.py)
    zJ8kQ2…                                                            32 characters or more, of all three sorts
    9f86d081884c7d659a2feaa0c55ad015                                   a word of hexadecimal, unless it says what of
    -----BEGIN … PRIVATE KEY-----                                      and all that follows
    mysql -pX   curl -u user:X   sshpass -p X                          flags of some commands

A secret that looks like a word, in a place that says nothing about it (`login hunter2`), is not found. This module runs
before the agent starts: it searches strings, because to compile expressions would take milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nono.audit import shapes
from nono.policy import variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    Place = tuple[int, int]  # begin and end, in a text

MARK = "***"
_LONGEST = 2048  # characters of an argument that are kept, and looked at
_MOST = 1000  # arguments
_NESTED = 3
# Parts of a name: wherever they stand in it, and as one of its words.
_IN_NAMES = (
    "token", "secret", "passw", "passphrase", "apikey", "credential", "authoriz", "authent", "privatekey",
    "fromliteral",  # kubectl create secret … --from-literal=NAME=X
)  # fmt: skip
_WORDS = frozenset((
    "key", "keys", "pass", "pwd", "pw", "pat", "auth", "oauth", "sig", "signature", "pin", "otp", "jwt", "bearer",
    "cookie", "cookies", "session", "sessionid", "sid", "sas", "psk", "dsn", "userpass", "cred", "creds",
))  # fmt: skip
_ENDS = ("key", "pwd", "pass", "cookie", "auth")  # of a name without words: accesskey, userpass
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.+=~")
_SCHEMES = ("bearer", "basic", "digest", "negotiate", "token", "apikey")
_QUOTES = "\"'`"
_RANDOM = 32  # characters
_AROUND = frozenset("\"'`=:,;&()[]{}<>|")  # what may stand before and behind a word of hexadecimal, besides blanks
_SHORT, _LONG_NUMBER, _LONG_WORD = 4, 12, 10  # a part of any name; no date; no word in capitals
_FEW = 8  # different characters: 00000000… is no key
_SHAPES = {**variables.key_prefixes(), **shapes.PREFIXES}
_BEGINNINGS = (*_SHAPES, *(str(parts[0]) for parts in shapes.SEQUENCES))
_SHORTEST = min(len(prefix) + min(rest, 16) for prefix, rest in _SHAPES.items())
_PATH = 400  # characters: as long as those of requests are
# Flags whose value is a secret, by command; with the value in the same word (-pX) or in the next one.
_FLAGS = {
    "mysql": ("-p",), "mysqldump": ("-p",), "mysqladmin": ("-p",), "mariadb": ("-p",), "mariadb-dump": ("-p",),
    "sshpass": ("-p",), "redis-cli": ("-a",), "mongosh": ("-p",), "mongo": ("-p",), "docker": ("-p",),
    "podman": ("-p",), "ldapsearch": ("-w",), "ldapmodify": ("-w",), "7z": ("-p",), "zip": ("-P",), "unzip": ("-P",),
    "smbclient": ("-U",), "curl": ("-u", "-U", "-b", "-E"), "http": ("-a",), "https": ("-a",), "sqlcmd": ("-P",),
    "openssl": ("-k", "-K", "-passin", "-passout", "-pass"), "expect": ("-c",), "xfreerdp": ("/p",), "az": ("-p",),
    "ssh-keygen": ("-N", "-P"),
}  # fmt: skip
_SPOKEN = ("password", "passwd", "passphrase", "token", "secret")  # names that announce a value without a sign
_USER_FLAGS = ("-u", "--user", "--proxy-user")  # USER:PASSWORD, of whatever command


def argv(arguments: Sequence[str]) -> list[str]:
    """Return a command line without its secrets."""
    kept = [argument[:_LONGEST] for argument in arguments[:_MOST]]
    shown = [_replaced(word, places) for word, places in zip(kept, _of_words(kept, 0), strict=True)]
    for index, argument in enumerate(arguments[:_MOST]):
        if len(argument) > _LONGEST:  # the last word may be the half of a secret, without its shape
            shown[index] = _without_last_word(shown[index]) + f"… ({len(argument)} characters)"
    if len(arguments) > _MOST:
        shown.append(f"… ({len(arguments)} arguments)")
    return shown


def text(value: str) -> str:
    """Return any text, as one that a person typed, without its secrets."""
    return _replaced(value, _places(value, 0))


def url(value: str) -> str:
    """Return a URL without user, password and secret parameters."""
    return _replaced(value, _places(value, 0))


def headers(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return header fields; of those that authenticate, the name only."""
    return [(name, MARK if is_secret_name(name) else text(value)) for name, value in pairs]


def without_keys(value: str) -> str:
    """Return a text without what has the shape of a provider's key. Quick: for each request's path."""
    if len(value) < _SHORTEST or (len(value) < _PATH and max(map(len, value.split("/"))) < _SHORTEST):
        return value
    for beginning in _BEGINNINGS:  # any() takes twice as long
        if beginning in value:
            return _replaced(value, _shapes(value))
    return value


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


def _of_words(words: Sequence[str], depth: int) -> list[list[Place]]:
    """Return the secret places of words that belong together: a flag's value may be the next one."""
    flags = {flag for word in words for flag in _FLAGS.get(word.rpartition("/")[2].strip(_QUOTES), ())}
    found: list[list[Place]] = []
    before = ""
    for word in words:
        if _takes_secret(before, flags) or _is_told(before, word):
            found.append([(0, len(word))])
        elif before in _USER_FLAGS and ":" in word:
            found.append([(word.index(":") + 1, len(word))])
        else:
            found.append([*_flag(word, flags), *_places(word, depth)])
        before = word.strip(_QUOTES)
    return found


def _takes_secret(before: str, flags: Iterable[str]) -> bool:
    """Whether the word behind this one is a secret."""
    if before in flags or before.lower() == "bearer":
        return True
    if not before.startswith("-"):  # a header's name, or an object's, apart from its value
        return before.endswith((":", "=")) and is_secret_name(_name_before(before, len(before) - 1))
    return "=" not in before and is_secret_name(before.strip("-"))


def _is_told(before: str, word: str) -> bool:
    """Whether `before` is a secret's bare name, as in `config set api_key X1`, and `word` no word of a sentence."""
    word = word.strip(_QUOTES)
    if not _is_spoken(before) or not word or word.startswith("-") or (word.isalpha() and word.islower()):
        return False
    return before.lower() not in _SPOKEN or (any(c.isdigit() for c in word) and "/" not in word)


def _is_spoken(word: str) -> bool:
    name = _name_before(word, len(word))
    if word != name and not word.endswith(f":{name}"):  # //registry/:_authToken is one, a path is none
        return False
    is_compound = not word.startswith("-") and ("_" in name or "-" in name) and "." not in name
    return name.lower() in _SPOKEN or (is_compound and is_secret_name(name))


def _announces(word: str) -> bool:
    """Whether this word may say that another one is a secret: a text of which none does needs no closer look."""
    word = word.strip(_QUOTES + "\\")
    if word.startswith("-"):
        return word.startswith(_USER_FLAGS) or is_secret_name(word)
    if word.endswith((":", "=")):
        return is_secret_name(_name_before(word, len(word) - 1))
    return word.rpartition("/")[2] in _FLAGS or word.lower() == "bearer" or _is_spoken(word)


def _flag(word: str, flags: Iterable[str]) -> Iterator[Place]:
    """Yield the secret of -pSECRET, where -p is one of `flags`."""
    for flag in flags:
        if word.startswith(flag):
            yield len(flag), len(word)
    if word.startswith(("-u", *(f"{flag}=" for flag in _USER_FLAGS))) and ":" in word:
        yield word.index(":") + 1, len(word)


def _places(value: str, depth: int) -> list[Place]:
    """Return what is secret in one text: as a whole, and in its words, with quotes seen and not seen."""
    found = list(_spans(value))
    plain = value.split()
    if depth >= _NESTED or len(plain) < 2 or not any(map(_announces, plain)):
        return found
    if value[0] in _QUOTES:
        found += [(begin + 1, end + 1) for begin, end in _places(value[1:-1], depth + 1)]
    for words in (list(_plain_words(value)), list(_quoted_words(value, "\\")), list(_quoted_words(value, ""))):
        if len(words) > 1:
            within = _of_words([value[begin:end] for begin, end in words], depth + 1)
            for (at, _), places in zip(words, within, strict=True):
                found += [(at + begin, at + end) for begin, end in places]
    return found


def _plain_words(value: str) -> Iterator[Place]:
    at = 0
    for word in value.split():
        at = value.index(word, at)
        yield at, at + len(word)
        at += len(word)


def _quoted_words(value: str, escape: str) -> Iterator[Place]:
    """Yield the words as a shell sees them, roughly: quotes, and `escape` before it, hold a blank in a word."""
    at = 0
    while at < len(value):
        if value[at].isspace():
            at += 1
            continue
        begin, at = at, _word_end(value, at, "", escape)
        yield begin, at


def _word_end(value: str, at: int, stops: str, escape: str) -> int:
    """Return where, out of quotes, the next blank stands, or one of `stops`."""
    quote = ""
    while at < len(value) and (quote or not (value[at].isspace() or value[at] in stops)):
        if value[at] == escape and quote != "'":
            at += 1
        elif value[at] == quote:
            quote = ""
        elif not quote and value[at] in _QUOTES:
            quote = value[at]
        at += 1
    return min(at, len(value))


def _spans(value: str) -> Iterator[Place]:
    """Yield what is secret, wherever it stands: (begin, end)."""
    if len(value) >= _SHORTEST:
        yield from _shapes(value)
    if "://" in value or "@" in value:
        yield from _users(value)
    for separator in ("=", ":", "%3D", "%3d"):
        yield from _named(value, separator)
    if "earer" in value or "EARER" in value or ":" in value:
        yield from _after_schemes(value)
    if len(value) >= _RANDOM:
        yield from _random(value)
        yield from _hexadecimal(value)


def _shapes(value: str) -> Iterator[Place]:
    for prefix, rest in _SHAPES.items():
        at = value.find(prefix)
        while at >= 0:
            end = _run(value, at, _KEY)
            if end - at >= len(prefix) + min(rest, 16) and not _is_words(value[at + len(prefix) : end]):
                yield at, end
            at = value.find(prefix, max(end, at + len(prefix)))  # what is no key is none from a later prefix on, too
    for parts in shapes.SEQUENCES:
        at = value.find(str(parts[0]))
        while at >= 0:
            end = _sequence_end(value, at, parts)
            if end:
                yield at, end
            at = value.find(str(parts[0]), at + 1)
    at = value.find("-----BEGIN ")
    if at >= 0 and "PRIVATE KEY" in value[at : at + 64]:
        yield at, len(value)


def _sequence_end(value: str, at: int, parts: Sequence[str | tuple[frozenset[str], int]]) -> int:
    """Return where a secret of these parts ends that begins at `at`; 0 where there is none."""
    for part in parts:
        if isinstance(part, str):
            if not value.startswith(part, at):
                return 0
            at += len(part)
        else:
            end = _run(value, at, part[0])
            if end - at < part[1]:
                return 0
            at = end
    return at


def _is_words(rest: str) -> bool:
    """Whether a prefix stands in a name by chance: task-management-application, desk-2026-11-22-Notes.txt."""
    return all(map(_is_word, rest.replace("_", "-").replace(".", "-").split("-")))


def _is_word(text: str) -> bool:
    if len(text) < _SHORT:  # v2, mp4
        return True
    if text.isdigit():
        return len(text) < _LONG_NUMBER
    is_name = len(text) < _LONG_WORD and (text.isupper() or text.istitle())
    return text.isalpha() and (text.islower() or is_name)


def _users(value: str) -> Iterator[Place]:
    """Yield USER:PASSWORD of URLs, also of those whose password should have been escaped and was not."""
    at = value.find("://")
    while at >= 0:
        begin = at + 3
        end = begin
        while end < len(value) and not value[end].isspace() and value[end] not in _QUOTES + "<>":
            end += 1
        authority = min((place for c in "/?#" if (place := value.find(c, begin, end)) >= 0), default=end)
        user = value.rfind("@", begin, authority)
        is_cut = ":" in value[begin:authority] and not _is_host(value[begin:authority])
        if is_cut if user < 0 else value[user - 1] == ":":  # by a / in the password, or by an @ that it begins with
            user = value.rfind("@", begin, end)
        if user >= 0:
            yield begin, user
        at = value.find("://", max(begin, user))


def _is_host(authority: str) -> bool:
    """Whether what stands before the path is HOST:PORT, and not a user with the beginning of his password."""
    host, _, port = authority.rpartition(":")
    is_port = port.isdigit() and port.isascii() and not port.startswith("0") and len(port) <= 5
    return is_port and ("." in host or host.startswith("[") or host == "localhost")


def _named(value: str, separator: str) -> Iterator[Place]:
    """Yield the values that stand behind a secret's name and `separator`."""
    at = value.find(separator)
    while at >= 0:
        begin = at + len(separator)
        if is_secret_name(_name_before(value, at)) and begin < len(value):
            while separator == "=" and begin < len(value) and value[begin] in " \t":
                begin += 1  # as in programs: api_key = "X"
            end = len(value) if separator == ":" else _value_end(value, begin)
            if end > begin:
                yield begin, end
        at = value.find(separator, begin)


def _name_before(value: str, at: int) -> str:
    """Return the name that ends before `at`, out of quotes and blanks."""
    end = at
    while end > 0 and value[end - 1] in " \t\"'`\\]+":
        end -= 1
    begin = end
    while begin > 0 and value[begin - 1] in _NAME:
        begin -= 1
    return value[begin:end]


def _value_end(value: str, begin: int) -> int:
    """Return where NAME=VALUE ends: at a blank outside of quotes, or at the next parameter of a URL."""
    stops = "&#" if "://" in value[:begin] or "?" in value[:begin] else ""
    return _word_end(value, begin, stops, "\\")


def _after_schemes(value: str) -> Iterator[Place]:
    """Yield what stands behind `Bearer `, to the end of its word; behind other schemes, where a colon comes before."""
    lower = _lower(value)
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
                    yield begin, end
            at = lower.find(scheme, begin)


def _lower(value: str) -> str:
    """Return a text in lower case, each character in its place: not so for all of them outside of ASCII."""
    return value.lower() if value.isascii() else "".join(c.lower() if c.isascii() else c for c in value)


def _random(value: str) -> Iterator[Place]:
    """Yield runs that nobody types by hand: long, with digits, lower and upper case."""
    at = 0
    while at < len(value):
        end = _run(value, at, _KEY)
        run = value[at:end]
        is_mixed = run.lower() != run != run.upper() and any(c.isdigit() for c in run)
        if end - at >= _RANDOM and is_mixed and not _is_words(run):
            yield at, end
        at = end + 1


def _hexadecimal(value: str) -> Iterator[Place]:
    """Yield words of hexadecimal that stand alone, as keys do: not in a path or a file's name, no commit or digest."""
    lower = _lower(value)
    at = 0
    while at < len(value):
        end = _run(lower, at, shapes.HEX)
        if end - at >= _RANDOM and end - at != shapes.COMMIT and _stands_alone(value, at, end):
            run = value[at:end]
            is_mixed = not run.isdigit() and not run.isalpha() and (run.islower() or run.isupper())
            if is_mixed and len(set(run)) >= _FEW and not _is_digest(lower, at):
                yield at, end
        at = max(end, at + 1)


def _stands_alone(value: str, begin: int, end: int) -> bool:
    return all(c.isspace() or c in _AROUND for c in (value[begin - 1 : begin] + value[end : end + 1]))


def _is_digest(value: str, at: int) -> bool:
    """Whether what stands before this place says that a digest follows: sha256:…, --hash=…, digest: …"""
    name = _name_before(value, at - 1) if at and value[at - 1] in ":= " else ""
    return any(word in shapes.DIGESTS for word in name.replace("-", " ").replace("_", " ").split())


def _run(value: str, at: int, of: frozenset[str]) -> int:
    while at < len(value) and value[at] in of:
        at += 1
    return at


def _replaced(value: str, places: Iterable[Place]) -> str:
    """Return `value` with MARK for each of these places; those that meet or overlap are one."""
    parts: list[str] = []
    done = 0
    for begin, end in sorted(places):
        if end <= begin:
            continue
        if begin > done or not parts:
            parts += [value[done:begin], MARK]
        done = max(done, end)
    return "".join([*parts, value[done:]])


def _without_last_word(value: str) -> str:
    return value.rstrip()[: max(0, len(value.rstrip()) - len(value.split()[-1]))] if value.split() else ""
