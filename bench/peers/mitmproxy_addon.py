"""The peer mitmproxy's addon: swap the token for the key, and the route's prefix for the upstream's."""

from __future__ import annotations

import os

from mitmproxy import http

SECRET, TOKEN = os.environ["BENCH_SECRET"], os.environ["BENCH_TOKEN"]


def request(flow: http.HTTPFlow) -> None:
    """Called for each request before it goes upstream."""
    if flow.request.headers.get("authorization") != f"Bearer {TOKEN}":
        flow.response = http.Response.make(401)
        return
    flow.request.headers["authorization"] = f"Bearer {SECRET}"
    flow.request.path = flow.request.path.replace("/openai/", "/v1/", 1)
