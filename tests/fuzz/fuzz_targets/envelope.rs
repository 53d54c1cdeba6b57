//! Envelopes as bytes: what is read is within its bounds, and reads the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;

use sagemesh_fuzz::Mesh;
use types::Envelope;
use types::envelope::SIGNATURES_MAX;

fuzz_target!(
    init: sagemesh_fuzz::seed::write(Mesh::found().statements().iter().map(Envelope::to_bytes)),
    |bytes: &[u8]| {
        let Ok(envelope) = Envelope::from_bytes(bytes) else { return };
        assert!(envelope.signatures.len() <= SIGNATURES_MAX);
        let again = Envelope::from_bytes(&envelope.to_bytes()).expect("our own bytes");
        assert_eq!(again, envelope);
        assert_eq!(again.digest(), envelope.digest());
    }
);
