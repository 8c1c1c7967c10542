//! What others wrote down: RFC 6455 and 7692, AMP's vectors, sign-ins that other programs made, recordings of the CLI.
//! Most of it works on bytes alone.

#[cfg(feature = "relay")]
mod amp_oracle;
#[cfg(feature = "relay")]
mod amp_vectors;
#[cfg(feature = "deflate")]
mod autobahn;
#[cfg(feature = "relay")]
mod claude_recordings;
#[cfg(feature = "deflate")]
mod deflate;
#[cfg(feature = "relay")]
mod sign_in_vectors;
mod ws;
