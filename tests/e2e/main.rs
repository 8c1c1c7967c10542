//! The program as its users have it: the real binary, real sockets, real terminals, the real CLI, and other people's
//! clients. One program, so that `support` is compiled and linked once.

mod support;

mod agent_questions;
mod agent_verbs;
mod amp_bodies;
mod amp_hello;
mod amp_hostile;
mod amp_relay;
mod amp_session;
mod amp_stream;
mod amp_verify;
mod bad_input;
#[cfg(target_os = "linux")]
mod claude_demo;
#[cfg(target_os = "linux")]
mod claude_process;
mod claude_real;
#[cfg(target_os = "linux")]
mod claude_support;
mod cli_lines;
mod clients;
mod clients_curl;
mod clients_prometheus;
mod command_line;
mod edges_of_use;
mod fairness;
mod key_agent;
mod key_files;
mod message_bounds;
mod next_commands;
mod oracle;
mod permissions;
mod readme;
mod relay_admin;
mod relay_away;
mod relay_deflate;
mod relay_demo;
mod relay_late_devices;
mod relay_operator;
mod relay_restart;
mod relay_revoked;
mod relay_sign_in;
mod relay_strangers;
mod relay_terminal;
mod relay_up;
mod session_bounds;
mod unreadable;
mod window_leaves;
mod window_others;
mod window_says;
