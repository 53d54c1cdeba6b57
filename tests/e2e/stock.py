"""Answers `yes` or `no` for each line `CA LEAF KEY HOST` of a file: would a client with that CA file believe
a server with that leaf to be that host? `ssl` asks Python's ssl (OpenSSL), `grpc` asks gRPC-core."""

import pathlib
import ssl
import sys
from concurrent import futures

import grpc


def ask_ssl(ca, leaf, key, host):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(leaf, key)
    client = ssl.create_default_context(cafile=ca)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    done = set()
    for _ in range(20):
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
        if len(done) == 2:
            return True
    raise RuntimeError("the handshake did not end")


def ask_grpc(ca, leaf, key, host):
    read = lambda path: pathlib.Path(path).read_bytes()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(read(key), read(leaf))]))
    server.start()
    options = [("grpc.ssl_target_name_override", host), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(read(ca)), options) as channel:
        try:
            channel.unary_unary("/none.None/None")(b"", timeout=20)
            raise RuntimeError("a method that is not there answered")
        except grpc.RpcError as err:
            # Whoever hears that the method is unknown has believed the server.
            if err.code() not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
                raise
            return err.code() == grpc.StatusCode.UNIMPLEMENTED
        finally:
            server.stop(None).wait()


ask = {"ssl": ask_ssl, "grpc": ask_grpc}[sys.argv[1]]
for line in pathlib.Path(sys.argv[2]).read_text().splitlines():
    print("yes" if ask(*line.split()) else "no", flush=True)
