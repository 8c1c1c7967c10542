//! The upgrade to WebSocket (RFC 6455 section 4.2), by tungstenite's handshake.

use tungstenite::{
    error::ProtocolError,
    handshake::server::{create_response, write_response},
    http::{HeaderName, HeaderValue, Request},
};

use super::{Head, Response};

/// The answer that accepts an upgrade: 101 and the accept key, with the chosen subprotocol.
///
/// # Errors
/// The answer that refuses it: 426 when no upgrade or another version than 13 is asked for, 400 when the request is
/// not a `GET` of HTTP/1.1, announces a body, its key is wrong or repeated, or the subprotocol was not offered.
pub fn accept(head: &Head<'_>, subprotocol: Option<&str>) -> Result<Vec<u8>, Response> {
    accept_with(head, subprotocol, &[])
}

/// [`accept`] with further headers in the answer.
///
/// # Errors
/// As [`accept`]; 500 when a further header has no form on the wire.
pub fn accept_with(
    head: &Head<'_>,
    subprotocol: Option<&str>,
    headers: &[(&'static str, String)],
) -> Result<Vec<u8>, Response> {
    if !head.wants_upgrade() {
        return Err(Response::upgrade_required("this path speaks WebSocket"));
    }
    if head.minor < 1 || head.has_body() {
        return Err(Response::text(400, "an upgrade is an HTTP/1.1 request without a body"));
    }
    if subprotocol.is_some_and(|chosen| !head.subprotocols().any(|offered| offered == chosen)) {
        return Err(Response::text(400, "the subprotocol was not offered"));
    }
    let mut request = Request::builder()
        .method(head.method)
        // Their lists were read above: tungstenite looks at one line only.
        .header("connection", "Upgrade")
        .header("upgrade", "websocket");
    for name in ["sec-websocket-version", "sec-websocket-key"] {
        if let Some(value) = head.single(name)? {
            request = request.header(name, value);
        }
    }
    let request = request.body(()).map_err(|_| Response::text(400, "not an HTTP request"))?;
    let mut response = create_response(&request).map_err(|error| refusal(&error))?;
    let further = headers.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in subprotocol.map(|chosen| ("sec-websocket-protocol", chosen)).into_iter().chain(further) {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return Err(Response::text(500, "a header of the answer has no form"));
        };
        response.headers_mut().append(name, value);
    }
    let mut bytes = Vec::with_capacity(256);
    write_response(&mut bytes, &response).map_err(|_| Response::text(500, "the answer could not be written"))?;
    Ok(bytes)
}

fn refusal(error: &tungstenite::Error) -> Response {
    let tungstenite::Error::Protocol(error) = error else { return Response::text(400, "not a WebSocket handshake") };
    match error {
        ProtocolError::MissingSecWebSocketVersionHeader => Response::upgrade_required("only WebSocket version 13"),
        ProtocolError::WrongHttpMethod => Response::text(400, "an upgrade is a GET"),
        ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey => {
            Response::text(400, "Sec-WebSocket-Key is missing or wrong")
        }
        _ => Response::text(400, "not a WebSocket handshake"),
    }
}
