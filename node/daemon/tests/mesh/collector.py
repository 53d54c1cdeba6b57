"""A stock gRPC server in the place of an OpenTelemetry collector: prints what it is told, one export a line, in hex.

Its argument is where it listens.
"""

import sys
from concurrent import futures

import grpc


def export(request, _):
    print(request.hex(), flush=True)
    return b""


server = grpc.server(futures.ThreadPoolExecutor(2))
handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
service = "opentelemetry.proto.collector.trace.v1.TraceService"
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
assert server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
