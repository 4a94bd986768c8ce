//! Generates the types and stubs of `imageops.v1` from `proto/`, without a `protoc` on the machine.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let files = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(["imageops/v1/service.proto"])?
        .file_descriptor_set();
    let descriptors = files.encode_to_vec();
    fs::write(out.join("imageops.v1.bin"), &descriptors)?;

    let mut config = prost_build::Config::new();
    config
        .bytes(["."])
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::pbjson_types")
        .extern_path(".google.protobuf.FieldMask", "crate::FieldMask");
    // Without the `transport` feature the client has no `connect()`: timeouts, keep-alive and retries belong to the
    // client crate, which builds its own channel.
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(files, config)?;

    pbjson_build::Builder::new().register_descriptors(&descriptors)?.build(&[".imageops.v1"])?;
    Ok(())
}
