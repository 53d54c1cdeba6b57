"""A shim for clients that have no client certificate: takes connections in the clear and makes each one of TLS.

    shim.py PORT HOST:PORT SERVER_NAME CERTIFICATE KEY

Bytes pass as they are; when either side closes, so does the other. It does not ask who the server is: its user knows.
"""

import asyncio
import ssl
import sys

PIECE_BYTES = 1 << 16


async def copy(reader, writer):
    """Passes on what comes until it ends."""
    try:
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    except (OSError, ssl.SSLError):
        # Whoever waits at the other side sees the end.
        pass
    finally:
        writer.close()


async def main():
    port, target, name, certificate, key = sys.argv[1:]
    host, _, far_port = target.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(certificate, key)

    async def carry(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(
                host, far_port, ssl=context, server_hostname=name
            )
        except (OSError, ssl.SSLError) as error:
            print(f"failed to connect to {target}: {error}", file=sys.stderr, flush=True)
            writer.close()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    async with await asyncio.start_server(carry, "127.0.0.1", int(port)) as server:
        await server.serve_forever()


asyncio.run(main())
