"""Calls `echo` as any gRPC program would, by gRPC-core, and prints a line for each thing that went as it should.
Arguments: the outbound port, the Unix socket, the inbound port, and a folder with ca.pem, leaf.pem and leaf.key."""

import pathlib
import sys

import grpc

outbound, unix, inbound, folder = sys.argv[1:]
folder = pathlib.Path(folder)


def call(channel, kind, method):
    return getattr(channel, kind)(f"/t.T/{method}", request_serializer=None, response_deserializer=None)


def calls(what, channel):
    big = bytes(range(256)) * 4096 * 3
    for message in (b"hello", big):
        assert call(channel, "unary_unary", "Echo")(message, timeout=30) == message
    sent = [bytes([n]) * n for n in range(50)]
    assert list(call(channel, "stream_stream", "Echo")(iter(sent), timeout=30)) == sent
    compressed = call(channel, "unary_unary", "Echo")(b"x" * 5000, compression=grpc.Compression.Gzip, timeout=30)
    assert compressed == b"x" * 5000
    print(what, "ok", flush=True)


def code(channel, method, timeout):
    try:
        call(channel, "unary_unary", method)(b"", timeout=timeout)
    except grpc.RpcError as err:
        return err.code().name, err.details()
    return "OK", ""


limits = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
echo = limits + [("grpc.default_authority", "echo")]
with grpc.insecure_channel(outbound, options=echo) as channel:
    calls("outbound", channel)
    assert code(channel, "Hang", 0.3)[0] == "DEADLINE_EXCEEDED"
    assert code(channel, "Fail", 30) == ("NOT_FOUND", "no such")
    print("statuses ok", flush=True)
with grpc.insecure_channel(outbound, options=limits + [("grpc.default_authority", "nope")]) as channel:
    name, details = code(channel, "Echo", 30)
    assert name == "NOT_FOUND" and "SERVICE_UNKNOWN" in details, details
    print("refusal ok", flush=True)
with grpc.insecure_channel(f"unix:{unix}", options=echo) as channel:
    calls("unix", channel)
credentials = grpc.ssl_channel_credentials(
    (folder / "ca.pem").read_bytes(), (folder / "leaf.key").read_bytes(), (folder / "leaf.pem").read_bytes()
)
named = limits + [("grpc.ssl_target_name_override", "echo.nas.home.mesh")]
with grpc.secure_channel(inbound, credentials, options=named) as channel:
    calls("inbound", channel)
