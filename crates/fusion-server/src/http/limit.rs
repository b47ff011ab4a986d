//! How often a client may ask.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    Extension,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fusion_types::{Error, ErrorCode};

use super::{App, Failure};

/// Where a connection comes from.
#[derive(Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

pub(super) async fn limit(
    State(app): State<Arc<App>>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    request: Request,
    next: Next,
) -> Response {
    let Some(rate) = app.limits.rate else {
        return next.run(request).await;
    };
    match app.storage.admit(&name(address), rate).await {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            let message = format!(
                "too many requests; the next one is taken in {:.1} s",
                wait.as_secs_f64()
            );
            let error = Error::new(ErrorCode::RateLimitExceeded, message);
            Failure(error.with_retry_after(wait)).into_response()
        }
    }
}

/// One of IPv6 has a whole network of 64 bits, as a rule.
fn name(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_network() {
        let name = |text: &str| name(text.parse().unwrap());
        assert_eq!(name("10.1.2.3"), "10.1.2.3");
        assert_eq!(name("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(name("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(name("2001:db8:1:2:ffff::"), "2001:db8:1:2::");
    }
}
