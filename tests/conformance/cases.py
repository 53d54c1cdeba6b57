"""gRPC's interop cases (grpc/doc/interop-test-descriptions.md) as a client of stock Python.

    cases.py HOST:PORT [CASE...]    prints `CASE ok` or `CASE WHY` for each

PyPI has no package of these cases, so they are written here, over stock grpcio. That an answer came compressed
grpcio does not tell: the client of Go looks at that.
"""

import queue
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

WITHIN_S = 30
REQUEST_SIZES, RESPONSE_SIZES = (27182, 8, 1828, 45904), (31415, 9, 2653, 58979)
LARGE_REQUEST, LARGE_RESPONSE = 271828, 314159
# The fields that are used of grpc/testing/messages.proto: name, number, type, and a message's name.
MESSAGES = {
    "Empty": [],
    "BoolValue": [("value", 1, "BOOL")],
    "Payload": [("type", 1, "INT32"), ("body", 2, "BYTES")],
    "EchoStatus": [("code", 1, "INT32"), ("message", 2, "STRING")],
    "SimpleRequest": [
        ("response_type", 1, "INT32"),
        ("response_size", 2, "INT32"),
        ("payload", 3, "Payload"),
        ("response_compressed", 6, "BoolValue"),
        ("response_status", 7, "EchoStatus"),
        ("expect_compressed", 8, "BoolValue"),
    ],
    "SimpleResponse": [("payload", 1, "Payload")],
    "StreamingInputCallRequest": [("payload", 1, "Payload")],
    "StreamingInputCallResponse": [("aggregated_payload_size", 1, "INT32")],
    "ResponseParameters": [("size", 1, "INT32"), ("interval_us", 2, "INT32")],
    "StreamingOutputCallRequest": [
        ("response_type", 1, "INT32"),
        ("response_parameters", 2, "ResponseParameters*"),
        ("payload", 3, "Payload"),
        ("response_status", 7, "EchoStatus"),
    ],
    "StreamingOutputCallResponse": [("payload", 1, "Payload")],
}


def declare():
    """Classes of those messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="interop.proto", package="grpc.testing", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            declared = message.field.add(name=field, number=number, label=label)
            if kind.rstrip("*") in MESSAGES:
                declared.type, declared.type_name = kinds.TYPE_MESSAGE, f".grpc.testing.{kind.rstrip('*')}"
            else:
                declared.type = getattr(kinds, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = lambda name: pool.FindMessageTypeByName(f"grpc.testing.{name}")
    return {name: message_factory.GetMessageClass(find(name)) for name in MESSAGES}


M = declare()


class Client:
    """The methods that are called."""

    def __init__(self, channel):
        def method(shape, name, asks, answers, service="TestService"):
            call = getattr(channel, shape)
            path = f"/grpc.testing.{service}/{name}"
            return call(
                path,
                request_serializer=M[asks].SerializeToString,
                response_deserializer=M[answers].FromString,
            )

        self.empty = method("unary_unary", "EmptyCall", "Empty", "Empty")
        self.unary = method("unary_unary", "UnaryCall", "SimpleRequest", "SimpleResponse")
        self.input = method(
            "stream_unary", "StreamingInputCall", "StreamingInputCallRequest", "StreamingInputCallResponse"
        )
        streaming = ("StreamingOutputCallRequest", "StreamingOutputCallResponse")
        self.output = method("unary_stream", "StreamingOutputCall", *streaming)
        self.duplex = method("stream_stream", "FullDuplexCall", *streaming)
        self.no_method = method("unary_unary", "UnimplementedCall", "Empty", "Empty")
        self.no_service = method("unary_unary", "UnimplementedCall", "Empty", "Empty", "UnimplementedService")


def expect(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} and not {expected!r}")


def code_of(call):
    """The status with which something ends that must not go well."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call went well")


def payload(size):
    return M["Payload"](body=bytes(size))


def simple(size=LARGE_REQUEST, answered=LARGE_RESPONSE, **fields):
    return M["SimpleRequest"](response_size=answered, payload=payload(size), **fields)


def streaming(asked, answered):
    parameters = [M["ResponseParameters"](size=size) for size in answered]
    return M["StreamingOutputCallRequest"](response_parameters=parameters, payload=payload(asked))


class Sender:
    """Requests of a stream that are sent one by one."""

    def __init__(self, stream, **options):
        self.queue = queue.Queue()
        self.call = stream(iter(self.queue.get, None), timeout=options.pop("timeout", WITHIN_S), **options)

    def send(self, message):
        self.queue.put(message)

    def end(self):
        self.queue.put(None)


def empty_unary(client):
    expect(client.empty(M["Empty"](), timeout=WITHIN_S), M["Empty"]())


def large_unary(client):
    expect(len(client.unary(simple(), timeout=WITHIN_S).payload.body), LARGE_RESPONSE)


