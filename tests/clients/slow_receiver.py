"""An AMP agent on the library `websockets`, as its users have it, that reads so many bytes a second.

Usage: slow_receiver.py URL UNIX-SOCKET-OR-EMPTY HELLO-HEX BYTES-A-SECOND MESSAGES PING-SECONDS

Ends with 0 when all messages have come, in order, and the connection was closed by it and by nobody before.
"""

import asyncio
import sys

import cbor2
from websockets.asyncio.client import connect, unix_connect

URL, SOCKET, HELLO, RATE, COUNT, PING = sys.argv[1:]
HELLO_ACK, MESSAGE = 0x71, 0x10


async def main():
    options = {"subprotocols": ["amp.v1"]}
    if PING != "default":
        options |= {"ping_interval": float(PING), "ping_timeout": float(PING)}
    opening = unix_connect(SOCKET, uri=URL, **options) if SOCKET else connect(URL, **options)
    loop = asyncio.get_running_loop()
    async with opening as socket:
        await socket.send(bytes.fromhex(HELLO))
        acknowledged = cbor2.loads(await socket.recv())
        assert acknowledged["typ"] == HELLO_ACK, acknowledged
        print("ready", flush=True)
        due, expected = loop.time(), 0
        while expected < int(COUNT):
            frame = await socket.recv()
            message = cbor2.loads(frame)
            assert message["typ"] == MESSAGE, message
            number = message["body"]["n"] - 0x10000
            assert number == expected, f"{number} came for {expected}"
            expected += 1
            due += len(frame) / int(RATE)
            await asyncio.sleep(max(0.0, due - loop.time()))
    print(f"closed {socket.close_code} after {expected}", flush=True)


asyncio.run(main())
