//! Pages of a list of many images: how long one takes, wherever it lies.

use std::time::Instant;

use imageops::v1::ListImagesRequest;
use imageops_client::Client;

use crate::figures::{Figures, median, mib};
use crate::support::Service;
use crate::support::http::get;
use crate::support::many::multiply;
use crate::support::upload::{metadata, try_upload};
use crate::support::usage::{peak_bytes, resident_bytes};

const IMAGES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
const MADE: u8 = 16;
const PAGE: u32 = 100;
/// Images of the pages between those that are timed.
const STEP: u32 = 1_000;
/// Times that each page is asked for.
const TIMES: usize = 50;

pub async fn measure(figures: &mut Figures) {
    let (mut pages_ms, mut starts_ms, mut memory_mib) = (Vec::new(), Vec::new(), Vec::new());
    for images in IMAGES {
        let mut service = Service::start();
        for number in 0..MADE {
            try_upload(&service.client(), &metadata(&format!("image-{number}")), &[number; 4096])
                .await
                .unwrap();
        }
        service.terminate();
        assert!(service.wait().success());
        multiply(&service, images, 0);
        let begun = Instant::now();
        service.restart();
        starts_ms.push((images as f64, begun.elapsed().as_secs_f64() * 1e3));

        let client = service.client();
        let tokens = tokens(&client).await;
        let at = |share: usize| tokens[(tokens.len() - 1) * share / 2].clone();
        let [first, middle, last] =
            [time(&client, at(0)).await, time(&client, at(1)).await, time(&client, at(2)).await];
        pages_ms.push((images as f64, first.max(middle).max(last)));
        memory_mib.push((images as f64, mib(peak_bytes(service.id()))));
        if Some(&images) == IMAGES.last() {
            let depths = format!("{first:.1} ms first, {middle:.1} ms in the middle, {last:.1} ms last");
            figures.fact("100 of 1,000,000 images over gRPC", depths, "under 5 ms, flat");
            let rest = (0..TIMES).map(|_| {
                let asked = Instant::now();
                assert_eq!(get(service.http(), "/v1/images?page_size=100").status, 200);
                asked.elapsed().as_secs_f64() * 1e3
            });
            let rest = median(&rest.collect::<Vec<_>>());
            figures.fact(
                "100 of 1,000,000 images over REST, a connection each",
                format!("{rest:.1} ms"),
                "under 5 ms",
            );
            let memory = format!("{:.0} MiB", mib(resident_bytes(service.id())));
            figures.fact("Memory after walking 1,000,000 images", memory, "no growth");
        }
    }
    figures.curve("Slowest of first, middle and last page", "images", "ms", pages_ms);
    figures.curve("Start by number of images", "images", "ms", starts_ms);
    figures.curve("Peak memory by number of images", "images", "MiB", memory_mib);
}

/// Tokens of pages from the first to the last.
async fn tokens(client: &Client) -> Vec<String> {
    let mut all = vec![String::new()];
    loop {
        let request = ListImagesRequest {
            page_size: STEP,
            page_token: all.last().unwrap().clone(),
            ..ListImagesRequest::default()
        };
        match client.list_images(request).await.unwrap().next_page_token {
            end if end.is_empty() => return all,
            next => all.push(next),
        }
    }
}

/// Milliseconds that a page takes.
async fn time(client: &Client, page_token: String) -> f64 {
    let mut times_ms = Vec::new();
    for _ in 0..TIMES {
        let request = ListImagesRequest {
            page_size: PAGE,
            page_token: page_token.clone(),
            ..ListImagesRequest::default()
        };
        let asked = Instant::now();
        let page = client.list_images(request).await.unwrap();
        times_ms.push(asked.elapsed().as_secs_f64() * 1e3);
        assert!(!page.images.is_empty());
    }
    median(&times_ms)
}
