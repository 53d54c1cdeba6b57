//! Rules for our own `.proto` files. Foreign wire, outside of `proto/sagemesh`, is named as its origin has it.

use crate::{Finding, Source};

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let Some(folder) = source.path.strip_prefix("proto/").and_then(|path| path.rsplit_once('/')) else {
        return vec![source.finding(1, "proto-path", "put it into proto/sagemesh/ROOM/v1")];
    };
    let package = folder.0.replace('/', ".");
    if !package.starts_with("sagemesh.") {
        return Vec::new();
    }
    let words = words(&source.text);
    let mut findings = Vec::new();
    let declared = words.windows(2).find(|pair| pair[0].1 == "package");
    if declared.is_none_or(|pair| pair[1].1 != package) {
        let line = declared.map_or(1, |pair| pair[0].0);
        findings.push(source.finding(line, "proto-package", format!("here the package is `{package}`")));
    }
    for enumeration in words.windows(6).filter(|window| window[0].1 == "enum" && window[2].1 == "{") {
        let zero = format!("{}_UNSPECIFIED", upper_snake(enumeration[1].1));
        if (enumeration[3].1, enumeration[4].1, enumeration[5].1) != (zero.as_str(), "=", "0") {
            let what = format!("begin `{}` with `{zero} = 0`", enumeration[1].1);
            findings.push(source.finding(enumeration[0].0, "proto-enum", what));
        }
    }
    findings
}

/// Words and marks with their lines, less comments.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut rest = line.split("//").next().unwrap_or_default().trim_start();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len()).max(first.len_utf8());
            words.push((number, &rest[..len]));
            rest = rest[len..].trim_start();
        }
    }
    words
}

/// `KeyUse` becomes `KEY_USE`.
fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for (idx, c) in name.char_indices() {
        if idx > 0 && c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broken;

    #[track_caller]
    fn check_at(path: &str, text: &str, expected: &[(usize, &str)]) {
        assert_eq!(broken(path, text, check), expected, "{text}");
    }

    #[test]
    fn the_package_is_the_folder() {
        let text = "// package other;\nsyntax = \"proto3\";\npackage sagemesh.heal.v1;\n";
        check_at("proto/sagemesh/heal/v1/plan.proto", text, &[]);
        check_at("proto/sagemesh/flow/v1/plan.proto", text, &[(3, "proto-package")]);
        check_at("proto/sagemesh/heal/v1/plan.proto", "syntax = \"proto3\";", &[(1, "proto-package")]);
        check_at("node/api/plan.proto", text, &[(1, "proto-path")]);
        check_at("proto/spiffe/workload.proto", "syntax = \"proto3\";", &[]);
    }

    #[test]
    fn an_enum_begins_with_unspecified() {
        let text = |values: &str| format!("package sagemesh.heal.v1;\nenum ActionMode {{\n  {values}\n}}\n");
        let path = "proto/sagemesh/heal/v1/plan.proto";
        check_at(path, &text("// Not set.\n  ACTION_MODE_UNSPECIFIED = 0;\n  ACTION_MODE_AUTO = 1;"), &[]);
        check_at(path, &text("UNSPECIFIED = 0;"), &[(2, "proto-enum")]);
        check_at(path, &text("ACTION_MODE_UNSPECIFIED = 1;"), &[(2, "proto-enum")]);
        check_at(path, &text("ACTION_MODE_AUTO = 0;\n  ACTION_MODE_UNSPECIFIED = 1;"), &[(2, "proto-enum")]);
    }
}
