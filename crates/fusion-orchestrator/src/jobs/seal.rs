//! Encryption of inputs while they wait in the store: AES-256-GCM (NIST SP 800-38D), bound to the job.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use fusion_types::{Error, ErrorCode, Result, id::JobId};
use serde_json::Value;

/// Begins an encrypted input, which is a text; others are objects. The rest is nonce, ciphertext and tag in base64.
const MARK: &str = "aes-256-gcm:";

pub struct Seal {
    key: RandomizedNonceKey,
    seals_new: bool,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal")
            .field("seals_new", &self.seals_new)
            .finish_non_exhaustive()
    }
}

impl Seal {
    /// Without `seals_new` it only opens what was encrypted before.
    ///
    /// # Errors
    /// `internal_error`, never with a key of this length.
    pub fn new(key: &[u8; 32], seals_new: bool) -> Result<Self> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key)
            .map_err(|_| Error::internal("the key for inputs can't be used"))?;
        Ok(Self { key, seals_new })
    }

    pub(super) fn close(&self, id: &JobId, input: Value) -> Result<Value> {
        if !self.seals_new {
            return Ok(input);
        }
        let mut text =
            serde_json::to_vec(&input).map_err(|error| Error::internal(error.to_string()))?;
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(id.as_str()), &mut text)
            .map_err(|_| Error::internal("the input can't be encrypted"))?;
        let sealed = [nonce.as_ref().as_slice(), &text].concat();
        Ok(Value::from(format!(
            "{MARK}{}",
            STANDARD_NO_PAD.encode(sealed)
        )))
    }

    fn opened(&self, id: &JobId, sealed: &str) -> Option<Value> {
        let mut sealed = STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self
            .key
            .open_in_place(nonce, Aad::from(id.as_str()), text)
            .ok()?;
        serde_json::from_slice(text).ok()
    }
}

/// The input as it was handed in.
///
/// # Errors
/// `payload_gone` where it was encrypted with a key that this server hasn't.
pub(super) fn open(seal: Option<&Seal>, id: &JobId, input: Value) -> Result<Value> {
    let Some(sealed) = input.as_str().and_then(|text| text.strip_prefix(MARK)) else {
        return Ok(input);
    };
    seal.and_then(|seal| seal.opened(id, sealed))
        .ok_or_else(|| {
            let message = "the input was encrypted with another key than this server has";
            Error::new(ErrorCode::PayloadGone, message)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_input_is_opened_for_its_job_and_with_its_key_alone() {
        let seal = Seal::new(&[7; 32], true).unwrap();
        let (id, other) = (JobId::generate(), JobId::generate());
        let input = json!({"prompt": "secret"});
        let sealed = seal.close(&id, input.clone()).unwrap();
        assert!(!sealed.to_string().contains("secret"));
        assert_ne!(seal.close(&id, input.clone()).unwrap(), sealed);

        let opens_only = Seal::new(&[7; 32], false).unwrap();
        assert_eq!(open(Some(&opens_only), &id, sealed.clone()).unwrap(), input);
        assert_eq!(opens_only.close(&id, input.clone()).unwrap(), input);
        let another = Seal::new(&[8; 32], true).unwrap();
        for (seal, id) in [(Some(&seal), &other), (Some(&another), &id), (None, &id)] {
            let error = open(seal, id, sealed.clone()).unwrap_err();
            assert_eq!(error.code, ErrorCode::PayloadGone);
        }
        assert_eq!(open(None, &id, input.clone()).unwrap(), input);
    }
}
