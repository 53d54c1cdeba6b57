"""Asks the API at a Unix socket as a client of gRPC-core does with no option set: SOCKET. Prints what it was told."""

import os
import pathlib
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

path = pathlib.Path(sys.argv[1])
# A path that does not begin at the root is named as authority too.
os.chdir(path.parent.parent)
targets = [f"unix:{path}", f"unix://{path}", f"unix:{path.parent.name}/{path.name}"]
for target in targets:
    with grpc.insecure_channel(target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

channel = grpc.insecure_channel(targets[0])
pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


def method(service, name):
    found = pool.FindServiceByName(f"sagemesh.{service}").FindMethodByName(name)
    request, answer = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
    kind = channel.unary_stream if found.server_streaming else channel.unary_unary
    return request, kind(
        f"/{found.containing_service.full_name}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )


def code(call):
    try:
        call()
        return "OK"
    except grpc.RpcError as refused:
        return refused.code().name


# Many at once, each with fields of its own.
request, status = method("mesh.v1.MeshService", "GetStatus")
calls = [status.future(request(), timeout=20, metadata=[("x-at", f"%2F{at}")]) for at in range(200)]
print(len(calls), {call.result().node for call in calls})

# Long ones in both directions; what looks like a path stays where it is none.
request, peers = method("mesh.v1.MeshService", "ListPeers")
print(len(peers(request(), timeout=20).peers))
request, explain = method("service.v1.ServiceService", "ExplainService")
print(code(lambda: explain(request(name="%2F" * 300_000), timeout=20)))
request, status = method("mesh.v1.MeshService", "GetStatus")
print(code(lambda: status(request(), timeout=20, metadata=[("x-long", ":authority%2F" * 900)])))
print(code(lambda: status(request(), timeout=20, metadata=[("x-long", "%2F" * 20_000)])) != "OK")

# Streams: begun, cut off, and gone when their deadline is.
request, watch = method("mesh.v1.MeshService", "WatchPeers")
stream = watch(request(), timeout=20)
print(len(next(stream).peers))
stream.cancel()
print(code(lambda: next(stream)))
print(code(lambda: list(watch(request(), timeout=0.5))))
health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
print(health_pb2.HealthCheckResponse.ServingStatus.Name(next(health).status))
print(status(request(), timeout=20).node)
