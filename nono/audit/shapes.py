"""What secrets look like that are known by their shape, besides the keys of policy/data/variables.json. Data.

A shape is told from what looks like it by what stands around it: enough characters behind the prefix, digits or
capitals among them (redact._is_words), and for addresses that are secrets the parts of their path. So
`/services/team/billing` stays, and so does a commit, a digest that is named as one, and the hash in a file's name.
"""

from __future__ import annotations

_DIGITS = frozenset("0123456789")
_UPPER = _DIGITS | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ALPHANUMERIC = _UPPER | frozenset("abcdefghijklmnopqrstuvwxyz")
_URL_SAFE = _ALPHANUMERIC | frozenset("-_")
HEX = _DIGITS | frozenset("abcdef")

# What keys begin with, and how many characters follow at least: of formats that their makers have published.
PREFIXES = {
    "xoxc-": 16, "xoxd-": 16,  # Slack, of a browser's session
    "hvs.": 24, "hvb.": 24, "hvr.": 24,  # Vault
    "dckr_pat_": 24, "glsa_": 32, "glc_": 32,  # Docker Hub, Grafana
    "ntn_": 40, "figd_": 36, "PMAK-": 40, "NRAK-": 24,  # Notion, Figma, Postman, New Relic
    "sntrys_": 36, "sntryu_": 36, "sbp_": 40,  # Sentry, Supabase
    "whsec_": 24, "GOCSPX-": 24, "sq0csp-": 36, "shpca_": 30, "shpss_": 30,  # Stripe, Google, Square, Shopify
    "glrt-": 16, "glft-": 16, "ATCTT": 30, "ATBB": 24, "rubygems_": 40,  # GitLab, Atlassian, RubyGems
    "dp.pt.": 36, "pscale_tkn_": 30, "lin_oauth_": 30, "sk.eyJ": 30,  # Doppler, PlanetScale, Linear, Mapbox
}  # fmt: skip

# Secrets of several parts: a text as it is, or so many characters at least of these.
SEQUENCES: tuple[tuple[str | tuple[frozenset[str], int], ...], ...] = (
    ("eyJ", (_URL_SAFE, 8), ".eyJ", (_URL_SAFE | {"."}, 8)),  # a JWT
    ("/services/T", (_UPPER, 7), "/B", (_UPPER, 7), "/", (_ALPHANUMERIC, 20)),  # Slack
    ("/triggers/T", (_UPPER, 7), "/", (_DIGITS, 8), "/", (_ALPHANUMERIC, 24)),
    ("/api/webhooks/", (_DIGITS, 16), "/", (_URL_SAFE, 50)),  # Discord
    ("/bot", (_DIGITS, 8), ":", (_URL_SAFE, 30)),  # Telegram
    ("/webhookb2/", (_URL_SAFE | {"@"}, 36), "/IncomingWebhook/", (_ALPHANUMERIC, 24)),  # Teams
    ("/with/key/", (_URL_SAFE, 20)),  # IFTTT
    ("/bot/v2/hook/", (_URL_SAFE, 32)),  # Lark
    ("SK", (HEX, 32)),  # Twilio
    ("key-", (HEX, 32)),  # Mailgun
    ("dapi", (HEX, 32)),  # Databricks
    ("hooks.zapier.com/hooks/catch/", (_DIGITS, 4), "/", (_ALPHANUMERIC, 5)),
)

# Digests are hexadecimal, too: a run of it is none where such a name stands before it, or it is as long as a commit.
DIGESTS = (
    "sha1", "sha224", "sha256", "sha384", "sha512", "md5", "blake2b", "blake3", "digest", "checksum", "commit", "rev",
    "sha", "hash", "etag", "tree", "oid", "ref",
)  # fmt: skip
COMMIT = 40
