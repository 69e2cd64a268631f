//! Compiles the protocol's schemas, without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const SCHEMAS: [&str; 4] = ["discovery.proto", "workload.proto", "authorization.proto", "ca.proto"];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(SCHEMAS, ["proto"])?;
    tonic_prost_build::configure()
        // Only the embedded control plane of tests and demo is a server.
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_transport(false)
        // Names of resources are sorted in dumps and compared in tests.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
