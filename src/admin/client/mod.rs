//! `hubbub admin`: makes one request to the API of a running server and shows the answer.

mod table;

use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use serde_json::Value;

use super::AdminKeys;
use crate::config::{AdminBody, AdminCall, Config};

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It cannot even be asked.
    #[error("{0}")]
    Unusable(String),
    /// The server cannot be reached, or breaks off.
    #[error("{url}: {what}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// What happened.
        what: String,
    },
    /// The server says no.
    #[error("{0}")]
    Refused(String),
    /// The answer cannot be written.
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Makes the request and writes the answer to standard output: as a table for people on a terminal, otherwise as it
/// came.
pub fn run(config: &Config, call: &AdminCall) -> Result<(), ClientError> {
    let answer = ask(config, call)?;
    let mut out = io::stdout();
    if call.json || !out.is_terminal() {
        writeln!(out, "{}", answer.trim_end())?;
        return Ok(());
    }
    match serde_json::from_str::<Value>(&answer) {
        Ok(value) => write!(out, "{}", table::render(&value))?,
        Err(_) => writeln!(out, "{answer}")?,
    }
    Ok(())
}

fn ask(config: &Config, call: &AdminCall) -> Result<String, ClientError> {
    let key_file = call.key_file.as_deref().or(config.admin_key_file.as_deref());
    let key_file = key_file
        .ok_or_else(|| ClientError::Unusable("the server wants an admin key: name its file with --key-file".into()))?;
    let keys = AdminKeys::read(key_file)
        .map_err(|error| ClientError::Unusable(format!("{} cannot be used: {error}", key_file.display())))?;
    let url = match (&call.url, config.admin_listen.first()) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(address)) => format!("http://{address}"),
        (None, None) => return Err(ClientError::Unusable("admin_listen is off: name the server with --url".into())),
    };
    let body = match &call.body {
        AdminBody::Empty => Vec::new(),
        AdminBody::Json(text) => text.clone().into_bytes(),
        AdminBody::File(file) => read_body(file)?,
    };
    request(&url, call, &keys.header(), body)
}

fn read_body(file: &std::path::Path) -> Result<Vec<u8>, ClientError> {
    let read = if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    read.map_err(|error| ClientError::Unusable(format!("{}: {error}", file.display())))
}

fn request(url: &str, call: &AdminCall, key: &[u8], body: Vec<u8>) -> Result<String, ClientError> {
    let fails = |what: String| ClientError::Unreachable { url: url.to_owned(), what };
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT));
    let agent = ureq::Agent::new_with_config(config.build());
    let target = format!("{url}/api/v1{}", call.path);
    let answer = match call.method {
        "POST" => {
            let request = agent.post(&target).header("Authorization", key);
            request.header("Content-Type", "application/json").send(&body)
        }
        "DELETE" => agent.delete(&target).header("Authorization", key).call(),
        _ => agent.get(&target).header("Authorization", key).call(),
    };
    let mut answer = answer.map_err(|error| fails(error.to_string()))?;
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
    let text = text.map_err(|error| fails(error.to_string()))?;
    if answer.status().is_success() {
        return Ok(text);
    }
    let problem: Option<Value> = serde_json::from_str(&text).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    Err(ClientError::Refused(format!("{}: {}", answer.status(), table::plain(detail.unwrap_or(&text)))))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A batch of orders may take its time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
