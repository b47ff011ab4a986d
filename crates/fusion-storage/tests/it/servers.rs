//! Database servers of a test's own.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// Ends with the value, and with this process however that ends.
pub(crate) struct Server {
    pub(crate) uri: String,
    _child: Option<EndsWithStdin>,
}

/// The program ends when its standard input does.
struct EndsWithStdin(Child);

impl Drop for EndsWithStdin {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The server that `MONGO_URI` names, or a new one; `None` where there is none, and the test says that it was skipped.
pub(crate) fn mongo() -> Option<Server> {
    match std::env::var("MONGO_URI") {
        Ok(uri) if !uri.is_empty() => Some(Server { uri, _child: None }),
        _ => start("mongo", None),
    }
}

pub(crate) fn start(kind: &str, port: Option<u16>) -> Option<Server> {
    let mut command = Command::new("python3");
    command.args(["../../scripts/test_server.py", kind]);
    if let Some(port) = port {
        command.args(["--port", &port.to_string()]);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let output = child.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    let child = EndsWithStdin(child);
    match line.trim().split_once(' ') {
        Some(("ready", uri)) => Some(Server {
            uri: uri.to_owned(),
            _child: Some(child),
        }),
        other => {
            let why = other.map_or("the server didn't start", |(_, why)| why);
            eprintln!("skipped: {why}");
            None
        }
    }
}
