//! Generates the echo service. Its one message is declared by hand, so that no protoc is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let unary = Method::builder()
        .name("unary")
        .route_name("Unary")
        .input_type("crate::echo::Message")
        .output_type("crate::echo::Message")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let echo = Service::builder().package("pd").name("Echo").method(unary).build();
    Builder::new().build_client(false).compile(&[echo]);
}
