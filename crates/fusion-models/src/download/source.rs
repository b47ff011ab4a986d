//! What is to be pulled.

use std::str::FromStr;

use fusion_types::{Error, Result};

/// `[hf:]owner/name[:part]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) owner: String,
    pub(super) name: String,
    /// A file's name, or a part of it such as `Q4_K_M`.
    pub(super) part: Option<String>,
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::invalid(
                "source",
                format!("{text:?} is not of the form owner/name[:file-or-quant]"),
            )
        };
        let repository = text.strip_prefix("hf:").unwrap_or(text);
        let (repository, part) = repository
            .split_once(':')
            .map_or((repository, None), |(name, part)| (name, Some(part)));
        let (owner, name) = repository.split_once('/').ok_or_else(refuse)?;
        if !is_plain(owner) || !is_plain(name) || part.is_some_and(str::is_empty) {
            return Err(refuse());
        }
        Ok(Self {
            owner: owner.to_owned(),
            name: name.to_owned(),
            part: part.map(str::to_owned),
        })
    }
}

/// A name that is safe as a folder and in an address.
fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_repositories_and_parts() {
        let source: Source = "hf:Qwen/Qwen2.5-GGUF:Q4_K_M".parse().unwrap();
        assert_eq!(
            (source.owner.as_str(), source.name.as_str()),
            ("Qwen", "Qwen2.5-GGUF")
        );
        assert_eq!(source.part.as_deref(), Some("Q4_K_M"));
        assert_eq!("a/b".parse::<Source>().unwrap().part, None);
        for bad in ["", "name", "a/b/c", "../b", "a/..", "a/b:", "a/b?x", "hf:a"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }
}
