//! What can be set about links.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::error::Error;

/// What can be set about links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on, 1 to 8. Default `[::]:7400`. Port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// Where to find other nodes at first, as `host:port`, at most 64. Default none. They are hints: who
    /// answers there is let in by its identity alone. Names are resolved anew at each attempt.
    pub seeds: Vec<String>,
    /// Whether to tell neighbours on the same network where this node is, and to look for theirs, by mDNS. Default
    /// `true`. Without effect while only the loopback is listened on.
    pub mdns: bool,
    /// Most links. Default 512, from 8 to 4,096. Each costs about 100 KiB when idle.
    pub links_max: u32,
    /// Most connections that are still shaking hands, counted apart for those dialled and those accepted.
    /// Default 64, from 4 to 1,024. Fewer make a flood of strangers cheaper, and a restart of a large mesh
    /// slower.
    pub pending_max: u32,
    /// Most streams that one peer may have open here, and as many that this node may open there, over all
    /// protocols. Default 64, from 4 to 256. A peer can make this node hold 256 KiB of unread data a stream.
    pub peer_streams_max: u16,
    /// How long opening a stream may take until the peer has accepted it; also how long a peer may take to
    /// name the protocol of a stream. Default 10 s, from 100 ms to 1 min.
    pub open_timeout: Duration,
    /// After how long of silence a link is given up: nothing acknowledged, not even keepalives. Default 10 s,
    /// from 3 s to 2 min. Shorter finds dead peers sooner and cuts links on bad networks.
    pub silence_max: Duration,
    /// How long to wait before an address is dialled again, at first; doubled by each failure and jittered.
    /// Default 1 s, from 10 ms to 1 min.
    pub retry_min: Duration,
    /// The longest such wait. Default 1 min, from `retry_min` to 1 h.
    pub retry_max: Duration,
    /// How long links may take to end when the node stops. Default 2 s, from 0 to 30 s.
    pub stop_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 7400))],
            seeds: Vec::new(),
            mdns: true,
            links_max: 512,
            pending_max: 64,
            peer_streams_max: 64,
            open_timeout: Duration::from_secs(10),
            silence_max: Duration::from_secs(10),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            stop_grace: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// [`Error::Bounds`], naming the field.
    pub fn check(&self) -> Result<(), Error> {
        let (ms, secs) = (Duration::from_millis, Duration::from_secs);
        let is_seed = |seed: &String| {
            seed.rsplit_once(':').is_some_and(|(host, port)| {
                (1..=255).contains(&host.len()) && port.parse::<u16>().is_ok_and(|port| port != 0)
            })
        };
        let rules = [
            ((1..=8).contains(&self.listen.len()), "mesh.listen", "1 to 8 addresses"),
            (
                self.seeds.len() <= 64 && self.seeds.iter().all(is_seed),
                "mesh.seeds",
                "at most 64 of the form host:port",
            ),
            ((8..=4096).contains(&self.links_max), "mesh.links_max", "8 to 4,096"),
            ((4..=1024).contains(&self.pending_max), "mesh.pending_max", "4 to 1,024"),
            ((4..=256).contains(&self.peer_streams_max), "mesh.peer_streams_max", "4 to 256"),
            ((ms(100)..=secs(60)).contains(&self.open_timeout), "mesh.open_timeout", "100 ms to 1 min"),
            ((secs(3)..=secs(120)).contains(&self.silence_max), "mesh.silence_max", "3 s to 2 min"),
            ((ms(10)..=secs(60)).contains(&self.retry_min), "mesh.retry_min", "10 ms to 1 min"),
            ((self.retry_min..=secs(3600)).contains(&self.retry_max), "mesh.retry_max", "retry_min to 1 h"),
            (self.stop_grace <= secs(30), "mesh.stop_grace", "0 to 30 s"),
        ];
        match rules.into_iter().find(|(is_kept, ..)| !is_kept) {
            Some((_, field, bounds)) => Err(Error::Bounds { field, bounds }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_kept_and_named() {
        #[track_caller]
        fn check(set: fn(&mut Config), expected: Option<&str>) {
            let mut config = Config::default();
            set(&mut config);
            let found = match config.check() {
                Ok(()) => None,
                Err(Error::Bounds { field, .. }) => Some(field),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(found, expected);
        }
        check(|_| {}, None);
        check(|config| config.seeds = vec!["pi.lan:7400".to_owned(), "[::1]:7400".to_owned()], None);
        check(|config| config.listen.clear(), Some("mesh.listen"));
        check(|config| config.seeds = vec!["pi.lan".to_owned()], Some("mesh.seeds"));
        check(|config| config.seeds = vec![":7400".to_owned()], Some("mesh.seeds"));
        check(|config| config.seeds = vec!["pi:0".to_owned()], Some("mesh.seeds"));
        check(|config| config.links_max = 0, Some("mesh.links_max"));
        check(|config| config.pending_max = 5000, Some("mesh.pending_max"));
        check(|config| config.peer_streams_max = 0, Some("mesh.peer_streams_max"));
        check(|config| config.open_timeout = Duration::ZERO, Some("mesh.open_timeout"));
        check(|config| config.silence_max = Duration::from_secs(1), Some("mesh.silence_max"));
        check(|config| config.retry_min = Duration::ZERO, Some("mesh.retry_min"));
        check(|config| config.retry_max = Duration::from_millis(1), Some("mesh.retry_max"));
        check(|config| config.stop_grace = Duration::from_secs(31), Some("mesh.stop_grace"));
    }
}
