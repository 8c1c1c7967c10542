//! The dialects of this relay: one line for each in the table at the end. Everything else here is made of it.

use std::sync::Arc;

use super::Io;
use crate::{
    base::{ConnToken, Fault},
    dialect::{Arrival, Dialect, Incoming, session},
    reactor::ws::{Answer, Data, Framed},
    relay::{
        api::Out,
        delivery::{Agent, Delivery},
        keys::KeySet,
    },
    wire::http::Head,
};

macro_rules! dialects {
    ($($(#[$doc:meta])* $name:ident($conn:ty) $state:ident,)*) => {
        /// A connection, by its dialect.
        pub(in crate::server) enum Conn {
            $($(#[$doc])* $name($conn),)*
        }

        impl Conn {
            /// For the log.
            pub(super) fn kind(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }

        /// What the connections of one worker share, by their dialect.
        pub(in crate::server) struct States {
            $(pub(in crate::server) $state: <$conn as Dialect<Io<'static>>>::State,)*
        }

        impl States {
            /// The answer to a request for the path of a dialect; `None`: it is no dialect's.
            pub(super) fn request(
                &mut self,
                head: &Head<'_>,
                arrival: Arrival,
                delivery: &mut Delivery<Framed>,
            ) -> Option<Answer<Conn>> {
                $(if head.path == <$conn as Dialect<Io<'_>>>::PATH {
                    let answer = <$conn as Dialect<Io<'_>>>::request(head, arrival, &mut self.$state, delivery);
                    return Some(match answer {
                        Ok(upgrade) => Answer::Upgrade {
                            conn: Conn::$name(upgrade.conn),
                            subprotocol: Some(upgrade.subprotocol),
                            headers: upgrade.headers,
                        },
                        Err(response) => Answer::Respond(response),
                    });
                })*
                None
            }

            pub(super) fn opened(&mut self, conn: &mut Conn, delivery: &mut Delivery<Framed>, io: &mut Io<'_>) {
                match conn {
                    $(Conn::$name(conn) => conn.opened(&mut self.$state, delivery, io),)*
                }
            }

            #[inline]
            pub(super) fn message(
                &mut self,
                conn: &mut Conn,
                delivery: &mut Delivery<Framed>,
                io: &mut Io<'_>,
                data: Data<'_>,
            ) -> Result<(), Fault> {
                let message = match data {
                    Data::Text(text) => Incoming::Text(text),
                    Data::Binary(bytes) => Incoming::Binary(bytes),
                };
                match conn {
                    $(Conn::$name(conn) => conn.message(&mut self.$state, delivery, io, message, data),)*
                }
            }

            pub(super) fn timeout(&mut self, conn: &mut Conn, delivery: &mut Delivery<Framed>, io: &mut Io<'_>) {
                match conn {
                    $(Conn::$name(conn) => conn.timeout(&mut self.$state, delivery, io),)*
                }
            }

            pub(super) fn writable(&mut self, conn: &mut Conn, delivery: &mut Delivery<Framed>, io: &mut Io<'_>) {
                match conn {
                    $(Conn::$name(conn) => conn.writable(&mut self.$state, delivery, io),)*
                }
            }

            pub(super) fn closed(&mut self, conn: Conn, delivery: &mut Delivery<Framed>, token: ConnToken) {
                match conn {
                    $(Conn::$name(conn) => {
                        <$conn as Dialect<Io<'_>>>::closed(conn, &mut self.$state, delivery, token);
                    })*
                }
            }

            /// What the sessions say to connections of this worker, each in its dialect.
            pub(super) fn out(&mut self, out: &Out, delivery: &mut Delivery<Framed>, io: &mut Io<'_>) {
                $(
                    let is_its = |peer: &ConnToken| matches!(io.conn(*peer), Some(Conn::$name(_)));
                    let peers: Vec<ConnToken> = out.peers().iter().copied().filter(is_its).collect();
                    if !peers.is_empty() {
                        <$conn as Dialect<Io<'_>>>::out(&mut self.$state, delivery, io, &peers, out);
                    }
                )*
            }

            pub(super) fn keys_changed(&mut self, keys: &Arc<KeySet>, delivery: &mut Delivery<Framed>, io: &mut Io<'_>) {
                for peer in io.tokens() {
                    match io.conn(peer) {
                        $(Some(Conn::$name(_)) => {
                            <$conn as Dialect<Io<'_>>>::keys_changed(&mut self.$state, delivery, io, peer, keys);
                        })*
                        None => {}
                    }
                }
            }
        }
    };
}

dialects! {
    /// Agents: many, so that the others must not make these larger.
    Agent(Agent) agents,
    /// Devices.
    Device(Box<session::Device>) devices,
}

const _: () = assert!(size_of::<Option<Conn>>() == size_of::<Agent>(), "paid by every idle connection");
