"""Ask the openai route with the standard library: REQUESTS requests on CONNECTIONS keep-alive connections, then hold.

Prints one JSON line {"pid", "statuses": {status: count}, "environment"} when done, then waits for the end of its input.
"""

import collections
import http.client
import json
import os
import sys
import threading
import urllib.parse

BODY = json.dumps({"model": "stand-in-1", "messages": [{"role": "user", "content": "Who are you?"}]})


def ask(count, statuses):
    url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    for _ in range(count):
        connection.request("POST", url.path + "/chat/completions", BODY, headers)
        response = connection.getresponse()
        response.read()
        statuses[response.status] += 1


requests, connections = int(sys.argv[1]), int(sys.argv[2])
counters = [collections.Counter() for _ in range(connections)]
share = requests // connections if connections else 0
threads = [threading.Thread(target=ask, args=(share, each)) for each in counters]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
statuses = sum(counters, collections.Counter())
print(json.dumps({"pid": os.getpid(), "statuses": statuses, "environment": dict(os.environ)}), flush=True)
sys.stdin.read()
