//! The other servers, as they last said they were.

use std::net::IpAddr;

use fusion_models::choose_among;
use fusion_types::{
    ErrorCode, Result,
    inference::{Choice, Needs},
    model::{ModelCard, ModelStatus},
    model_ref::ModelRef,
};
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
    /// Its models.
    cards: Vec<ModelCard>,
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

    pub(super) fn sent(&self, id: &str, token: &str) -> bool {
        self.id == id && self.token == token
    }
}

/// What a server with these models has of one that is asked for.
pub(super) fn have(cards: &[ModelCard], model: &ModelRef) -> Have {
    let Ok(choice) = choose_among(cards, model, &Needs::default()) else {
        return Have::Nothing;
    };
    let card = cards.iter().find(|card| card.id == choice.model);
    match card.map(|card| card.status) {
        None | Some(ModelStatus::Failed) => Have::Nothing,
        // Any will do: none is better for being loaded elsewhere.
        _ if matches!(model, ModelRef::Auto(_)) => Have::Loaded,
        Some(ModelStatus::Unloaded) => Have::Known,
        Some(_) => Have::Loaded,
    }
}

/// The server that has more of the model than this one has. `None` where that is none.
pub(super) fn better(peers: &[Peer], model: &ModelRef, here: Have) -> Option<Peer> {
    let have = |peer: &Peer| have(&peer.cards, model);
    let most = peers.iter().map(have).max()?;
    let best = peers
        .iter()
        .filter(|peer| have(peer) == most && most > here);
    best.choose(&mut rand::rng()).cloned()
}

/// The first choice that one of them has, or why those that know the model can't. `None` where none does.
pub(super) fn choose(peers: &[Peer], model: &ModelRef, needs: &Needs) -> Option<Result<Choice>> {
    let choices = peers
        .iter()
        .map(|peer| choose_among(&peer.cards, model, needs));
    let is_known = |choice: &Result<Choice>| !matches!(choice, Err(error) if error.code == ErrorCode::ModelNotFound);
    choices.filter(is_known).max_by_key(Result::is_ok)
}

#[cfg(test)]
mod tests {
    use fusion_types::model::Capability;
    use serde_json::json;

    use super::*;

    fn peer(url: &str, models: &[(&str, &str)]) -> Peer {
        let cards = models.iter().map(|(id, status)| card(id, status));
        Peer {
            id: url.to_owned(),
            url: url.parse().unwrap(),
            host: "box".to_owned(),
            token: String::new(),
            cards: cards.collect(),
        }
    }

    fn card(id: &str, status: &str) -> ModelCard {
        serde_json::from_value(json!({
            "id": id, "model_type": "lm", "status": status, "tags": [], "capabilities": ["chat"],
            "file_bytes": 1, "load": 0.0, "slots": 1, "pinned": false, "priority": "normal",
            "aliases": [format!("{id}-alias")], "adapters": [], "created_at": "2026-01-01T00:00:00Z",
            "metadata": {},
        }))
        .unwrap()
    }

    #[test]
    fn another_server_is_asked_only_where_it_has_more() {
        let loaded = peer(
            "http://10.0.0.1",
            &[("a", "loaded"), ("b", "unloaded"), ("c", "failed")],
        );
        let peers = [
            loaded,
            peer("http://10.0.0.2", &[("a", "unloaded"), ("b", "unloaded")]),
        ];
        let asked = |name: &str, here: Have| {
            better(&peers, &name.parse().unwrap(), here).map(|peer| peer.id)
        };
        let first = Some("http://10.0.0.1".to_owned());
        assert_eq!(asked("a", Have::Loaded), None);
        assert_eq!(asked("a", Have::Known), first);
        assert_eq!(asked("a-alias", Have::Known), first);
        assert_eq!(asked("b", Have::Known), None, "loaded nowhere");
        assert!(asked("b", Have::Nothing).is_some());
        assert_eq!(asked("c", Have::Nothing), None, "it failed");
        assert_eq!(asked("d", Have::Nothing), None);
        assert!(asked("auto:chat", Have::Nothing).is_some());
        assert_eq!(asked("auto:chat", Have::Loaded), None);
        assert_eq!(asked("auto:rerank", Have::Nothing), None);
    }

    #[test]
    fn what_a_model_elsewhere_cannot_do_is_known_here() {
        let peers = [peer("http://10.0.0.1", &[("a", "loaded")])];
        let choose = |name: &str, capability| {
            let needs = Needs {
                capability: Some(capability),
                min_context: None,
            };
            choose(&peers, &name.parse().unwrap(), &needs)
        };
        let chosen = choose("a-alias", Capability::Chat).unwrap().unwrap();
        assert_eq!(chosen.model.as_str(), "a");
        let refused = choose("a", Capability::Rerank).unwrap().unwrap_err();
        assert_eq!(refused.code, ErrorCode::UnsupportedOperation);
        assert!(choose("b", Capability::Chat).is_none());
    }

    #[test]
    fn another_machines_loopback_is_out_of_reach() {
        let at = |url: &str, host| peer(url, &[]).is_reachable_from(host);
        assert!(at("http://127.0.0.1:8000", "box"));
        assert!(!at("http://127.0.0.1:8000", "laptop"));
        assert!(!at("http://[::1]:8000", "laptop"));
        assert!(!at("http://0.0.0.0:8000", "box"));
        assert!(at("http://192.168.1.4:8000", "laptop"));
        assert!(at("http://box.local:8000", "laptop"));
    }
}
