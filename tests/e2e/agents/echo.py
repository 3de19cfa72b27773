"""Send 3 MiB of random bytes to the openai route, whole and chunked; say whether they came back as they were."""

import http.client
import os
import urllib.parse

url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/octet-stream"}
body = os.urandom(3 << 20)
for kind in ("whole", "chunked"):
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    pieces = (body[at : at + 65521] for at in range(0, len(body), 65521))
    chunked = kind == "chunked"
    connection.request("POST", url.path + "/echo", pieces if chunked else body, headers, encode_chunked=chunked)
    response = connection.getresponse()
    print(kind, response.status, "same" if response.read() == body else "different", flush=True)
