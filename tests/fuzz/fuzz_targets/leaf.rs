//! Certificates as bytes: whoever is let in by one is who the map says, and in scope.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;

use identity::{join, verify};
use sagemesh_fuzz::{Mesh, mesh};

static MESH: OnceLock<Mesh> = OnceLock::new();

fuzz_target!(init: sagemesh_fuzz::seed::write(MESH.get_or_init(Mesh::found).leaves()), |der: &[u8]| {
    let members = &MESH.get_or_init(Mesh::found).members;
    let chain = [CertificateDer::from(der)];
    if let Ok(caller) = verify(&chain, mesh::dawn(), members) {
        mesh::check_caller(&caller, members);
    }
    if let Some(pi) = members.get(&mesh::domain("pi")) {
        let _ = join::verify_inviter(&chain, mesh::dawn(), pi.authority.authority());
    }
});
