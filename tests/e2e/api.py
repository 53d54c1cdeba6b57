"""Asks the API as a stock client: DIR OPERATOR PORT health|reflection|status. Prints what it was told."""

import pathlib
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

folder, operator, port, what = pathlib.Path(sys.argv[1]), *sys.argv[2:5]
read = lambda name: (folder / name).read_bytes()
credentials = grpc.ssl_channel_credentials(
    read("ca.crt"), read(f"{operator}.key"), read(f"{operator}.crt")
)
options = [("grpc.ssl_target_name_override", "one.home.mesh")]
gzip = grpc.Compression.Gzip
with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options, compression=gzip) as channel:
    if what == "health":
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service="sagemesh.mesh.v1.MeshService"), timeout=20)
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    elif what == "reflection":
        print("\n".join(sorted(ProtoReflectionDescriptorDatabase(channel).get_services())))
    elif what == "status":
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service = pool.FindServiceByName("sagemesh.mesh.v1.MeshService")
        method = service.FindMethodByName("GetStatus")
        call = channel.unary_unary(
            "/sagemesh.mesh.v1.MeshService/GetStatus",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        print(call(GetMessageClass(method.input_type)(), timeout=20).node)
