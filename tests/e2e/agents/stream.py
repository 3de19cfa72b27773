"""Ask the openai route, and print each line of the answer when it arrives."""

import http.client
import os
import urllib.parse

url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
connection = http.client.HTTPConnection(url.netloc, timeout=30)
connection.request("POST", url.path + "/stream", "{}", {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]})
for line in connection.getresponse():
    print(line.decode().rstrip("\n"), flush=True)
