//! `limit` and `offset` of a list.

use fusion_types::{Error, Result, page::Window};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WindowParams {
    limit: Option<i64>,
    offset: Option<i64>,
}

impl WindowParams {
    /// # Errors
    /// `invalid_value`, naming the parameter.
    pub(crate) fn window(&self) -> Result<Window> {
        let limit = self.limit.unwrap_or(i64::from(Window::DEFAULT_LIMIT));
        let limit = u32::try_from(limit)
            .ok()
            .filter(|limit| (1..=Window::MOST).contains(limit));
        let limit = limit.ok_or_else(|| {
            Error::invalid(
                "limit",
                format!("limit: must be from 1 to {}", Window::MOST),
            )
        })?;
        let offset = u64::try_from(self.offset.unwrap_or(0))
            .map_err(|_| Error::invalid("offset", "offset: must not be negative"))?;
        Ok(Window { limit, offset })
    }
}
