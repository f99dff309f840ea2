//! Durable storage of logs, cursors, dead letters and sessions.
