"""Open COUNT connections to the proxy, in processes of 20 each, and hold them; close them; then ask the openai route.

Prints one JSON line {"held", "meanwhile", "afterwards"}: how many connections there were, and the status of a request,
or the name of the error, while they were held and afterwards: 200 as soon as there is one, within ten seconds.
"""

import http.client
import json
import os
import socket
import sys
import time
import urllib.parse

url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])


def ask():
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    try:
        headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
        connection.request("POST", url.path + "/chat/completions", '{"model": "stand-in-1", "messages": []}', headers)
        response = connection.getresponse()
        response.read()
        return response.status
    except OSError as error:
        return type(error).__name__
    except http.client.HTTPException as error:
        return type(error).__name__
    finally:
        connection.close()


def hold(told, until):
    """Open connections, tell how many there are, close them when `until` ends."""
    connections = []
    for _ in range(20):
        connection = socket.socket()
        connection.settimeout(10)
        try:
            connection.connect((url.hostname, url.port))
        except OSError:
            continue
        connection.send(b"POST /openai/chat/completions HTTP/1.1\r\n")
        connections.append(connection)
    os.write(told, bytes([len(connections)]))
    os.read(until, 1)
    os._exit(0)


told, tell = os.pipe()
until, end = os.pipe()
held = 0
pids = []
for _ in range(int(sys.argv[1]) // 20):
    pid = os.fork()
    if pid == 0:
        os.close(end)
        hold(tell, until)
    pids.append(pid)
    held += os.read(told, 1)[0]
meanwhile = ask()
os.close(end)
for pid in pids:
    os.waitpid(pid, 0)
deadline = time.monotonic() + 10
while (afterwards := ask()) != 200 and time.monotonic() < deadline:
    time.sleep(0.1)
print(json.dumps({"held": held, "meanwhile": meanwhile, "afterwards": afterwards}), flush=True)
