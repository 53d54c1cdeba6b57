//! The binary: reads the command line, runs the command, reports.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::cli::main()
}
