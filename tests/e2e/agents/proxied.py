"""Send each request line of the arguments to the proxy, raw; print the status and the error code of each answer."""

import json
import os
import socket
import sys
import urllib.parse

proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
for line in sys.argv[1:]:
    with socket.create_connection((proxy.hostname, proxy.port), timeout=10) as connection:
        token = os.environ["NONO_PROXY_TOKEN"]
        host = line.split()[1].removeprefix("http://").split("/")[0]
        keys = f"Proxy-Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"
        head = f"{line} HTTP/1.1\r\nHost: {host}\r\n{keys}\r\n"
        if line.split()[1].startswith("/"):
            head = head.replace(f"Host: {host}", f"Host: {proxy.hostname}:{proxy.port}")
        connection.sendall(head.encode())
        answer = connection.recv(65536).decode()
    fields = dict(field.lower().split(": ", 1) for field in answer.split("\r\n\r\n")[0].split("\r\n")[1:])
    print(json.dumps({"status": int(answer.split()[1]), "code": fields.get("x-nono-error")}))
