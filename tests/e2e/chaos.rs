//! Calls through real nodes while services, nodes and connections are killed: a short `make chaos-dataplane`.

use std::path::Path;
use std::process::Command;

#[test]
fn no_call_is_lost_from_sight_or_made_twice_while_parts_of_the_mesh_are_killed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let chaos = Path::new(env!("CARGO_BIN_EXE_chaos-dataplane"));
    let node = chaos.with_file_name("sagemesh");
    if !node.exists() {
        eprintln!("skipped: {} is not there, which `cargo test --workspace` builds", node.display());
        return;
    }
    let output = Command::new(chaos).arg("--quick").output().unwrap();
    let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // It says by itself what must not be.
    assert!(output.status.success(), "{told}\n{error}");
    assert!(told.contains("\"chaos.requests\": 4000.0"), "{told}");
}
