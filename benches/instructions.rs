//! Counts the instructions of the ten hottest operations, from socket to socket: `perf/instructions`.
//!
//! Each runs under callgrind once, after a few runs that bring its buffers to size; only that one run is counted.
#![allow(missing_docs, reason = "the macros' own items have none")]

#[allow(dead_code, reason = "the timing and the test of the outcomes use the rest")]
mod operations;

use gungraun::prelude::*;
use operations::Run;

#[library_benchmark(setup = warm)]
#[bench::decode_frame("codec/websocket/decoder", "a command")]
#[bench::unmask("codec/websocket/mask", "150 bytes")]
#[bench::check_utf8("codec/websocket/utf8", "150 bytes of ASCII")]
#[bench::decode_message("codec/json/decode", "message")]
#[bench::publish_to_1("chat/room", "publish to 1 member")]
#[bench::publish_to_100("chat/room", "publish to 100 members")]
#[bench::encode_message("codec/json/encode", "message")]
#[bench::write_frame_header("codec/websocket/frame", "header")]
#[bench::push_and_write("chat/outbox", "push and write 1 frame")]
#[bench::push_to_100("chat/outbox", "push 1 frame to 100 members, and write")]
#[bench::parse_upgrade("codec/http", "parse an upgrade request")]
#[bench::decode_line("codec/lines", "one line")]
fn hottest(mut run: Run) -> (u64, Run) {
    // Handed back, so that taking it apart is not counted.
    (run(), run)
}

fn warm(module: &str, what: &str) -> Run {
    let operation = operations::all().into_iter().find(|one| one.module == module && one.what == what);
    let mut run = (operation.expect("it is there").prepare)();
    for _ in 0..WARM_RUNS {
        std::hint::black_box(run());
    }
    run
}

const WARM_RUNS: usize = 16;

library_benchmark_group!(name = socket_to_socket, benchmarks = hottest);
main!(library_benchmark_groups = socket_to_socket);
