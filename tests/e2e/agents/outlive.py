"""Use the proxy, tell so, and go on asking until it is gone; write what happened then to the file AFTERWARDS.

Prints one JSON line {"pid", "status"} first.
"""

import errno
import http.client
import json
import os
import socket
import sys
import time
import urllib.parse

TIMEOUT_S = 30
url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])


def ask():
    connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT_S)
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    connection.request("POST", url.path + "/chat/completions", "{}", headers)
    return connection.getresponse().status


print(json.dumps({"pid": os.getpid(), "status": ask()}), flush=True)
supervisor = os.getppid()
while os.getppid() == supervisor:
    time.sleep(0.01)
try:
    with socket.create_connection((url.hostname, url.port), TIMEOUT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        outcome = "answered" if connection.recv(1) else "closed"
except OSError as error:
    outcome = errno.errorcode.get(error.errno, str(error))
with open(sys.argv[1] + ".part", "w") as file:
    json.dump({"connect": outcome, "environment": dict(os.environ)}, file)
os.rename(sys.argv[1] + ".part", sys.argv[1])
