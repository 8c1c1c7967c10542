//! Close handshakes that do not go as they should.

use super::*;

#[test]
fn a_close_frame_without_an_answer_is_not_waited_for() {
    // Nothing else is timed that could end it.
    let running = start(WsOptions { close_ms: 50, ping_every_ms: 0, ..WsOptions::default() });
    let mut socket = connect(&running);
    socket.send("bye".into()).unwrap();
    running.until("closed without an answer", |sum| sum.closed[3] == 1);
    running.end(socket);
}

#[test]
fn nothing_is_said_or_heard_after_a_close() {
    let running = start(WsOptions::default());
    let mut socket = connect(&running);
    let said = |opcode, payload: &[u8]| client_frame(opcode, payload, [0; 4]);
    let all = [
        said(OpCode::Text, b"bye"),
        said(OpCode::Text, b"count"),
        said(OpCode::Ping, b"?"),
        said(OpCode::Close, &4000u16.to_be_bytes()),
    ];
    socket.get_mut().write_all(&all.concat()).unwrap();
    let mut heard = Vec::new();
    socket.get_mut().read_to_end(&mut heard).unwrap();
    assert_eq!(frames(&heard).iter().map(|frame| frame.0).collect::<Vec<_>>(), [8]);
    // The same where it is closed for what it would not read.
    let mut slow = connect(&running);
    let before = running.sum().messages_in;
    slow.get_mut().write_all(&[said(OpCode::Text, b"flood"), said(OpCode::Text, b"count")].concat()).unwrap();
    running.until("it is too slow", |sum| sum.closed[5] == 1);
    assert_eq!(running.sum().messages_in, before + 1);
    running.end((socket, slow));
}

#[test]
fn a_close_whose_answer_is_the_end_of_tcp_is_still_the_close_that_began_it() {
    let running = start(WsOptions { close_ms: 600_000, ..WsOptions::default() });
    let mut socket = connect(&running);
    socket.send("bye".into()).unwrap();
    assert!(matches!(socket.read(), Ok(Message::Close(Some(_)))));
    drop(socket);
    running.until("it is closed", |sum| sum.closed.iter().sum::<u64>() == 1);
    assert_eq!(running.sum().closed[3], 1);
    running.end(());
}
