//! Compiles `rbuild.v1` with protox, so that no `protoc` needs to be installed.

use std::path::Path;

use prost::Message;

#[expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["tree", "build", "session", "events", "admin", "exec", "store"]
        .map(|name| format!("proto/rbuild/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("rbuild.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Much larger than the bytes that come after it.
        .boxed(".rbuild.v1.ExecInput.body.start")
        .compile_fds(descriptors)?;
    Ok(())
}
