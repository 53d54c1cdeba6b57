"""A stock gRPC client that calls `test.Echo` and prints what it saw as JSON.

Arguments: the target, and the calls to make. gRPC-core sends the path of a Unix socket as `:authority`, so the
service is named by `grpc.default_authority`.
"""

import json
import sys

import grpc

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BIG = bytes(range(256)) * (8 * 4096)

channel = grpc.insecure_channel(
    sys.argv[1],
    options=[
        ("grpc.default_authority", "echo"),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ],
)
unary = channel.unary_unary("/test.Echo/Unary")
client_stream = channel.stream_unary("/test.Echo/ClientStream")
server_stream = channel.unary_stream("/test.Echo/ServerStream")
both_streams = channel.stream_stream("/test.Echo/BothStreams")


def with_metadata():
    sent = (("traceparent", TRACE), ("x-forwarded-client-cert", "forged"))
    answer, call = unary.with_call(b"hi", timeout=20, metadata=sent)
    told = dict(call.initial_metadata()) | dict(call.trailing_metadata())
    return [answer.decode(), told["x-caller"], told["x-traceparent"] == TRACE]


CALLS = {
    "unary": with_metadata,
    "client": lambda: client_stream(iter([b"a", b"b", b"c"]), timeout=20).decode(),
    "server": lambda: [part.decode() for part in server_stream(b"x", timeout=20)],
    "both": lambda: [part.decode() for part in both_streams(iter([b"abc", b"def"]), timeout=20)],
    "big": lambda: unary(BIG, timeout=60) == BIG,
    "gzip": lambda: unary(BIG, timeout=60, compression=grpc.Compression.Gzip) == BIG,
    "fail": lambda: unary(b"fail", timeout=20).decode(),
    "slow": lambda: unary(b"slow", timeout=1).decode(),
}


def make(name):
    try:
        return CALLS[name]()
    except grpc.RpcError as error:
        # The last field of google.rpc.ErrorInfo that a person needs: its reason.
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        return {"code": error.code().name, "message": error.details(), "is_ours": b"sagemesh" in details}


print(json.dumps({name: make(name) for name in sys.argv[2:]}))
