"""Print all that happens at a hub, as JSON lines, with nothing but a broker's client and the published messages.

    export WARDROUND_BROKER=amqps://hub.example.org WARDROUND_LOGIN=researcher-a WARDROUND_PASSWORD_FILE=password
    python subscribe_metrics.py [first | next | OFFSET]

From the first event that the stream holds, from the next one (the default), or from a place in it. Ctrl-C ends it.
"""

import asyncio
import json
import os
import ssl
import sys
from contextlib import suppress
from pathlib import Path

import aio_pika
from yarl import URL

from wardround_messages.codec import MalformedError, decode
from wardround_messages.envelope import read_headers
from wardround_messages.names import METRICS_STREAM


def line(message: aio_pika.abc.AbstractIncomingMessage) -> str:
    envelope = read_headers(message.headers)
    said = decode(envelope.type, message.body, content_type=message.content_type)
    offset = message.headers["x-stream-offset"]
    shown = {"offset": offset, "time": envelope.time.isoformat(), "type": envelope.type, "subject": envelope.subject}
    return json.dumps(shown | {"data": said.model_dump(mode="json")})


async def main(offset: str | int) -> None:
    password = Path(os.environ["WARDROUND_PASSWORD_FILE"]).read_text().strip()
    address = URL(os.environ["WARDROUND_BROKER"]).with_user(os.environ["WARDROUND_LOGIN"]).with_password(password)
    trusted = ssl.create_default_context(cafile=os.environ.get("WARDROUND_CA"))
    async with await aio_pika.connect(address, ssl_context=trusted) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)  # a stream demands it
        stream = await channel.get_queue(METRICS_STREAM, ensure=False)
        heard: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()  # bounded by the prefetch
        await stream.consume(heard.put, arguments={"x-stream-offset": offset})
        while True:
            message = await heard.get()
            with suppress(MalformedError):  # of a later version, perhaps
                print(line(message), flush=True)
            await message.ack()


if __name__ == "__main__":
    place = sys.argv[1] if len(sys.argv) > 1 else "next"
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(main(int(place) if place.isdigit() else place))
        except BrokenPipeError:  # whoever read it has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
