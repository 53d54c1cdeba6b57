//! Pages of docs/reference that follow from the code: kept true here.

use std::fmt::Write as _;
use std::path::Path;

use api::roles::{self, Least, TABLE};
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
    is_kept("reasons.md", &page);
}

#[test]
fn the_page_of_calls_lists_every_call() {
    let mut page = String::from(
        "# Calls\n\nWhat a node answers on its API, and the role that a caller needs at least. On the port (7443) an \
         operator has the role of its record, and nodes and services have `view`; on `api.sock` root, the user who \
         runs the node and the group `sagemesh` have `admin`, and everybody else has `view`. What each call does \
         stands beside it in `proto/`, and in what `grpcurl describe` prints.\n\n| call | least role |\n|---|---|\n",
    );
    for (path, least) in TABLE {
        let least = match least {
            Least::Anyone => "whoever was let in",
            Least::Role(role) => roles::name(*role),
            Least::Workload => "a workload of the node",
        };
        writeln!(page, "| `{}` | {least} |", path.trim_start_matches('/')).unwrap();
    }
    is_kept("calls.md", &page);
}

/// Whether the page in docs/reference reads so.
#[track_caller]
fn is_kept(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, page, "write it anew: UPDATE_REFERENCE=1 cargo test -p sagemesh-tests reference");
}
