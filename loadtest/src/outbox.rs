//! What one connection has to send: control bytes, and messages with a common ending that is sent from their template.

use std::io::{self, IoSlice, Write};

use crate::template::Template;

/// Most pieces in one vectored write; the system takes 1024.
const PIECES_MAX: usize = 1024;
/// Copied bytes that may be done with before they are thrown away in the middle of a back-pressure.
const DONE_BYTES_MAX: usize = 256 * 1024;

/// The queue of one connection. Its bound is what may be in flight.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    control: Vec<u8>,
    control_done: usize,
    heads: Vec<u8>,
    /// Bytes of the queued messages, their endings included, that are sent.
    done: usize,
}

impl Outbox {
    /// Nothing waits in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.heads.is_empty()
    }

    /// Queues bytes that go between messages.
    pub(crate) fn control(&mut self, bytes: &[u8]) {
        self.control.extend_from_slice(bytes);
    }

    /// Where the copied part of a message goes.
    pub(crate) fn heads(&mut self) -> &mut Vec<u8> {
        &mut self.heads
    }

    /// Sends what the system takes, in one write as a rule. Says whether all is sent; if not, it will be writable again.
    pub(crate) fn flush(&mut self, stream: &mut impl Write, template: Option<&Template>) -> io::Result<bool> {
        loop {
            let step = if self.is_between(template) && !self.control.is_empty() {
                self.flush_control(stream)
            } else if self.heads.is_empty() {
                return Ok(true);
            } else if let Some(template) = template {
                self.flush_messages(stream, template)
            } else {
                return Ok(true);
            };
            match step {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn is_between(&self, template: Option<&Template>) -> bool {
        template.is_none_or(|template| self.done.is_multiple_of(template.head_len() + template.tail().len()))
    }

    fn flush_control(&mut self, stream: &mut impl Write) -> io::Result<()> {
        self.control_done += written(stream.write(&self.control[self.control_done..])?)?;
        if self.control_done == self.control.len() {
            self.control.clear();
            self.control_done = 0;
        }
        Ok(())
    }

    fn flush_messages(&mut self, stream: &mut impl Write, template: &Template) -> io::Result<()> {
        let (head_len, tail) = (template.head_len(), template.tail());
        let len = head_len + tail.len();
        let count = self.heads.len() / head_len;
        self.done += if tail.is_empty() {
            written(stream.write(&self.heads[self.done..])?)?
        } else {
            let first = self.done / len;
            let mut pieces = Vec::with_capacity(PIECES_MAX.min(2 * (count - first)));
            for head in self.heads.chunks_exact(head_len).skip(first).take(PIECES_MAX / 2) {
                pieces.extend([IoSlice::new(head), IoSlice::new(tail)]);
            }
            let mut pieces = &mut pieces[..];
            IoSlice::advance_slices(&mut pieces, self.done % len);
            written(stream.write_vectored(pieces)?)?
        };
        let whole = self.done / len;
        if whole == count {
            self.heads.clear();
            self.done = 0;
        } else if whole * head_len >= DONE_BYTES_MAX {
            self.heads.drain(..whole * head_len);
            self.done -= whole * len;
        }
        Ok(())
    }
}

fn written(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use amp_relay::wire::amp::To;

    use super::*;
    use crate::{
        agent::Agent,
        template::{Make, Stamp},
    };

    /// Takes so many bytes at a time, and says "full" after each.
    struct Slow {
        taken: Vec<u8>,
        step: usize,
        full: bool,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.full = !self.full;
            if self.full {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.step);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
            let bytes = pieces.iter().flat_map(|piece| piece.iter().copied());
            self.write(&bytes.take(self.step).collect::<Vec<u8>>())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_is_lost_and_control_never_cuts_a_message() {
        let (from, to) = (Agent::new(1, 0), Agent::new(1, 1));
        for (size, step) in [(128, 7), (128, 375), (128, 1000), (5000, 777), (5000, 5255), (30_000, 100_001)] {
            let make =
                Make { from: &from, to: To::One(to.did()), size, ttl: 0, sign: false, key: [0; 4], now_ms: 1 << 40 };
            let mut template = make.baseline(1).expect("a frame");
            let len = template.layout().len;
            let mut outbox = Outbox::default();
            let mut slow = Slow { taken: Vec::new(), step, full: false };
            let (mut sent, mut controls) = (0, 0);
            while sent < 40 || !outbox.flush(&mut slow, Some(&template)).expect("no error") {
                if sent < 40 {
                    sent += 1;
                    let stamp = Stamp { run: 1, sender: 0, slot: 0, receiver: 1, sequence: sent };
                    template.append(outbox.heads(), &stamp, None, 0);
                    if sent % 8 == 0 {
                        controls += 1;
                        outbox.control(&[8, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
                    }
                    outbox.flush(&mut slow, Some(&template)).expect("no error");
                }
            }
            let mut rest = &slow.taken[..];
            let mut next = 1;
            while let Some((front, _)) = rest.split_first_chunk::<4>() {
                let here = u32::from_le_bytes(*front) as usize;
                if here == 8 {
                    controls -= 1;
                } else {
                    assert_eq!(here, len);
                    assert_eq!(Stamp::read(rest[8..].first_chunk().expect("a stamp")).sequence, next);
                    next += 1;
                }
                rest = &rest[here..];
            }
            assert_eq!((next, controls, rest.len()), (41, 0, 0), "size {size}, step {step}");
        }
    }
}
