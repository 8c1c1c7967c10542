//! Frames: reading a masked one in place, writing one, and the copy that frames are made of, at several offsets.
//!
//! The offsets matter: a large plain `memcpy` is many times slower when the destination sits a few bytes behind the
//! source modulo 4096 (see `wire::copy`), so every figure is taken where payloads really sit.

use std::hint::black_box;

use amp_relay::wire::{
    copy, mask,
    ws::{self, Decoder, Limits, Message, OpCode, Role, Step},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SIZES: [usize; 3] = [128, 375, 16 * 1024];
/// Where the frame begins in a page: aligned, behind an allocator's header, behind another frame, anywhere.
const OFFSETS: [usize; 4] = [0, 16, 136, 1021];
const PAGE: usize = 4096;
const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A buffer and the index of its first byte on a page.
fn page_aligned(len: usize) -> (Vec<u8>, usize) {
    let buffer = vec![0; len + PAGE];
    let start = buffer.as_ptr().align_offset(PAGE);
    (buffer, start)
}

/// Header, limits, unmask, UTF-8 for text: one whole frame out of a shared buffer. Reading unmasks in place, so each
/// round masks what the last one left: the text must be text again.
fn decode(c: &mut Criterion) {
    for (name, opcode) in [("binary", OpCode::Binary), ("text", OpCode::Text)] {
        let mut group = c.benchmark_group(format!("decode_{name}"));
        for size in SIZES {
            let frame = ws::client_frame(opcode, &vec![b'a'; size], KEY);
            let header = frame.len() - size;
            for offset in OFFSETS {
                let (mut buffer, start) = page_aligned(offset + frame.len());
                let bytes = &mut buffer[start + offset..][..frame.len()];
                bytes.copy_from_slice(&frame);
                let limits = Limits::default();
                let mut decoder = Decoder::new(Role::Server);
                group.throughput(Throughput::Bytes(size as u64));
                group.bench_function(BenchmarkId::new(size.to_string(), offset), |b| {
                    b.iter(|| {
                        match decoder.decode(&limits, black_box(&mut *bytes)) {
                            Ok(Step::Message { message: Message::Text(text), .. }) => assert_eq!(text.len(), size),
                            Ok(Step::Message { message: Message::Binary(binary), .. }) => {
                                assert_eq!(binary.len(), size)
                            }
                            other => panic!("{other:?}"),
                        }
                        mask::apply(KEY, &mut bytes[header..]);
                    });
                });
            }
        }
        group.finish();
    }
}

/// A run of small frames in one read: what a busy peer's turn decodes, in bytes of its payloads. The key of zeros costs
/// what any other costs, and leaves the bytes as they are for the next round.
fn decode_run(c: &mut Criterion) {
    const FRAMES: usize = 64;
    let mut group = c.benchmark_group("decode_run_of_64");
    for size in [16, 125, 375] {
        let (mut buffer, start) = page_aligned(FRAMES * (size + ws::HEADER_MAX));
        let run = ws::client_frame(OpCode::Binary, &vec![b'a'; size], [0; 4]).repeat(FRAMES);
        let bytes = &mut buffer[start..][..run.len()];
        bytes.copy_from_slice(&run);
        let limits = Limits::default();
        let mut decoder = Decoder::new(Role::Server);
        group.throughput(Throughput::Elements(FRAMES as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let (mut at, mut sum) = (0, 0);
                while at < bytes.len() {
                    match decoder.decode(&limits, black_box(&mut bytes[at..])) {
                        Ok(Step::Message { consumed, message: Message::Binary(binary) }) => {
                            sum += black_box(binary).len();
                            at += consumed;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(sum, FRAMES * size);
            });
        });
    }
    group.finish();
}

/// Masking alone: what `decode` pays twice a round.
fn unmask(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for size in SIZES {
        for offset in OFFSETS {
            let (mut buffer, start) = page_aligned(offset + size);
            let bytes = &mut buffer[start + offset..][..size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(size.to_string(), offset), |b| {
                b.iter(|| mask::apply(black_box(KEY), black_box(&mut *bytes)));
            });
        }
    }
    group.finish();
}

/// A server's frame: allocation, header, copy.
fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for size in SIZES {
        for offset in OFFSETS {
            let (buffer, start) = page_aligned(offset + size);
            let payload = &buffer[start + offset..][..size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(size.to_string(), offset), |b| {
                b.iter(|| ws::frame(OpCode::Binary, black_box(payload)));
            });
        }
    }
    group.finish();
}

/// The copy in pieces against the plain one, `offset` being how far the destination sits behind the source in a page.
fn copies(c: &mut Criterion) {
    let size = 16 * 1024;
    let mut group = c.benchmark_group("copy_16384");
    group.throughput(Throughput::Bytes(size as u64));
    for offset in [0, 6, 16, 31, 64, 2048] {
        let (source, from) = page_aligned(size);
        let (mut room, to) = page_aligned(offset + size);
        let source = &source[from..][..size];
        let room = &mut room[to + offset..][..size];
        group.bench_function(BenchmarkId::new("plain", offset), |b| {
            b.iter(|| black_box(&mut *room).copy_from_slice(black_box(source)));
        });
        group.bench_function(BenchmarkId::new("pieces", offset), |b| {
            b.iter(|| copy::fill(black_box(&mut *room), black_box(source)));
        });
    }
    group.finish();
}

criterion_group!(benches, decode, decode_run, unmask, encode, copies);
criterion_main!(benches);
