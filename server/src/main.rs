//! The imageops service: gRPC, workers, uploads; mounts the gateway.

fn main() {}
