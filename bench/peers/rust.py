"""The Rust peer: `nono_py.start_proxy` with some routes or, with none, for tunnels to any host.

Run in the virtual environment that has nono-py.

Prints one line of JSON when ready, {"port", "token", "version"}, and serves until its standard input ends.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from nono_py import ProxyConfig, RouteConfig, start_proxy

routes, max_connections = json.loads(sys.argv[1]), int(sys.argv[2])
config = ProxyConfig(
    routes=[RouteConfig(**route) for route in routes], max_connections=max_connections, allow_all_hosts=not routes
)
handle = start_proxy(config)
token = handle.env_vars()["NONO_PROXY_TOKEN"]
print(json.dumps({"port": handle.port, "token": token, "version": version("nono-py")}), flush=True)
sys.stdin.read()
handle.shutdown()