def client_compressed_unary(client):
    # A server that does not look would let everything pass.
    probe = simple(expect_compressed=M["BoolValue"](value=True))
    expect(code_of(lambda: client.unary(probe, timeout=WITHIN_S))[0], grpc.StatusCode.INVALID_ARGUMENT)
    answer = client.unary(probe, timeout=WITHIN_S, compression=grpc.Compression.Gzip)
    expect(len(answer.payload.body), LARGE_RESPONSE)
    plain = client.unary(simple(expect_compressed=M["BoolValue"](value=False)), timeout=WITHIN_S)
    expect(len(plain.payload.body), LARGE_RESPONSE)


def server_compressed_unary(client):
    for is_compressed in (True, False):
        answer = client.unary(
            simple(response_compressed=M["BoolValue"](value=is_compressed)), timeout=WITHIN_S
        )
        expect(len(answer.payload.body), LARGE_RESPONSE)


def client_streaming(client):
    requests = [M["StreamingInputCallRequest"](payload=payload(size)) for size in REQUEST_SIZES]
    expect(client.input(iter(requests), timeout=WITHIN_S).aggregated_payload_size, sum(REQUEST_SIZES))


def server_streaming(client):
    answers = client.output(streaming(0, RESPONSE_SIZES), timeout=WITHIN_S)
    expect([len(it.payload.body) for it in answers], list(RESPONSE_SIZES))


def ping_pong(client):
    sender = Sender(client.duplex)
    for asked, answered in zip(REQUEST_SIZES, RESPONSE_SIZES):
        sender.send(streaming(asked, [answered]))
        expect(len(next(sender.call).payload.body), answered)
    sender.end()
    expect(list(sender.call), [])


def empty_stream(client):
    expect(list(client.duplex(iter(()), timeout=WITHIN_S)), [])


def cancel_after_begin(client):
    sender = Sender(client.input.future, metadata=(("key1", "value1"), ("key2", "value2")))
    sender.call.cancel()
    expect(sender.call.code(), grpc.StatusCode.CANCELLED)
    sender.end()


def cancel_after_first_response(client):
    sender = Sender(client.duplex)
    sender.send(streaming(REQUEST_SIZES[0], RESPONSE_SIZES[:1]))
    expect(len(next(sender.call).payload.body), RESPONSE_SIZES[0])
    sender.call.cancel()
    expect(code_of(lambda: next(sender.call))[0], grpc.StatusCode.CANCELLED)
    sender.end()


def timeout_on_sleeping_server(client):
    sender = Sender(client.duplex, timeout=0.001)
    sender.send(streaming(REQUEST_SIZES[0], ()))
    expect(code_of(lambda: next(sender.call))[0], grpc.StatusCode.DEADLINE_EXCEEDED)
    sender.end()


def status_with(client, text):
    asked = M["EchoStatus"](code=2, message=text)
    expected = (grpc.StatusCode.UNKNOWN, text)
    expect(
        code_of(lambda: client.unary(M["SimpleRequest"](response_status=asked), timeout=WITHIN_S)), expected
    )
    requests = iter([M["StreamingOutputCallRequest"](response_status=asked)])
    expect(code_of(lambda: list(client.duplex(requests, timeout=WITHIN_S))), expected)


def status_code_and_message(client):
    status_with(client, "test status message")


def special_status_message(client):
    status_with(client, "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n")


def custom_metadata(client):
    first, last = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
    sent = ((first, "test_initial_metadata_value"), (last, b"\xab\xab\xab"))

    def check(call):
        expect(dict(call.initial_metadata()).get(first), sent[0][1])
        expect(dict(call.trailing_metadata()).get(last), sent[1][1])

    check(client.unary.with_call(simple(1, 1), metadata=sent, timeout=WITHIN_S)[1])
    call = client.duplex(iter([streaming(1, [1])]), metadata=sent, timeout=WITHIN_S)
    expect(len(list(call)), 1)
    check(call)


def unimplemented_method(client):
    expect(
        code_of(lambda: client.no_method(M["Empty"](), timeout=WITHIN_S))[0], grpc.StatusCode.UNIMPLEMENTED
    )


def unimplemented_service(client):
    expect(
        code_of(lambda: client.no_service(M["Empty"](), timeout=WITHIN_S))[0], grpc.StatusCode.UNIMPLEMENTED
    )


CASES = (
    empty_unary,
    large_unary,
    client_compressed_unary,
    server_compressed_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
    status_code_and_message,
    special_status_message,
    custom_metadata,
    unimplemented_method,
    unimplemented_service,
)


def main():
    target, *names = sys.argv[1:]
    for case in CASES:
        if names and case.__name__ not in names:
            continue
        try:
            with grpc.insecure_channel(target) as channel:
                case(Client(channel))
            print(case.__name__, "ok", flush=True)
        except (AssertionError, grpc.RpcError, StopIteration) as error:
            print(case.__name__, " ".join(repr(error).split()), flush=True)


if __name__ == "__main__":
    main()
