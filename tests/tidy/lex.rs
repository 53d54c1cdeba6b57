//! Rust source as tokens with their lines; comments are gone, and code for tests stands apart.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One token: a word, a literal, one character of punctuation, or a bracket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The tokens of one file.
#[derive(Debug, Default)]
pub(crate) struct Code {
    /// What is built for use.
    pub(crate) shipped: Vec<Token>,
    /// Items under `#[cfg(test)]`.
    pub(crate) tests: Vec<Token>,
}

/// Takes `text` apart.
///
/// # Errors
/// If it is not Rust.
pub(crate) fn lex(text: &str) -> Result<Code, proc_macro2::LexError> {
    let mut code = Code::default();
    let mut rest = &tokens(text)?[..];
    while let Some(first) = rest.first() {
        if starts_with(rest, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            let (item, after) = rest.split_at(item_len(rest));
            code.tests.extend_from_slice(item);
            rest = after;
        } else {
            code.shipped.push(first.clone());
            rest = &rest[1..];
        }
    }
    Ok(code)
}

/// Takes `text` apart and leaves nothing out.
///
/// # Errors
/// If it is not Rust.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, proc_macro2::LexError> {
    let mut tokens = Vec::new();
    flatten(text.parse()?, &mut tokens);
    Ok(tokens)
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), tokens);
                tokens.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
            other => tokens.push(Token { text: other.to_string(), line }),
        }
    }
}

/// Whether `tokens` begin with these.
pub(crate) fn starts_with(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

/// How many tokens the item takes that `tokens` begin with: up to its `;` or its `{}`.
pub(crate) fn item_len(tokens: &[Token]) -> usize {
    let mut depth = 0usize;
    for (idx, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return idx + 1;
                }
            }
            ";" if depth == 0 => return idx + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The lines at which `path`, such as `std::fs`, is named or imported, by whatever braces.
pub(crate) fn lines_naming(tokens: &[Token], path: &str) -> Vec<usize> {
    let words: Vec<&str> = path.split("::").collect();
    let mut pattern = vec![words[0]];
    for word in &words[1..] {
        pattern.extend([":", ":", word]);
    }
    let named = tokens.windows(pattern.len()).filter(|window| starts_with(window, &pattern));
    let longer = format!("{path}::");
    let imported =
        imports(tokens).into_iter().filter(|(import, _)| import == path || import.starts_with(&longer));
    let mut lines: Vec<usize> =
        named.map(|window| window[0].line).chain(imported.map(|(_, line)| line)).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// Every path that a `use` brings in, braces resolved, with its line.
pub(crate) fn imports(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (idx, token) in tokens.iter().enumerate() {
        // `use<'a>` in a bound is no import.
        if token.text == "use" && tokens.get(idx + 1).is_some_and(|next| next.text != "<") {
            import(&tokens[idx + 1..], "", &mut found);
        }
    }
    found
}

/// Reads one tree of imports below `prefix`; answers how many tokens it took.
fn import(tokens: &[Token], prefix: &str, found: &mut Vec<(String, usize)>) -> usize {
    let mut path = prefix.to_owned();
    let mut idx = 0;
    while let Some(token) = tokens.get(idx) {
        match token.text.as_str() {
            "{" => {
                while tokens.get(idx).is_some_and(|token| matches!(token.text.as_str(), "{" | ",")) {
                    idx += 1 + import(&tokens[idx + 1..], &path, found);
                }
                return idx + 1;
            }
            "," | "}" | ";" => break,
            "as" => idx += 1,
            text => path.push_str(text),
        }
        idx += 1;
    }
    if path != prefix {
        found.push((path, tokens[0].line));
    }
    idx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, path: &str, expected: &[usize]) {
        let code = lex(text).expect("this is Rust");
        assert_eq!(lines_naming(&code.shipped, path), expected, "{text}");
    }

    #[test]
    fn a_path_is_seen_however_it_is_imported() {
        check("use std::fs;", "std::fs", &[1]);
        check("use std::fs::File;", "std::fs", &[1]);
        check("use std::{\n    io,\n    fs::{File, self},\n};", "std::fs", &[3]);
        check("use std::{io::{self, Read}, fs as files};", "std::fs", &[1]);
        check("fn f() { tokio::select! { x = std::fs::read(p) => {} } }", "std::fs", &[1]);
        check("use std::{io, net::IpAddr};", "std::fs", &[]);
        check("use std::fs_other;", "std::fs", &[]);
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        check("// std::fs\n/// std::fs\nfn f() { g(\"std::fs\", r#\"std::fs\"#, '\"') }", "std::fs", &[]);
        check(
            "#[cfg(test)]\nuse std::fs;\nfn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }",
            "std::fs",
            &[],
        );
        check("#[cfg(test)]\nmod tests {}\nuse std::fs;", "std::fs", &[3]);
        check("#[cfg(test)]\nfn f(x: [u8; 2]) { g(); }\nuse std::fs;", "std::fs", &[3]);
    }
}
