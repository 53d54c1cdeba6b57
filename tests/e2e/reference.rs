//! Pages of docs/reference that follow from the code: kept true here.

use std::fmt::Write as _;
use std::path::Path;

use types::Reason;

#[test]
fn the_page_of_reasons_lists_every_reason() {
    let mut page = String::from(
        "# Reasons\n\nEvery refusal has one of these codes: as `google.rpc.ErrorInfo.reason` of a gRPC status, in \
         logs, as a metric label, and at the end of what the command line prints. Codes never change.\n\n\
         | code | gRPC status | what to do |\n|---|---|---|\n",
    );
    for reason in Reason::ALL {
        writeln!(page, "| `{}` | {:?} | {} |", reason.code(), reason.status(), reason.advice()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/reasons.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, page, "write it anew: UPDATE_REFERENCE=1 cargo test -p sagemesh-tests reasons");
}
