//! What operators and workloads ask of a node, by gRPC.
