//! Seeded simulations of the state machines that decide: sessions with their devices and processes, and the directory
//! over several workers.

mod directory;
mod rng;
mod sessions;
