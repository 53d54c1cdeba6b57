"""A stock gRPC server that echoes bytes in all four shapes; its argument is where it listens."""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-caller", metadata.get("x-forwarded-client-cert", "none")),))
    context.set_trailing_metadata((("x-traceparent", metadata.get("traceparent", "none")),))
    if request == b"fail":
        context.abort(grpc.StatusCode.ALREADY_EXISTS, "as asked")
    if request == b"slow":
        time.sleep(3)
    return request


def client_stream(requests, _):
    return b"".join(requests)


def server_stream(request, _):
    for number in range(5):
        yield request + str(number).encode()


def both_streams(requests, _):
    for request in requests:
        yield request[::-1]


handlers = grpc.method_handlers_generic_handler(
    "test.Echo",
    {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "BothStreams": grpc.stream_stream_rpc_method_handler(both_streams),
    },
)
unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
server = grpc.server(futures.ThreadPoolExecutor(8), options=unlimited)
server.add_generic_rpc_handlers((handlers,))
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
