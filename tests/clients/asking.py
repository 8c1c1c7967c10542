"""An AMP agent on the library `websockets` at its defaults that asks as fast as it may, and reads all the while.

Usage: asking.py URL HELLO-HEX REQUEST-HEX TIMES

Ends with 0 when every REQUEST has its answer, and the connection was closed by it and by nobody before.
"""

import asyncio
import sys

import cbor2
from websockets.asyncio.client import connect

URL, HELLO, REQUEST, TIMES = sys.argv[1:]
HELLO_ACK, RESPONSE = 0x71, 0x12


async def main():
    async with connect(URL, subprotocols=["amp.v1"]) as socket:
        await socket.send(bytes.fromhex(HELLO))
        acknowledged = cbor2.loads(await socket.recv())
        assert acknowledged["typ"] == HELLO_ACK, acknowledged
        print("ready", flush=True)

        async def ask():
            for _ in range(int(TIMES)):
                await socket.send(bytes.fromhex(REQUEST))

        asking = asyncio.create_task(ask())
        for _ in range(int(TIMES)):
            answer = cbor2.loads(await socket.recv())
            assert answer["typ"] == RESPONSE, answer
        await asking
    print(f"answered {TIMES}", flush=True)


asyncio.run(main())
