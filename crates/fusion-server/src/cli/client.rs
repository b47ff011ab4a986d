//! Commands that talk to a running server.

use clap::{Arg, ArgAction, ArgMatches, Command};
use fusion_types::{Error, ErrorCode, Result, error::ErrorBody};
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};

use super::Output;

pub(super) fn commands() -> Vec<Command> {
    let url = || {
        let help = "the server's address";
        Arg::new("url")
            .long("url")
            .env("FUSIOND_URL")
            .default_value("http://127.0.0.1:8000")
            .help(help)
    };
    let model = || Arg::new("model").required(true);
    vec![
        Command::new("models")
            .about("list the models that are loaded or can be")
            .arg(url()),
        Command::new("load")
            .about("load a model")
            .arg(url())
            .arg(model().help("a file, a folder, or a name in the models folder"))
            .arg(
                Arg::new("type")
                    .long("type")
                    .default_value("lm")
                    .help("the model's type"),
            )
            .arg(
                Arg::new("dry-run")
                    .long("dry-run")
                    .action(ArgAction::SetTrue)
                    .help("say what would happen"),
            ),
        Command::new("unload")
            .about("unload a model and free its memory")
            .arg(url())
            .arg(model().help("the model's id"))
            .arg(
                Arg::new("force")
                    .long("force")
                    .action(ArgAction::SetTrue)
                    .help("end the requests that use it"),
            ),
    ]
}

pub(super) async fn run(name: &str, arguments: &ArgMatches, output: &Output) -> Result<()> {
    let server = Server::new(
        arguments
            .get_one::<String>("url")
            .map_or("", String::as_str),
    )?;
    match name {
        "models" => models(&server, output).await,
        "load" => load(&server, arguments, output).await,
        "unload" => unload(&server, arguments, output).await,
        _ => Err(Error::not_implemented(name)),
    }
}

async fn models(server: &Server, output: &Output) -> Result<()> {
    let answer = server
        .ask(Method::GET, &["v1", "models"], &[], None)
        .await?;
    if output.json {
        output.json(&answer);
        return Ok(());
    }
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> = answer["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let memory = format!("{:.2} GB", row["vram_usage_gb"].as_f64().unwrap_or(0.0));
            let context = row["context_length"]
                .as_u64()
                .map_or_else(|| "-".to_owned(), |length| length.to_string());
            vec![
                text(row, "id"),
                text(row, "type"),
                text(row, "status"),
                memory,
                context,
            ]
        })
        .collect();
    output.table(&["MODEL", "TYPE", "STATUS", "MEMORY", "CONTEXT"], &rows);
    Ok(())
}

async fn load(server: &Server, arguments: &ArgMatches, output: &Output) -> Result<()> {
    let model = argument(arguments, "model");
    let dry_run = arguments.get_flag("dry-run");
    let path = std::path::absolute(model).ok().filter(|path| path.exists());
    let path = path.map_or_else(
        || model.to_owned(),
        |path| path.to_string_lossy().into_owned(),
    );
    let body = json!({ "model_path": path, "model_type": argument(arguments, "type") });
    let query = [("dry_run", dry_run)];
    let answer = server
        .ask(Method::POST, &["v1", "models", "load"], &query, Some(&body))
        .await?;
    if output.json || dry_run {
        output.json(&answer);
        return Ok(());
    }
    output.text(&format!(
        "{} is loaded and holds {} GB",
        argument(arguments, "model"),
        answer["vram_usage_gb"]
    ));
    Ok(())
}

async fn unload(server: &Server, arguments: &ArgMatches, output: &Output) -> Result<()> {
    let query = [("force", arguments.get_flag("force"))];
    let path = ["v1", "models", argument(arguments, "model"), "unload"];
    let answer = server.ask(Method::DELETE, &path, &query, None).await?;
    if output.json {
        output.json(&answer);
        return Ok(());
    }
    output.text(&format!(
        "{} is unloaded and freed {} GB",
        argument(arguments, "model"),
        answer["vram_freed_gb"]
    ));
    Ok(())
}

fn argument<'a>(arguments: &'a ArgMatches, name: &str) -> &'a str {
    arguments.get_one::<String>(name).map_or("", String::as_str)
}

struct Server {
    client: Client,
    url: Url,
}

impl Server {
    fn new(url: &str) -> Result<Self> {
        let url = Url::parse(url)
            .map_err(|error| Error::invalid("url", format!("{url:?} is not a URL: {error}")))?;
        if url.cannot_be_a_base() {
            return Err(Error::invalid(
                "url",
                format!("{url} is not a server's address"),
            ));
        }
        let client = Client::builder()
            .no_proxy()
            .build()
            .map_err(|error| Error::internal(error.to_string()))?;
        Ok(Self { client, url })
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, bool)],
        body: Option<&Value>,
    ) -> Result<Value> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        for (name, value) in query {
            url.query_pairs_mut()
                .append_pair(name, if *value { "true" } else { "false" });
        }
        let request = self.client.request(method, url);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let unreachable = |error: reqwest::Error| {
            let message = format!(
                "no answer from {}: {error}; is `fusiond serve` running there?",
                self.url
            );
            Error::new(ErrorCode::EngineUnavailable, message)
        };
        let answer = request.send().await.map_err(unreachable)?;
        let failed = !answer.status().is_success();
        let body: Value = answer.json().await.map_err(unreachable)?;
        if failed {
            let error: ErrorBody =
                serde_json::from_value(body).map_err(|error| Error::internal(error.to_string()))?;
            return Err(error.into_error(ErrorCode::InternalError));
        }
        Ok(body)
    }
}
