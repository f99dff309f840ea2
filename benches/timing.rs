//! Times every operation: `cargo bench --bench timing -- chat/outbox`.

#[allow(dead_code, reason = "the test of the outcomes uses the rest")]
mod operations;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use operations::Work;

fn timing(c: &mut Criterion) {
    for operation in operations::all() {
        let mut group = c.benchmark_group(operation.module);
        group.throughput(match operation.work {
            Work::Elements(elements) => Throughput::Elements(elements),
            Work::Bytes(bytes) => Throughput::Bytes(bytes),
        });
        // Made here, and only for what the filter lets through.
        group.bench_function(&operation.what, |b| b.iter((operation.prepare)()));
        group.finish();
    }
}

criterion_group!(benches, timing);
criterion_main!(benches);
