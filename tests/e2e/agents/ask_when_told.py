"""Connect, say "ready", wait for a line, ask the openai route, say "no answer" after a second, then the status.

Behind the notifier a connect itself waits for the supervisor, for as long as that is stopped.
"""

import http.client
import os
import sys
import urllib.parse

url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
connection = http.client.HTTPConnection(url.netloc)
connection.connect()
print("ready", flush=True)
sys.stdin.readline()
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
connection.request("POST", url.path + "/chat/completions", "{}", headers)
connection.sock.settimeout(1)
try:
    connection.sock.recv(1)
    print("an answer", flush=True)
except TimeoutError:
    print("no answer", flush=True)
connection.sock.settimeout(30)
print(connection.getresponse().status, flush=True)
