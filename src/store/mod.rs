//! Durable storage of logs, cursors, dead letters and sessions.
#![allow(dead_code)]

mod block;
mod encoding;
mod records;
