//! The other servers, as they last said they were.

use std::{collections::BTreeSet, net::IpAddr};

use rand::seq::IteratorRandom;
use reqwest::Url;
use serde::{Deserialize, Deserializer, de};

/// A server that shares this one's store, and can be asked.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Peer {
    #[serde(rename = "node_id")]
    pub(crate) id: String,
    #[serde(deserialize_with = "url")]
    pub(crate) url: Url,
    host: String,
    token: String,
    /// Every name of its loaded models.
    held: BTreeSet<String>,
    /// Every name that it answers to.
    names: BTreeSet<String>,
}

fn url<'de, D: Deserializer<'de>>(from: D) -> Result<Url, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(de::Error::custom)
}

/// What this server has of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Have {
    Nothing,
    /// It would be loaded first.
    Known,
    Loaded,
}

impl Peer {
    /// What loops back is another machine's own.
    pub(super) fn is_reachable_from(&self, host: &str) -> bool {
        let address = self.url.host_str().and_then(|name| {
            let name = name.trim_start_matches('[').trim_end_matches(']');
            name.parse::<IpAddr>().ok()
        });
        match address {
            Some(address) if address.is_unspecified() => false,
            Some(address) => !address.is_loopback() || self.host == host,
            None => true,
        }
    }

    pub(super) fn sign(&self) -> String {
        sign(&self.id, &self.token)
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn have(&self, name: &str) -> Have {
        if self.held.contains(name) {
            Have::Loaded
        } else if self.names.contains(name) {
            Have::Known
        } else {
            Have::Nothing
        }
    }
}

pub(super) fn sign(id: &str, token: &str) -> String {
    format!("{id} {token}")
}

/// The server that has more of what is asked for than this one has: all of it where this one lacks some, else what this one would
/// have to load. `None` where that is none.
pub(super) fn better(peers: &[Peer], names: &[&str], here: impl Fn(&str) -> Have) -> Option<Peer> {
    let least = |have: &dyn Fn(&str) -> Have| names.iter().map(|name| have(name)).min();
    let here = least(&here)?;
    let best = peers
        .iter()
        .filter_map(|peer| Some((least(&|name| peer.have(name))?, peer)));
    let most = best.clone().map(|(has, _)| has).max()?;
    let able = best.filter(|(has, _)| *has == most && most > here);
    able.choose(&mut rand::rng()).map(|(_, peer)| peer.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(url: &str, held: &[&str], names: &[&str]) -> Peer {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Peer {
            id: url.to_owned(),
            url: url.parse().unwrap(),
            host: "box".to_owned(),
            token: String::new(),
            held: set(held),
            names: set(names),
        }
    }

    #[test]
    fn another_server_is_asked_only_where_it_has_more() {
        let peers = [
            peer("http://10.0.0.1", &["a"], &["a", "b", "c"]),
            peer("http://10.0.0.2", &[], &["a", "b"]),
        ];
        let asked =
            |names: &[&str], here: Have| better(&peers, names, |_| here).map(|peer| peer.id);
        let first = Some("http://10.0.0.1".to_owned());
        assert_eq!(asked(&["a"], Have::Loaded), None);
        assert_eq!(asked(&["a"], Have::Known), first);
        assert_eq!(asked(&["b"], Have::Known), None, "loaded nowhere");
        assert!(asked(&["b"], Have::Nothing).is_some());
        assert_eq!(asked(&["a", "c"], Have::Nothing), first);
        assert_eq!(asked(&["d"], Have::Nothing), None);
        assert_eq!(asked(&[], Have::Nothing), None);
    }

    #[test]
    fn another_machines_loopback_is_out_of_reach() {
        let at = |url: &str, host| peer(url, &[], &[]).is_reachable_from(host);
        assert!(at("http://127.0.0.1:8000", "box"));
        assert!(!at("http://127.0.0.1:8000", "laptop"));
        assert!(!at("http://[::1]:8000", "laptop"));
        assert!(!at("http://0.0.0.0:8000", "box"));
        assert!(at("http://192.168.1.4:8000", "laptop"));
        assert!(at("http://box.local:8000", "laptop"));
    }
}
