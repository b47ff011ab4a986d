//! The one guarded way out: http(s) to addresses that are public, or that the configuration allows.

mod allow;
mod fetch;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Result,
    outgoing::{OutRequest, OutResponse, Outgoing},
};
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};

pub(crate) use allow::Allow;

/// Sends nothing to private, loopback, link-local or metadata addresses unless allowed, follows no redirect, asks no proxy.
pub(crate) struct Guarded {
    client: Client,
    allow: Arc<Allow>,
}

impl Guarded {
    /// # Errors
    /// When TLS can't be set up.
    pub(crate) fn new(allow: Allow) -> Result<Self> {
        let allow = Arc::new(allow);
        let client = Client::builder()
            .dns_resolver(Arc::new(CheckedResolver {
                allow: allow.clone(),
            }))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("fusiond/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|error| Error::internal(format!("can't set up outgoing requests: {error}")))?;
        Ok(Self { client, allow })
    }

    fn checked(&self, url: &str) -> Result<Url> {
        let refuse = |why: &str| {
            Error::new(
                ErrorCode::UrlNotAllowed,
                format!("the URL is not allowed: {why}"),
            )
        };
        let url = Url::parse(url).map_err(|error| refuse(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("only http and https are"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it holds credentials"));
        }
        let host = url.host_str().ok_or_else(|| refuse("it names no host"))?;
        // A name is checked by what it resolves to, when connecting; an address never meets the resolver.
        let literal = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        let private_name = host.eq_ignore_ascii_case("localhost") && !self.allow.name(host);
        if private_name && !self.allow.address(IpAddr::from([127, 0, 0, 1])) {
            return Err(refuse(
                "localhost is this machine; outgoing.allow can allow it",
            ));
        }
        match literal {
            Ok(address) if !self.allow.address(address) => Err(refuse(
                "its address is private or special; outgoing.allow can allow it",
            )),
            _ => Ok(url),
        }
    }
}

#[async_trait]
impl Outgoing for Guarded {
    fn check(&self, url: &str) -> Result<()> {
        self.checked(url).map(drop)
    }

    async fn post(&self, request: OutRequest) -> Result<OutResponse> {
        let url = self.checked(&request.url)?;
        let headers = headers(&request.headers)?;
        let answer = self
            .client
            .post(url)
            .headers(headers)
            .body(request.body)
            .timeout(request.timeout)
            .send()
            .await;
        let answer = answer.map_err(|error| explain(&error))?;
        let retry_after = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        // The body is nobody's concern, and an endless one must not hold the connection: it goes with the answer.
        Ok(OutResponse {
            status: answer.status().as_u16(),
            retry_after: retry_after.map(Duration::from_secs),
        })
    }
}

fn headers(pairs: &[(String, String)]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::try_from(name.as_str())
            .map_err(|error| Error::internal(error.to_string()))?;
        let value = HeaderValue::try_from(value.as_str())
            .map_err(|error| Error::internal(error.to_string()))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// What the receiver should know of why it wasn't reached; never the URL, which may hold a token.
fn explain(error: &reqwest::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<AddressRefused>() {
            return Error::new(ErrorCode::UrlNotAllowed, refused.to_string());
        }
        source = cause.source();
    }
    if error.is_timeout() {
        return Error::new(ErrorCode::Timeout, "no answer within the time limit");
    }
    let what = if error.is_connect() {
        "can't connect"
    } else {
        "the exchange broke off"
    };
    Error::new(ErrorCode::EngineUnavailable, what)
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the URL is not allowed: every address of its host is private or special; outgoing.allow can allow it"
)]
struct AddressRefused;

/// Resolves a name and keeps the allowed addresses only, so that no answer of a name server leads inside.
struct CheckedResolver {
    allow: Arc<Allow>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = self.allow.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let name_allowed = allow.name(&host);
            let allowed: Vec<SocketAddr> = found
                .filter(|address| name_allowed || allow.address(address.ip()))
                .collect();
            if allowed.is_empty() {
                return Err(AddressRefused.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
