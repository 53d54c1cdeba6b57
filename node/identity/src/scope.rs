//! Which services a node may speak for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use types::ServiceName;

/// Most services listed in one scope, so that a member record stays small enough for a certificate.
pub const SERVICES_MAX: usize = 32;
/// Most bytes of service names in one scope; with the keys a record then stays below 7.5 KB.
pub const SERVICES_LEN_MAX: usize = 1024;

/// The services a node may speak for; none by default.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every service: `svc/*`.
    All,
    /// These and no other.
    Only(BTreeSet<ServiceName>),
}

/// A text is not a scope. Nothing was created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An item has the wrong form.
    #[error("`{0}` is not a scope: use `svc/NAME`, or `svc/*` for every service")]
    Item(String),
    /// There are too many.
    #[error(
        "a scope lists at most {SERVICES_MAX} services of together {SERVICES_LEN_MAX} bytes: give `svc/*`, or split the services over nodes"
    )]
    TooMany,
}

impl Scope {
    /// No service.
    pub const NONE: Self = Self::Only(BTreeSet::new());

    /// Reads items such as `svc/api` or `svc/*`.
    ///
    /// # Errors
    /// If an item has another form, or there are too many.
    pub fn read<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut services = BTreeSet::new();
        let mut len = 0;
        let mut is_all = false;
        for item in items {
            let form = || Error::Item(item.chars().take(80).collect());
            match item.strip_prefix("svc/").ok_or_else(form)? {
                "*" => is_all = true,
                name => {
                    len += name.len();
                    services.insert(name.parse().map_err(|_| form())?);
                }
            }
            if services.len() > SERVICES_MAX || len > SERVICES_LEN_MAX {
                return Err(Error::TooMany);
            }
        }
        Ok(if is_all { Self::All } else { Self::Only(services) })
    }

    /// Its items in order, as [`Scope::read`] takes them.
    pub fn items(&self) -> Vec<String> {
        match self {
            Self::All => vec!["svc/*".to_owned()],
            Self::Only(services) => services.iter().map(|name| format!("svc/{name}")).collect(),
        }
    }

    /// Whether it holds `service`.
    pub fn holds(&self, service: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Only(services) => services.contains(service),
        }
    }

    /// This scope and `other`.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn with(&self, other: &Self) -> Result<Self, Error> {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Ok(Self::All),
            // What is in both counts once.
            (Self::Only(mine), Self::Only(theirs)) => {
                Self::read(Self::Only(mine | theirs).items().iter().map(String::as_str))
            }
        }
    }

    /// This scope less what is in `other`; `None` if that cannot be said, as of `svc/*` less one service.
    pub fn without(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (_, Self::All) => Some(Self::NONE),
            (Self::All, Self::Only(services)) => services.is_empty().then_some(Self::All),
            (Self::Only(mine), Self::Only(theirs)) => Some(Self::Only(mine - theirs)),
        }
    }

    /// Whether everything in `other` is in this one too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Only(_), Self::All) => false,
            (Self::Only(mine), Self::Only(theirs)) => theirs.is_subset(mine),
        }
    }
}

impl FromStr for Scope {
    type Err = Error;
    /// Reads items separated by commas; an empty text is no service.
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::read(text.split(',').map(str::trim).filter(|item| !item.is_empty()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(services) if services.is_empty() => f.write_str("none"),
            _ => f.write_str(&self.items().join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_scope_grows_and_shrinks_by_items() {
        #[track_caller]
        fn check(scope: &str, less: &str, more: &str, expected: Option<&str>) {
            let read = |text: &str| text.parse::<Scope>().expect("a scope");
            let changed = read(scope).without(&read(less)).map(|it| it.with(&read(more)).expect("small"));
            assert_eq!(changed, expected.map(read));
        }
        check("", "", "svc/a", Some("svc/a"));
        check("svc/a,svc/b", "svc/a,svc/c", "svc/d", Some("svc/b,svc/d"));
        check("svc/a", "", "svc/*", Some("svc/*"));
        check("svc/*", "svc/*", "svc/a", Some("svc/a"));
        check("svc/*", "svc/a", "", None);
        check("svc/*", "", "svc/a", Some("svc/*"));
    }

    #[test]
    fn what_is_in_both_counts_once() {
        let long: Vec<_> = (0..15).map(|n| format!("svc/{}{n:02}", "a".repeat(60))).collect();
        let scope = Scope::read(long.iter().map(String::as_str)).expect("a scope of 930 bytes");
        assert_eq!(scope.with(&scope), Ok(scope.clone()));
    }

    #[test]
    fn reads_back_what_it_lists() {
        #[track_caller]
        fn check(text: &str, expected: Result<&str, Error>) {
            assert_eq!(text.parse::<Scope>().map(|scope| scope.to_string()), expected.map(str::to_owned));
        }
        check("", Ok("none"));
        check("svc/b, svc/a", Ok("svc/a,svc/b"));
        check("svc/a,svc/*", Ok("svc/*"));
        check("a", Err(Error::Item("a".to_owned())));
        check("svc/A", Err(Error::Item("svc/A".to_owned())));
        check("node", Err(Error::Item("node".to_owned())));
        let many: Vec<_> = (0..=SERVICES_MAX).map(|n| format!("svc/s{n}")).collect();
        check(&many.join(","), Err(Error::TooMany));
    }

    #[test]
    fn covering_is_having_at_least_as_much() {
        let scope = |text: &str| text.parse::<Scope>().expect("a scope");
        assert!(Scope::All.covers(&Scope::All) && Scope::NONE.covers(&Scope::NONE));
        assert!(scope("svc/a,svc/b").covers(&scope("svc/a")));
        assert!(!scope("svc/a").covers(&scope("svc/b")) && !scope("svc/a").covers(&Scope::All));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_within_its_bounds(text in "(svc/([a-c-]{0,3}|[*]|a{60,64}),?){0,40}|.{0,40}") {
            let Ok(scope) = text.parse::<Scope>() else { return Ok(()) };
            let items = scope.items();
            prop_assert!(items.len() <= SERVICES_MAX);
            prop_assert_eq!(Scope::read(items.iter().map(String::as_str)), Ok(scope));
        }
    }
}
