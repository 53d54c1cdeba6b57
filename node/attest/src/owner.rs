//! Who owns a socket, and whether selectors mean it.

use std::path::PathBuf;

use crate::selector::{Selector, is_within};

/// The owner of a socket. What could not be told is absent, and then matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user that made the socket.
    pub uid: u32,
    /// A process that holds it; absent if none was found, as when /proc hides those of other users.
    pub pid: Option<u32>,
    /// The program of that process; absent without a process, or if the process runs in a file system of
    /// its own where the path means another file.
    pub exe: Option<PathBuf>,
    /// The control group (version 2) in which the socket was made.
    pub cgroup: Option<String>,
    /// The inode by which /proc names the socket; for a Unix socket that of this node's end.
    pub inode: u64,
}

impl Owner {
    /// Whether the owner is meant: each kind of selector that is given must match; several of one kind are
    /// alternatives. An empty list means nobody.
    pub fn matches(&self, selectors: &[Selector]) -> bool {
        let (mut uid, mut exe, mut cgroup) = (None, None, None);
        for selector in selectors {
            let (kind, is_match) = match selector {
                Selector::Uid(wanted) => (&mut uid, *wanted == self.uid),
                Selector::Exe(wanted) => (&mut exe, self.exe.as_ref() == Some(wanted)),
                Selector::Cgroup(above) => {
                    (&mut cgroup, self.cgroup.as_ref().is_some_and(|path| is_within(path, above)))
                }
            };
            *kind = Some(kind.unwrap_or(false) || is_match);
        }
        !selectors.is_empty() && [uid, exe, cgroup].iter().all(|kind| kind.unwrap_or(true))
    }

    /// The selector that tells most about the owner: its systemd unit, else its program, else its control
    /// group, else its user.
    pub fn selector(&self) -> Selector {
        let is_unit = |path: &&String| path.ends_with(".service");
        let unit = self.cgroup.as_ref().filter(is_unit).cloned().map(Selector::Cgroup);
        let exe = || self.exe.clone().map(Selector::Exe);
        let group = || self.cgroup.clone().filter(|path| path != "/").map(Selector::Cgroup);
        unit.or_else(exe).or_else(group).unwrap_or(Selector::Uid(self.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Owner {
        Owner {
            uid: 1000,
            pid: Some(7),
            exe: Some("/usr/bin/orders".into()),
            cgroup: Some("/system.slice/orders.service".into()),
            inode: 1,
        }
    }

    #[track_caller]
    fn check(owner: &Owner, selectors: &str, expected: bool) {
        let read = selectors.split_whitespace().map(|text| text.parse().expect("a selector"));
        assert_eq!(owner.matches(&read.collect::<Vec<_>>()), expected, "{selectors}");
    }

    #[test]
    fn every_kind_must_match_and_one_of_each_is_enough() {
        let owner = orders();
        check(&owner, "", false);
        check(&owner, "uid:1000", true);
        check(&owner, "uid:1001", false);
        check(&owner, "uid:1001 uid:1000", true);
        check(&owner, "exe:/usr/bin/orders", true);
        check(&owner, "exe:/usr/bin/orders2", false);
        check(&owner, "exe:/usr/bin", false);
        check(&owner, "exe:/opt/orders exe:/usr/bin/orders uid:1000", true);
        check(&owner, "exe:/usr/bin/orders uid:1001", false);
        check(&owner, "cgroup:/system.slice", true);
        check(&owner, "cgroup:/system.slice/orders", false);
        check(&owner, "cgroup:/user.slice exe:/usr/bin/orders uid:1000", false);
        check(&owner, "cgroup:/system.slice exe:/usr/bin/orders uid:1000", true);
    }

    #[test]
    fn what_is_not_known_matches_nothing() {
        let owner = Owner { pid: None, exe: None, cgroup: None, ..orders() };
        check(&owner, "uid:1000", true);
        check(&owner, "uid:1000 exe:/usr/bin/orders", false);
        check(&owner, "cgroup:/", false);
    }

    #[test]
    fn the_advice_names_what_tells_most() {
        let mut owner = orders();
        assert_eq!(owner.selector().to_string(), "cgroup:/system.slice/orders.service");
        owner.cgroup = Some("/user.slice/user-1000.slice/session-3.scope".into());
        assert_eq!(owner.selector().to_string(), "exe:/usr/bin/orders");
        owner.exe = None;
        assert_eq!(owner.selector().to_string(), "cgroup:/user.slice/user-1000.slice/session-3.scope");
        owner.cgroup = Some("/".into());
        assert_eq!(owner.selector().to_string(), "uid:1000");
        assert!(owner.matches(&[owner.selector()]));
    }
}
