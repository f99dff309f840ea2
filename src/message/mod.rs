//! What clients and server say to each other, apart from any encoding.

pub mod close;
pub mod command;
pub mod event;
