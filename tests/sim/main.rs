//! Seeded simulations of the state machines that decide: the core of the relay over several workers, sessions with their
//! devices and processes, and the directory by itself.

mod directory;
mod relay;
mod rng;
mod sessions;
mod sweep;
