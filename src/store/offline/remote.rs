//! The backup of a server that runs, asked for over its admin port.

use std::io::{Read, Write};
use std::time::Duration;

use super::OfflineError;
use super::dump::{Counts, Line};

/// Writes what [`super::export`] would, as the server at `admin` (`http://host:port`) gives it. `authorization` is the
/// header that shows the admin key. Memory is bounded.
pub fn fetch(admin: &str, authorization: &[u8], out: &mut dyn Write) -> Result<Counts, OfflineError> {
    let fails = |what: String| OfflineError::Server { address: admin.to_owned(), what };
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_connect(Some(ANSWER_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT));
    let agent = ureq::Agent::new_with_config(config.build());
    let url = format!("{}/api/v1/store/backup", admin.trim_end_matches('/'));
    let answer = agent.get(&url).header("Authorization", authorization).call();
    let mut answer = answer.map_err(|error| fails(error.to_string()))?;
    if answer.status() != 200 {
        let why = answer.body_mut().with_config().limit(REFUSAL_BYTES_MAX).read_to_string();
        return Err(fails(format!("{}: {}", answer.status(), why.unwrap_or_default().trim_end())));
    }
    let mut body = answer.body_mut().as_reader();
    let (mut buffer, mut end) = (vec![0; BUFFER_BYTES], Vec::new());
    loop {
        let read = body.read(&mut buffer);
        let read = read.map_err(|error| fails(format!("it broke off ({error}): what was written is no backup")))?;
        if read == 0 {
            break;
        }
        let source = |source| OfflineError::Io { what: "the output".to_owned(), source };
        out.write_all(&buffer[..read]).map_err(source)?;
        end.extend_from_slice(&buffer[..read]);
        end.drain(..end.len().saturating_sub(END_BYTES_MAX));
    }
    counts_at_end(&end).ok_or(OfflineError::Interrupted)
}

/// What the last line says, if it is the one that comes last, and whole.
fn counts_at_end(end: &[u8]) -> Option<Counts> {
    let line = end.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
    match serde_json::from_slice(line) {
        Ok(Line::End(counts)) => Some(counts),
        _ => None,
    }
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 64 * 1024;
/// More than the last line has.
const END_BYTES_MAX: usize = 1_024;
const REFUSAL_BYTES_MAX: u64 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;

    /// Answers one request with these bytes and closes the connection; gives its address.
    fn server(answer: &'static str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = std::io::BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while request.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    fn fetched(answer: &'static str) -> Result<(Counts, String), String> {
        let mut out = Vec::new();
        let counts = fetch(&server(answer), b"Bearer key", &mut out).map_err(|error| error.to_string())?;
        Ok((counts, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn only_what_has_an_end_is_a_backup() {
        const WHOLE: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\n{\"a\"}\r\n1\r\n\n\r\n40\r\n{\"end\":{\"rooms\":1,\"messages\":2,\"cursors\":3,\"letters\":4}}       \n\r\n0\r\n\r\n";
        let (counts, text) = fetched(WHOLE).unwrap();
        assert_eq!(counts, Counts { rooms: 1, messages: 2, cursors: 3, letters: 4, sanctions: 0 });
        assert!(text.starts_with("{\"a\"}\n{\"end\""), "{text}");
        let cut_off = fetched("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\"}\r\n").unwrap_err();
        assert!(cut_off.contains("no backup"), "{cut_off}");
        let too_short =
            fetched("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n").unwrap_err();
        assert!(too_short.contains("no backup"), "{too_short}");
        let refused = fetched("HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nno key!\n").unwrap_err();
        assert!(refused.ends_with("403 Forbidden: no key!"), "{refused}");
    }
}
