"""Start an experiment with nothing but a broker's client and the published messages.

    export WARDROUND_BROKER=amqps://hub.example.org WARDROUND_LOGIN=researcher-a WARDROUND_PASSWORD_FILE=password
    python publish_start_experiment.py runs/breast-cancer/experiment.json

The manifest is what `wardround simulate` leaves in its folder. `WARDROUND_CA` names a hub's own authority.
"""

import asyncio
import os
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import aio_pika
from yarl import URL

from wardround_messages.codec import CONTENT_TYPE, encode
from wardround_messages.commands import StartExperiment
from wardround_messages.envelope import Envelope
from wardround_messages.manifest import Manifest
from wardround_messages.names import source_urn


async def main(manifest: Manifest) -> None:
    login = os.environ["WARDROUND_LOGIN"]
    password = Path(os.environ["WARDROUND_PASSWORD_FILE"]).read_text().strip()
    address = URL(os.environ["WARDROUND_BROKER"]).with_user(login).with_password(password)
    trusted = ssl.create_default_context(cafile=os.environ.get("WARDROUND_CA"))
    command = StartExperiment(manifest=manifest)
    envelope = Envelope(
        id=str(uuid4()),
        source=source_urn("client", "hub"),
        type=command.type,
        subject=command.subject,
        time=datetime.now(UTC),
    )
    message = aio_pika.Message(
        encode(command),
        headers={**envelope.headers()},
        content_type=CONTENT_TYPE,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=envelope.id,
        correlation_id=command.experiment,
        user_id=login,  # the broker vouches for it; without it nobody listens
    )
    async with await aio_pika.connect(address, ssl_context=trusted) as connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange(command.exchange, ensure=False)
        await exchange.publish(message, routing_key=command.routing_key, timeout=10)
    print(f"{command.experiment}: the broker has it, as message {envelope.id}")


if __name__ == "__main__":
    asyncio.run(main(Manifest.model_validate_json(Path(sys.argv[1]).read_bytes())))
