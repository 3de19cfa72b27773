"""Send the requests of the argument, a JSON list of [ROUTE, METHOD, PATH, HEADERS, BODY]; print one JSON line for each.

ROUTE is the variable with its base URL. TOKEN in a path or header stands for this session's token.
"""

import http.client
import json
import os
import sys
import urllib.parse

for variable, method, path, headers, body in json.loads(sys.argv[1]):
    token = os.environ["NONO_PROXY_TOKEN"]
    url = urllib.parse.urlsplit(os.environ[variable])
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    headers = {name: value.replace("TOKEN", token) for name, value in headers.items()}
    connection.request(method, url.path + path.replace("TOKEN", token), body, headers)
    response = connection.getresponse()
    told = {"status": response.status, "headers": dict(response.getheaders())}
    try:
        told["body"] = response.read().decode()
    except http.client.IncompleteRead as error:
        told["broken after"] = len(error.partial)
    print(json.dumps(told), flush=True)
    connection.close()
