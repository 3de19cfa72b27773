"""Say "ready", wait for a line, ask the openai route, say "no answer" after a second without one, then the status."""

import http.client
import os
import sys
import urllib.parse

url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
print("ready", flush=True)
sys.stdin.readline()
connection = http.client.HTTPConnection(url.netloc)
connection.connect()
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
