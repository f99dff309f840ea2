//! The whole server, as its clients and its operator meet it: a real process on real sockets, clients that share no
//! code with it. Each file has one theme; a test starts the servers it needs and shares nothing with other tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, also in what it calls")]

mod abuse;
mod acks;
mod admin;
mod api;
mod api_moderation;
mod api_people;
mod api_server;
mod api_speech;
mod audit;
mod backup;
mod chat;
mod config;
mod descriptors;
mod durable;
mod faults;
mod gate;
mod harness;
mod heartbeat;
mod history;
mod hooks;
mod http;
mod identity;
mod limits;
mod malformed;
mod moderation;
mod permissions;
mod presence;
mod rates;
mod recovery;
mod relay;
mod rooms;
mod session;
mod shards;
mod shutdown;
mod slow;
mod tcp;
mod terminal;
mod tls;
mod token;
mod websocket;
