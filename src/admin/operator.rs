//! How orders reach the shards, and how their answers come back.
//!
//! A shard may not wake the admin thread: that is done by writing to a descriptor of the event loop, and the number of
//! that descriptor means something else in a shard's own table. So answers go through a queue to a thread that shares
//! this one's table and does nothing but pass them on.
//!
//! Bounds: the queue, the orders that wait, and the time they wait. An answer that comes too late is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flume::{Receiver, Sender};
use tokio::sync::oneshot;

use super::problem::Problem;
use crate::chat::exchange::Refusal;
use crate::chat::operate::{Order, OrderReply, RoomOrder};
use crate::chat::placement;
use crate::ids::{RoomName, ShardId};

/// What a shard says to an order.
type Outcome = Result<OrderReply, Refusal>;

/// Gives a shard an order with a ticket; false when it has too many.
pub type PostOrder = Arc<dyn Fn(ShardId, u64, Order) -> bool + Send + Sync>;

/// Where shards leave their answers.
#[derive(Clone, Debug)]
pub struct Answers(Sender<Call>);

/// The queue of answers, before anyone listens to it.
#[derive(Debug)]
pub struct Switchboard {
    calls: (Sender<Call>, Receiver<Call>),
}

/// Something for the thread that passes answers on.
#[derive(Debug)]
enum Call {
    /// Someone waits for the answer to this ticket.
    Wait(u64, oneshot::Sender<Outcome>),
    /// Here it is.
    Answer(u64, Outcome),
}

/// Gives orders, and waits for their answers.
#[derive(Clone)]
pub(super) struct Operator {
    post: PostOrder,
    calls: Sender<Call>,
    shards: u16,
    last_ticket: Arc<AtomicU64>,
}

impl Default for Switchboard {
    fn default() -> Self {
        Self { calls: flume::bounded(CALLS_MAX) }
    }
}

impl Switchboard {
    /// For one shard.
    #[must_use]
    pub fn answers(&self) -> Answers {
        Answers(self.calls.0.clone())
    }

    /// Starts to pass answers on, until nobody is left who asks or answers.
    pub(super) fn connect(self, post: PostOrder, shards: u16) -> std::io::Result<Operator> {
        let (calls, received) = self.calls;
        std::thread::Builder::new().name("admin-answers".into()).spawn(move || pass_on(&received))?;
        Ok(Operator { post, calls, shards, last_ticket: Arc::default() })
    }
}

impl Answers {
    /// Gives an answer. Never waits: if nobody keeps up with the answers, this one is lost, and who waits is told that
    /// it took too long.
    pub fn give(&self, ticket: u64, outcome: Result<OrderReply, Refusal>) {
        let _ = self.0.try_send(Call::Answer(ticket, outcome));
    }
}

impl Operator {
    /// Asks the shard that owns a room.
    pub(super) async fn ask_room(&self, room: RoomName, order: RoomOrder) -> Result<OrderReply, Problem> {
        let shard = placement::owner(room.placement_hash(), self.shards);
        self.ask(shard, Order::Room { room, order }).await
    }

    /// Asks one shard.
    pub(super) async fn ask(&self, shard: ShardId, order: Order) -> Result<OrderReply, Problem> {
        let ticket = self.last_ticket.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        // Whoever waits is in the queue before the answer can be.
        let given = self.calls.try_send(Call::Wait(ticket, reply)).is_ok() && (self.post)(shard, ticket, order);
        if !given {
            return Err(Problem::overloaded("the shard has too many orders: ask again a little later"));
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(outcome)) => outcome.map_err(Problem::from),
            Ok(Err(_)) => Err(Problem::overloaded("too many orders wait for an answer: ask again a little later")),
            Err(_) => {
                let wait = ANSWER_TIMEOUT.as_secs();
                Err(Problem::timeout(format!("no answer within {wait} s: it may still be carried out")))
            }
        }
    }

    /// All shards.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(ShardId)
    }
}

fn pass_on(calls: &Receiver<Call>) {
    let mut waiting: BTreeMap<u64, oneshot::Sender<Outcome>> = BTreeMap::new();
    while let Ok(call) = calls.recv() {
        match call {
            Call::Wait(ticket, reply) => {
                if waiting.len() >= WAITING_MAX {
                    waiting.retain(|_, reply| !reply.is_closed());
                }
                if waiting.len() < WAITING_MAX {
                    waiting.insert(ticket, reply);
                }
            }
            Call::Answer(ticket, outcome) => {
                if let Some(reply) = waiting.remove(&ticket) {
                    // Who waited may have given up.
                    let _ = reply.send(outcome);
                }
            }
        }
    }
}

/// Answers, and wishes for answers, that may wait to be passed on.
const CALLS_MAX: usize = 4_096;
/// Orders whose answers may be awaited.
const WAITING_MAX: usize = 1_024;
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::operate::Target;
    use crate::ids::ConnId;
    use crate::message::close::ErrorCode;

    fn order() -> Order {
        Order::Disconnect(Target::Connection(ConnId { slot: 0, generation: 0 }))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn answers_find_who_asked_whatever_their_order() {
        let switchboard = Switchboard::default();
        let answers = switchboard.answers();
        let (orders, taken) = flume::bounded(2);
        let post = move |shard: ShardId, ticket, _| orders.send((shard, ticket)).is_ok();
        let operator = switchboard.connect(Arc::new(post), 2).unwrap();
        std::thread::spawn(move || {
            let (first, second) = (taken.recv().unwrap(), taken.recv().unwrap());
            for (shard, ticket) in [second, first] {
                answers.give(ticket, Ok(OrderReply::Count(u64::from(shard.0))));
                answers.give(ticket, Ok(OrderReply::Count(99)));
            }
        });
        let (a, b) =
            block_on(async { tokio::join!(operator.ask(ShardId(0), order()), operator.ask(ShardId(1), order())) });
        assert!(matches!((a, b), (Ok(OrderReply::Count(0)), Ok(OrderReply::Count(1)))));
    }

    #[test]
    fn a_busy_shard_and_a_refusal_are_told() {
        let switchboard = Switchboard::default();
        let answers = switchboard.answers();
        let post = move |shard: ShardId, ticket, _| {
            answers.give(ticket, Err(Refusal::new(ErrorCode::NotFound, "nothing is there")));
            shard.0 == 0
        };
        let operator = switchboard.connect(Arc::new(post), 2).unwrap();
        let refused = block_on(operator.ask(ShardId(0), order())).unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.code()), (404, "not_found"));
        let busy = block_on(operator.ask(ShardId(1), order())).unwrap_err();
        assert_eq!((busy.status().as_u16(), busy.code()), (503, "overloaded"));
    }
}
