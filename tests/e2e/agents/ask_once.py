"""Ask the openai route once, and print one JSON line {"status", "x-nono-error", "body"}."""

import http.client
import json
import os
import urllib.parse

url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
connection = http.client.HTTPConnection(url.netloc, timeout=30)
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
connection.request("POST", url.path + "/chat/completions", "{}", headers)
response = connection.getresponse()
answer = {"status": response.status, "x-nono-error": response.headers.get("x-nono-error")}
print(json.dumps({**answer, "body": json.loads(response.read())}))
