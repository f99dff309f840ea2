//! How often what a simulation is for has happened: a world in which nothing happens keeps every promise.

macro_rules! seen {
    ($($name:ident,)*) => {
        /// Counts of what happened.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Seen {
            $(pub $name: u64,)*
        }

        impl Seen {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Panics unless everything has happened.
            pub fn check(&self) {
                $(assert!(self.$name > 0, "no seed has seen any {}: {self:?}", stringify!($name));)*
            }
        }
    };
}

seen! {
    messages,
    signals,
    relayed,
    presence_pushes,
    blocked,
    requests_refused,
    mailboxes_full,
    outbox_gaps,
    retention_gaps,
    slow_closes,
    stalls,
    recovered,
    not_recovered,
    replays,
    switches,
    deletions,
    half_closes,
    aborts,
    heartbeat_timeouts,
    handshake_timeouts,
    filtered,
    drains,
    new_epochs,
    durable_oks,
    heard_before_the_disk,
    duplicates,
    stored_pages,
    trims,
    crashes,
    clean_stops,
    positions_passed_over,
    sent_again,
    store_refusals,
    resumed,
    not_resumed,
    rooms_resumed,
    connections_replaced,
    imposters,
    secrets_used_twice,
    fed,
    redelivered,
    acks,
    letters_purged,
    letters_replayed,
    consumers_replaced,
    restraints,
    put_out,
}
