//! What an operator writes to say which processes are a service.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One trait of a process: `uid:1000`, `exe:/usr/bin/orders`, `cgroup:/system.slice/orders.service`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// The user that made the socket.
    Uid(u32),
    /// The program that holds the socket. It says who runs, not on whose behalf: whoever may execute the
    /// file has this trait, so that `uid` or `cgroup` belongs beside it where others can log in.
    Exe(PathBuf),
    /// The control group (version 2) in which the socket was made, or one above it.
    Cgroup(String),
}

/// The text is no selector. Nothing was made of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no selector: write `uid:1000`, `exe:/usr/bin/orders` or `cgroup:/system.slice/orders.service`, \
     with the whole path as the process has it"
)]
pub struct Malformed(String);

impl FromStr for Selector {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed(text.replace(char::is_control, "\u{fffd}"));
        let (kind, value) = text.split_once(':').ok_or_else(malformed)?;
        match kind {
            "uid" if value.bytes().all(|b| b.is_ascii_digit()) => {
                value.parse().map(Self::Uid).map_err(|_| malformed())
            }
            "exe" if is_plain(value) && value != "/" => Ok(Self::Exe(PathBuf::from(value))),
            "cgroup" if is_plain(value) => Ok(Self::Cgroup(value.to_owned())),
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Exe(path) => write!(f, "exe:{}", path.display()),
            Self::Cgroup(path) => write!(f, "cgroup:{path}"),
        }
    }
}

/// Whether a path is absolute and written the one way in which the kernel writes it.
fn is_plain(path: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
    path.strip_prefix('/').is_some_and(|below| below.is_empty() || below.split('/').all(is_name))
}

/// Whether `path` is `above`, or lies below it.
pub(crate) fn is_within(path: &str, above: &str) -> bool {
    match path.strip_prefix(above) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || above.ends_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: impl Into<Option<Selector>>) {
        let expected = expected.into();
        let read = text.parse::<Selector>().ok();
        assert_eq!(read, expected, "{text}");
        if let Some(selector) = read {
            assert_eq!(selector.to_string(), text);
        }
    }

    #[test]
    fn selectors_read_as_they_print() {
        check("uid:0", Selector::Uid(0));
        check("uid:1000", Selector::Uid(1000));
        check("exe:/usr/bin/orders", Selector::Exe("/usr/bin/orders".into()));
        check("exe:/opt/my shop/orders", Selector::Exe("/opt/my shop/orders".into()));
        let unit = "/system.slice/orders.service";
        check("cgroup:/system.slice/orders.service", Selector::Cgroup(unit.into()));
        check("cgroup:/", Selector::Cgroup("/".into()));
    }

    #[test]
    fn what_could_never_match_is_no_selector() {
        for text in [
            "",
            "uid",
            "uid:",
            "uid:-1",
            "uid:+1",
            "uid: 1",
            "uid:root",
            "uid:4294967296",
            "gid:1",
            "exe:",
            "exe:/",
            "exe:orders",
            "exe:./orders",
            "exe:/usr/bin/",
            "exe:/usr//bin/orders",
            "exe:/usr/bin/../orders",
            "exe:/usr/./orders",
            "exe:/usr/bin/orders\n",
            "cgroup:",
            "cgroup:system.slice",
            "cgroup:/system.slice/",
            "UID:1",
            "exe /usr/bin/orders",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_refused_selector_cannot_steer_the_terminal() {
        let err = "exe:\u{1b}[2J".parse::<Selector>().expect_err("no selector");
        assert!(!err.to_string().contains('\u{1b}'), "{err}");
    }

    #[test]
    fn a_group_holds_its_children_and_not_its_namesakes() {
        for (path, above, expected) in [
            ("/system.slice/orders.service", "/system.slice/orders.service", true),
            ("/system.slice/orders.service/worker", "/system.slice/orders.service", true),
            ("/system.slice/orders.service2", "/system.slice/orders.service", false),
            ("/system.slice", "/system.slice/orders.service", false),
            ("/user.slice", "/", true),
            ("/", "/", true),
        ] {
            assert_eq!(is_within(path, above), expected, "{path} in {above}");
        }
    }
}
