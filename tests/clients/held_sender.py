"""An AMP agent on the library `websockets` that has written to a receiver which takes nothing, and is not read for that.

Usage: held_sender.py URL HELLO-HEX, then messages on stdin, one a line in hex. Says when its pings were answered.
"""

import asyncio
import sys

import cbor2
from websockets.asyncio.client import connect

URL, HELLO = sys.argv[1:]
HELLO_ACK = 0x71


async def main():
    # The library's own pings come twice a second, and end the connection when one is not answered for ten.
    async with connect(URL, subprotocols=["amp.v1"], ping_interval=0.5, ping_timeout=10) as socket:
        await socket.send(bytes.fromhex(HELLO))
        assert cbor2.loads(await socket.recv())["typ"] == HELLO_ACK
        print("ready", flush=True)
        for line in sys.stdin:
            await socket.send(bytes.fromhex(line))
        for _ in range(5):
            answered = await socket.ping()
            await asyncio.wait_for(answered, 10)
        print("answered", flush=True)


asyncio.run(main())
