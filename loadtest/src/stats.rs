//! What a relay says of itself at `/stats`: which worker holds how many agents.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(5);
const BYTES_MAX: u64 = 4 << 20;

/// One number of each worker: `agents`, `closed`, whatever it is called there.
///
/// # Errors
/// In words: there is no answer, or not one of a relay.
pub(crate) fn of_workers(address: SocketAddr, name: &str) -> Result<Vec<u64>, String> {
    let body = get(address).map_err(|error| format!("/stats of {address}: {error}"))?;
    numbers(&body, name).ok_or_else(|| format!("/stats of {address} has no `{name}` for each worker"))
}

fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /stats HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    if head.split_ascii_whitespace().nth(1) != Some("200") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(body.to_owned())
}

fn numbers(body: &str, name: &str) -> Option<Vec<u64>> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    body["workers"].as_array()?.iter().map(|worker| worker[name].as_u64()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_read() {
        let body = "{\"workers\": [{\"agents\": 3, \"x\": 1}, {\"agents\": 0}]}";
        assert_eq!(numbers(body, "agents"), Some(vec![3, 0]));
        assert_eq!(numbers(body, "x"), None);
        assert_eq!(numbers("{}", "agents"), None);
        assert_eq!(numbers("no", "agents"), None);
    }
}
