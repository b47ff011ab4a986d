//! Record keys that list a tenant's things newest first: a store lists keys in rising order, and ids rise with time.

use fusion_types::Tenant;

/// What the keys of a tenant start with. In hex, so that no tenant's name can hold another's.
pub(crate) fn prefix(tenant: &Tenant) -> String {
    format!("{}/", hex::encode(tenant.as_str()))
}

pub(crate) fn key(tenant: &Tenant, id: &str) -> String {
    format!(
        "{}{}",
        prefix(tenant),
        id.chars().map(turned).collect::<String>()
    )
}

/// Each hex digit by its complement: turning twice gives the same again.
fn turned(character: char) -> char {
    match character {
        '0'..='9' | 'a'..='f' => character
            .to_digit(16)
            .and_then(|digit| char::from_digit(15 - digit, 16))
            .unwrap_or(character),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use fusion_types::id::FileId;

    use super::*;

    #[test]
    fn a_newer_id_has_the_smaller_key() {
        let tenant = Tenant::default();
        let key = |text: &str| key(&tenant, text);
        assert!(key("file-0190a") > key("file-0190b"));
        assert!(key("file-0189f") > key("file-01900"));
        assert_ne!(key("file-1"), key("batch_1"));
        let id = FileId::generate();
        assert!(key(id.as_str()).starts_with(&prefix(&tenant)));
    }

    #[test]
    fn no_tenant_is_within_another() {
        let (one, other) = (Tenant::new("a"), Tenant::new("a/b"));
        assert!(!key(&other, "x").starts_with(&prefix(&one)));
    }
}
