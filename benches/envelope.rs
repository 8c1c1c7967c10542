//! AMP envelopes: reading one, finding its receivers, the checks on it, writing one, and what signing adds to all that.

use std::hint::black_box;

use amp_relay::{
    base::Now,
    wire::{
        amp::{
            Builder, EnvelopeView, Frame, Header, Id, KeyEncoding, To, Type,
            check::{self, Names, Peer, Policy},
            did_base, parse, rekey, sig_input, verify,
        },
        cbor,
    },
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::SigningKey;

const SIZES: [usize; 2] = [128, 16 * 1024];
const KEY_ENCODINGS: [(&str, KeyEncoding); 2] = [("text", KeyEncoding::Text), ("int", KeyEncoding::Int)];
const TS: u64 = 1_707_055_200_000;
const ALICE: &str = "did:key:z6MkehRgf7yJbgaGfYsdoAsKdBPE3dj2CYhowQdcjqSJgvVd";
const BOB: &str = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";

fn header(to: To<'static>) -> Header<'static> {
    let header = Header::new(Id::new(TS, [7; 8]), Type::REQUEST, ALICE, to);
    Header { reply_to: Some(&[3; 16]), thread_id: Some(b"thread-1"), ..header }
}

fn body(size: usize) -> Vec<u8> {
    let mut body = Vec::new();
    cbor::bytes(&mut body, &vec![0x5a; size]);
    body
}

fn frame(key_encoding: KeyEncoding, to: To<'static>, size: usize) -> Vec<u8> {
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    let key = SigningKey::from_bytes(&[5; 32]);
    Builder::new(header(to))
        .body(&body(size))
        .write_signed(key_encoding, &key, &mut scratch, &mut out)
        .expect("expressible");
    out
}

fn view(frame: &[u8]) -> EnvelopeView<'_> {
    match parse(frame) {
        Ok(Frame::Envelope(view)) => view,
        other => panic!("{other:?}"),
    }
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope_view");
    for (name, key_encoding) in KEY_ENCODINGS {
        for size in SIZES {
            let frame = frame(key_encoding, To::One(BOB), size);
            group.throughput(Throughput::Bytes(frame.len() as u64));
            group.bench_function(BenchmarkId::new(name, size), |b| b.iter(|| view(black_box(&frame)).header.ts));
        }
    }
    group.finish();

    let mut group = c.benchmark_group("envelope_to");
    let many: &'static [&'static str] = Vec::leak(vec![BOB; 100]);
    for (name, to) in [("1", To::One(BOB)), ("100", To::Many(many))] {
        let frame = frame(KeyEncoding::Text, to, 128);
        let found = view(&frame);
        group.bench_function(BenchmarkId::new("recipients", name), |b| {
            b.iter(|| black_box(&found).header.to.iter().map(did_base).map(str::len).sum::<usize>());
        });
        group.bench_function(BenchmarkId::new("view", name), |b| b.iter(|| view(black_box(&frame)).header.ts));
    }
    group.finish();

    let policy = Policy {
        names: Names { did: "did:key:z6Mkrelay", aliases: &["relay-server"] },
        handled: |typ| typ == Type::PING,
        strict_types: false,
        unsigned: false,
        skew_ms: check::SKEW_MS_DEFAULT,
        ttl_ms_max: check::TTL_MS_MAX_DEFAULT,
        recipients_max: 64,
    };
    let peer = Peer { negotiated: true, principal: Some(ALICE) };
    let now = Now { mono_ms: 0, unix_ms: TS };
    let frame = frame(KeyEncoding::Text, To::One(BOB), 128);
    let found = view(&frame);
    c.bench_function("envelope_ingress_checks", |b| {
        b.iter(|| check::ingress(black_box(&found), &peer, &policy, now).is_ok());
    });
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope_write");
    let mut out = Vec::new();
    for (name, key_encoding) in KEY_ENCODINGS {
        for size in SIZES {
            let body = body(size);
            let builder = Builder::new(header(To::One(BOB))).body(&body);
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    out.clear();
                    black_box(&builder).write(key_encoding, Some(&[9; 64]), &mut out).is_ok()
                });
            });
            let frame = frame(key_encoding, To::One(BOB), size);
            let found = view(&frame);
            let other = if key_encoding == KeyEncoding::Text { KeyEncoding::Int } else { KeyEncoding::Text };
            group.bench_function(BenchmarkId::new(format!("rekey_from_{name}"), size), |b| {
                b.iter(|| {
                    out.clear();
                    rekey(black_box(&found), other, &mut out).is_ok()
                });
            });
        }
    }
    group.finish();
}

fn signature(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope_signature");
    let key = SigningKey::from_bytes(&[5; 32]);
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    for size in SIZES {
        let frame = frame(KeyEncoding::Text, To::One(BOB), size);
        let found = view(&frame);
        let body = found.body.expect("it has one");
        group.bench_function(BenchmarkId::new("body_is_deterministic", size), |b| {
            b.iter(|| cbor::check_deterministic(black_box(body)).is_ok());
        });
        group.bench_function(BenchmarkId::new("input", size), |b| {
            b.iter(|| {
                out.clear();
                sig_input(black_box(&found.header), body, &mut out);
            });
        });
        group.bench_function(BenchmarkId::new("verify", size), |b| {
            b.iter(|| verify(black_box(&found), &key.verifying_key(), &mut scratch).is_ok());
        });
        let builder = Builder::new(found.header).body(body);
        group.bench_function(BenchmarkId::new("write_signed", size), |b| {
            b.iter(|| {
                out.clear();
                builder.write_signed(KeyEncoding::Text, &key, &mut scratch, &mut out).is_ok()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read, write, signature);
criterion_main!(benches);
