//! Rules for every text file.

use crate::{Finding, Source};

/// Names that say nothing.
const EMPTY_NAMES: [&str; 5] = ["utils", "util", "helpers", "common", "misc"];
/// First folders of paths that exist on one machine only.
const MACHINE_FOLDERS: [&str; 3] = ["work", "root", "home"];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let names = source.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    for name in names.filter(|name| EMPTY_NAMES.contains(name)) {
        findings.push(source.finding(1, "empty-name", format!("`{name}` says nothing: name what it holds")));
    }
    for (line, text) in (1..).zip(source.text.lines()) {
        for folder in MACHINE_FOLDERS.iter().filter(|folder| names_path(text, folder)) {
            findings.push(source.finding(
                line,
                "machine-path",
                format!("no other machine has this /{folder}"),
            ));
        }
    }
    findings
}

/// Whether `text` names a path that begins with `/folder/`. Within a longer path or an address it does not.
fn names_path(text: &str, folder: &str) -> bool {
    let within = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '~' | '}' | ')' | '*');
    text.match_indices(&format!("/{folder}/")).any(|(at, _)| !text[..at].ends_with(within))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broken;

    #[test]
    fn a_name_says_something() {
        assert_eq!(broken("node/store/src/utils.rs", "", check), [(1, "empty-name")]);
        assert_eq!(broken("node/api/src/common/page.rs", "", check), [(1, "empty-name")]);
        assert_eq!(broken("docs/helpers.md", "", check), [(1, "empty-name")]);
        assert_eq!(broken("node/store/src/commonly.rs", "", check), []);
    }

    #[test]
    fn no_file_names_the_machine_it_was_written_on() {
        for folder in MACHINE_FOLDERS {
            let check = |before: &str, expected: &[_]| {
                let text = format!("first\n{before}/{folder}/x");
                assert_eq!(broken("docs/a.md", &text, check), expected, "{text}");
            };
            check("", &[(2, "machine-path")]);
            check("dir = \"", &[(2, "machine-path")]);
            check("cp a:", &[(2, "machine-path")]);
            check("https://example.org", &[]);
            check("node", &[]);
            check("${DIR}", &[]);
        }
    }
}
