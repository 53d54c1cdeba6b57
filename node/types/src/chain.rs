//! An error and all that caused it, in one line: for logs, and for what a refusal says it saw.

use std::error::Error;

/// The error with its causes, each once: some say nothing themselves, and some quote what caused them.
pub fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut next = err.source();
    while let Some(err) = next {
        let more = err.to_string();
        if text.is_empty() {
            text = more;
        } else if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = err.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Says(&'static str, #[source] io::Error);

    #[test]
    fn every_cause_is_told_once_and_silence_leaves_no_mark() {
        #[track_caller]
        fn check(says: &'static str, expected: &str) {
            assert_eq!(chain(&Says(says, io::Error::other("refused"))), expected);
        }
        check("failed to connect", "failed to connect: refused");
        check("failed to connect: refused", "failed to connect: refused");
        check("", "refused");
    }
}
