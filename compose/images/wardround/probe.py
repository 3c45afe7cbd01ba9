"""Whether the service in this container answers: `probe.py [URL]`, by default its own `/health`. Ends with 1 if not."""

import http.client
import os
import ssl
import sys
from urllib.parse import urlsplit

PORTS = {"metrics": 8080, "coordinator": 8081, "aggregator": 8082, "site-agent": 8084}
ANSWERS_WITHIN = 4.0  # seconds, within the health check's own five


def main(arguments: list[str]) -> int:
    url = urlsplit(arguments[0] if arguments else f"http://127.0.0.1:{PORTS[os.environ['PART']]}/health")
    # http.client asks no proxy. Whose certificate it is does not matter to a question over loopback.
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    connection = (
        http.client.HTTPSConnection(url.netloc, timeout=ANSWERS_WITHIN, context=anyone)
        if url.scheme == "https"
        else http.client.HTTPConnection(url.netloc, timeout=ANSWERS_WITHIN)
    )
    try:
        connection.request("GET", url.path)
        answer = connection.getresponse()
        print(answer.read(4096).decode(errors="replace"))
        return 0 if answer.status == http.client.OK else 1
    except OSError as error:
        print(f"{url.netloc} does not answer: {error}")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
