//! Many uploads at once: how much memory they take together.

use std::io::Cursor;
use std::time::Instant;

use bytes::Bytes;
use futures::future::join_all;
use imageops_client::{Client, RetryPolicy, UploadOptions};
use tonic::Code;
use uuid::Uuid;

use crate::figures::{Figures, mib};
use crate::support::Service;
use crate::support::random::Random;
use crate::support::usage::peak_bytes;

const UPLOADS: [usize; 4] = [1, 10, 100, 1_000];
const CONNECTIONS: usize = 100;
const UPLOAD_BYTES: usize = 8 << 20;

pub async fn measure(figures: &mut Figures) {
    let (mut memory, mut rates) = (Vec::new(), Vec::new());
    for uploads in UPLOADS {
        let (peak, seconds) = run(uploads).await;
        let rate = (uploads * UPLOAD_BYTES) as f64 / 1e6 / seconds;
        memory.push((uploads as f64, mib(peak)));
        rates.push((uploads as f64, rate));
        if Some(&uploads) == UPLOADS.last() {
            let peak = format!("{:.0} MiB", mib(peak));
            figures.fact("Peak memory with 1,000 uploads of 8 MiB at once", peak, "under 512 MiB");
            let rate = format!("{rate:.0} MB/s");
            figures.fact("1,000 uploads of 8 MiB at once, together", rate, "no less than one upload alone");
        }
    }
    figures.curve("Peak memory by number of uploads", "uploads at once", "MiB", memory);
    figures.curve("Speed by number of uploads", "uploads at once", "MB/s", rates);
}

/// Peak memory in bytes, and seconds.
async fn run(uploads: usize) -> (u64, f64) {
    let service = Service::start();
    let clients: Vec<Client> = (0..CONNECTIONS.min(uploads))
        .map(|_| service.client().with_retry(RetryPolicy { attempts_max: 1, ..RetryPolicy::default() }))
        .collect();
    // The same bytes with another beginning each: what is stored already would not be stored again.
    let common = Bytes::from(Random::from_seed(uploads as u64).bytes(UPLOAD_BYTES));
    let start = Instant::now();
    let all = (0..uploads).map(|number| {
        let (client, common) = (&clients[number % clients.len()], common.clone());
        async move {
            let mut bytes = common.to_vec();
            bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let options = UploadOptions { id: Some(Uuid::new_v4()), ..UploadOptions::default() };
            while let Err(error) = client.upload(&mut Cursor::new(&bytes[..]), &options, |_| {}).await {
                // There are more uploads than places; these are told when to come back.
                assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
                tokio::time::sleep(error.retry_after().expect("a hint")).await;
            }
        }
    });
    join_all(all).await;
    (peak_bytes(service.id()), start.elapsed().as_secs_f64())
}
