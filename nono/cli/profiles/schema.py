"""`nono profile schema`: the JSON Schema of profiles, for editors; made of the shape that nono itself checks.

What is said in several places (a list of paths, a section that platform_overrides has, too) is said once, in $defs:
an editor has a tenth to read.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from nono.policy import profile

_CREDENTIAL = {
    "upstream": "https://HOST[:PORT][/BASE], where requests for /NAME/… of the proxy go.",
    "credential_key": "The key: NAME in the keystore, keyring://SERVICE/ACCOUNT, session://NAME, file:///PATH, env://VAR.",
    "env_var": "The variable that gets the token (default: NAME_API_KEY).",
    "inject_mode": "header (default), url_path, query_param or basic_auth.",
    "inject_header": "The header that carries the key (default: Authorization).",
    "credential_format": "Its value, {} is the key (default: Bearer {} in Authorization, else {}).",
    "path_pattern": "With url_path: where in the path the token stands, e.g. /bot{}/.",
    "path_replacement": "With url_path: what is written there instead.",
    "query_param_name": "With query_param: the parameter.",
    "proxy": "Where the agent presents its token otherwise than the key is injected.",
    "endpoint_rules": "Only these requests: * is one segment of a path, ** any number; method * is any.",
    "tls_ca": "A PEM file of authorities to trust besides the system's.",
    "tls_client_cert": "A PEM file: the client's certificate.",
    "tls_client_key": "A PEM file: the key of the client's certificate.",
    "intercept": "Whether requests to the upstream by its own name, over TLS, get the key, too.",
}
_WORTH_A_NAME = 120  # characters: shorter ones are said again


def run(arguments: argparse.Namespace) -> int:
    """Print the schema; return 0."""
    print(json.dumps(schema(), indent=1, ensure_ascii=False))
    return 0


def schema() -> dict[str, Any]:
    """Return the schema, draft 2020-12."""
    whole = _described(profile.schema())
    counts = Counter(map(_text, _schemas(whole)))
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def within(node: dict[str, Any], *, is_schema: bool) -> dict[str, Any]:
        return {key: named(each, is_schema=key != "properties" or not is_schema) for key, each in node.items()}

    def named(node: Any, *, is_schema: bool = True) -> Any:
        if isinstance(node, list):
            return [named(each) for each in node]
        if not isinstance(node, dict):
            return node
        text = _text(node)
        if not is_schema or counts[text] < 2 or len(text) < _WORTH_A_NAME:
            return within(node, is_schema=is_schema)
        if text not in names:
            names[text] = f"part{len(names) + 1}"
            definitions[names[text]] = within(node, is_schema=True)
        return {"$ref": f"#/$defs/{names[text]}"}

    return {**named(whole), "$defs": definitions}


def _described(whole: dict[str, Any]) -> dict[str, Any]:
    """Describe what the shape does not: sections, by what profile.py says of them, and the fields of credentials."""
    overrides = whole["properties"]["platform_overrides"]["anyOf"][0]["properties"]
    for level in (whole, *(each["anyOf"][0] for each in overrides.values())):
        sections = level["properties"]
        for name, nothing in profile.Profile()._asdict().items():
            text = (type(nothing).__doc__ or "").partition("\n")[0]
            if name in sections and not isinstance(nothing, dict):
                sections[name].setdefault("description", text)
        credential = sections["network"]["properties"]["custom_credentials"]["additionalProperties"]["properties"]
        for name, text in _CREDENTIAL.items():
            credential[name].setdefault("description", text)
    return whole


def _schemas(node: Any, *, is_schema: bool = True) -> Iterator[dict[str, Any]]:
    """Yield each schema in a schema: `properties` maps names to schemas, and is none itself."""
    if isinstance(node, list):
        for each in node:
            yield from _schemas(each)
    elif isinstance(node, dict):
        if is_schema:
            yield node
        for key, each in node.items():
            yield from _schemas(each, is_schema=key != "properties" or not is_schema)


def _text(node: dict[str, Any]) -> str:
    return json.dumps(node)
