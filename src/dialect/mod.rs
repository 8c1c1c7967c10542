//! How peers speak: frames to core commands, core answers and events to frames. Keeps no state that the core should
//! own.

pub mod admin;
pub mod amp;
pub mod session;
