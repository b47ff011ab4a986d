//! Signatures by which a receiver knows that a delivery is ours: Standard Webhooks, and the older header beside it.

use std::iter;

use base64::{Engine, engine::general_purpose::STANDARD};
use fusion_types::{Error, Result, id::DeliveryId};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";
const LONGEST: usize = 512;
const MADE_BYTES: usize = 32;

/// The bytes that sign.
pub(super) struct Key(Vec<u8>);

impl Key {
    /// `whsec_` and base64 is decoded; any other secret is its own bytes.
    ///
    /// # Errors
    /// `invalid_value` for an empty or overlong secret, or bad base64 after `whsec_`.
    pub(super) fn read(secret: &str) -> Result<Self> {
        let refused = |message: &str| Error::invalid("secret", message);
        if secret.is_empty() || secret.len() > LONGEST {
            return Err(refused("the secret must have from 1 to 512 bytes"));
        }
        let key = match secret.strip_prefix(PREFIX) {
            Some(encoded) => STANDARD
                .decode(encoded)
                .map_err(|_| refused("what follows whsec_ must be base64"))?,
            None => secret.as_bytes().to_vec(),
        };
        if key.is_empty() {
            return Err(refused("what follows whsec_ must not be empty"));
        }
        Ok(Self(key))
    }

    /// `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`; the timestamp is in seconds.
    fn standard(&self, id: &str, timestamp: i64, body: &[u8]) -> Result<String> {
        let head = format!("{id}.{timestamp}.");
        Ok(format!(
            "v1,{}",
            STANDARD.encode(self.mac(&[head.as_bytes(), body])?)
        ))
    }

    /// `sha256=` and the hex of the HMAC-SHA256 of the body alone.
    fn of_body(&self, body: &[u8]) -> Result<String> {
        Ok(format!("sha256={}", hex::encode(self.mac(&[body])?)))
    }

    fn mac(&self, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)
            .map_err(|error| Error::internal(error.to_string()))?;
        for part in parts {
            mac.update(part);
        }
        Ok(mac.finalize().into_bytes().to_vec())
    }
}

/// A secret in the Standard Webhooks form.
pub(super) fn made() -> String {
    format!(
        "{PREFIX}{}",
        STANDARD.encode(rand::random::<[u8; MADE_BYTES]>())
    )
}

/// What the headers of one POST say.
pub(super) struct Signed<'a> {
    pub(super) delivery: &'a DeliveryId,
    pub(super) webhook: &'a str,
    pub(super) event: &'a str,
    /// Seconds since 1970, of the attempt.
    pub(super) timestamp: i64,
    pub(super) body: &'a [u8],
}

impl Signed<'_> {
    /// Signed with the key, and with older ones that a receiver may still know.
    pub(super) fn headers(&self, key: &Key, older: &[Key]) -> Result<Vec<(String, String)>> {
        let id = self.delivery.as_str();
        let mut signatures = Vec::new();
        for key in iter::once(key).chain(older) {
            signatures.push(key.standard(id, self.timestamp, self.body)?);
        }
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", self.timestamp.to_string()),
            ("webhook-signature", signatures.join(" ")),
            ("X-Webhook-Event", self.event.to_owned()),
            ("X-Webhook-ID", self.webhook.to_owned()),
            ("X-Webhook-Signature", key.of_body(self.body)?),
        ];
        Ok(headers
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_reference_implementation() {
        let body = br#"{"event":"job.completed"}"#;
        let made = made();
        for (secret, reference) in [
            (
                made.as_str(),
                standardwebhooks::Webhook::new(&made).unwrap(),
            ),
            (
                "plain secret",
                standardwebhooks::Webhook::from_bytes(b"plain secret".to_vec()).unwrap(),
            ),
        ] {
            let ours = Key::read(secret)
                .unwrap()
                .standard("dlv-1", 1_763_373_600, body)
                .unwrap();
            assert_eq!(ours, reference.sign("dlv-1", 1_763_373_600, body).unwrap());
        }
    }

    /// The first test case of RFC 4231.
    #[test]
    fn the_older_header_is_hmac_sha256_in_hex() {
        let key = Key(vec![0x0b; 20]);
        let expected = "sha256=b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(key.of_body(b"Hi There").unwrap(), expected);
    }

    /// A receiver with either secret takes it.
    #[test]
    fn two_keys_sign_one_delivery() {
        let (new, old) = (made(), made());
        let id = DeliveryId::from_text("dlv-1");
        let now = fusion_types::Timestamp::now().as_seconds();
        let signed = Signed {
            delivery: &id,
            webhook: "wh-1",
            event: "job.completed",
            timestamp: now,
            body: b"{}",
        };
        let older = [Key::read(&old).unwrap()];
        let headers = signed.headers(&Key::read(&new).unwrap(), &older).unwrap();
        let headers: http::HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<http::HeaderMap>();
        for secret in [&new, &old] {
            let receiver = standardwebhooks::Webhook::new(secret).unwrap();
            receiver.verify(b"{}", &headers).unwrap();
        }
        let stranger = standardwebhooks::Webhook::new(&made()).unwrap();
        assert!(stranger.verify(b"{}", &headers).is_err());
    }

    #[test]
    fn bad_secrets_are_refused() {
        for secret in ["", "whsec_", "whsec_not base64!"] {
            assert!(Key::read(secret).is_err(), "{secret:?}");
        }
    }
}
