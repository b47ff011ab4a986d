//! `[server]`.

use std::{net::IpAddr, time::Duration};

use super::{Reader, megabytes, seconds, text};

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    /// The URL by which other servers reach this one, where the address doesn't say it.
    pub(crate) advertise: Option<String>,
    pub(crate) drain: Duration,
    pub(crate) max_body: usize,
    pub(crate) max_upload: usize,
}

impl Server {
    pub(super) fn take(reader: &mut Reader) -> Self {
        let host: String = reader.take("server.host");
        let host = match host.as_str() {
            "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
            address => address.parse(),
        };
        let host = host.unwrap_or_else(|_| {
            reader.problem("server.host", "is not an address");
            IpAddr::from([127, 0, 0, 1])
        });
        if !host.is_loopback() && !reader.take::<bool>("server.insecure") {
            reader.problem(
                "server.host",
                format!(
                    "{host} can be reached by others, and there is no authentication yet; \
                         set server.insecure = true (--insecure) to allow it"
                ),
            );
        }
        Self {
            host,
            port: reader.take("server.port"),
            advertise: advertise(reader),
            drain: seconds(reader, "server.drain_seconds"),
            max_body: megabytes(reader, "server.max_body_mb"),
            max_upload: megabytes(reader, "server.max_upload_mb"),
        }
    }
}

fn advertise(reader: &mut Reader) -> Option<String> {
    let url = text(reader, "server.advertise")?;
    let is_base = reqwest::Url::parse(&url).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/"
    });
    if !is_base {
        let problem = "must be a URL without a path, such as http://192.168.1.4:8000";
        reader.problem("server.advertise", problem);
    }
    Some(url.trim_end_matches('/').to_owned())
}
