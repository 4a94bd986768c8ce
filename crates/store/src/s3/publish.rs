//! From a staged file to an object.
//!
//! The object is proven to hold the file's bytes before it counts: by the entity tag, where the server makes it from the
//! digests of the parts, as most do; else it is read back. Keys are made for one upload and never written again, so nothing
//! depends on conditions that some servers ignore.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode};

use super::blob::S3Blob;
use super::blob_path;
use super::blocks::BLOCK_BYTES;
use super::client::Client;
use super::incomplete::Incomplete;
use super::parts::{OBJECT_BYTES_MAX, Parts, digest, parts_tag, whole_tag};
use crate::{Blob as _, Error, Result};

/// For a part of [`super::parts::PART_BYTES`], retries included; longer ones have more in proportion.
const PART_TIMEOUT: Duration = Duration::from_secs(60);
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(300);

type Md5 = [u8; 16];

pub(super) fn publish(client: &Arc<Client>, file: &File, blob: &str) -> Result<()> {
    let parts = Parts::of(file.metadata()?.len());
    if parts.size_bytes > OBJECT_BYTES_MAX {
        let error = io::Error::new(io::ErrorKind::QuotaExceeded, "an object has at most 5 TiB");
        return Err(Error::NoSpace(error));
    }
    match client.run(client.objects.head(&blob_path(client, blob))) {
        // Perhaps ours, from a call that was cut off behind the upload.
        Ok(found) => return is_proven(client, file, parts, None, &found)?.then_some(()).ok_or(Error::Exists),
        Err(Error::NotFound) => {}
        Err(error) => return Err(error),
    }
    let digests = if parts.count() == 1 {
        match put_whole(client, file, parts, blob)? {
            Some(digest) => vec![digest],
            None => return Err(Error::Exists),
        }
    } else {
        put_parts(client, file, parts, blob)?
    };
    let found = client.run(client.objects.head(&blob_path(client, blob)))?;
    if is_proven(client, file, parts, Some(&digests), &found)? {
        return Ok(());
    }
    // Nobody knows of it yet; what cannot be removed now is an orphan that the server's sweep finds.
    let _ = client.run(client.objects.delete(&found.location));
    Err(Error::Corrupt)
}

/// Puts a file that fits into one part; `None` when other bytes have the name.
fn put_whole(client: &Arc<Client>, file: &File, parts: Parts, blob: &str) -> Result<Option<Md5>> {
    let bytes = read_part(file, parts, 0)?;
    let (path, digest) = (blob_path(client, blob), digest(&bytes));
    let put = client.objects.put_opts(&path, bytes.into(), PutMode::Create.into());
    match client.run_for(PART_TIMEOUT, put) {
        Ok(_) => Ok(Some(digest)),
        // Also what a try of ours finds whose answer was lost before.
        Err(Error::Exists) => {
            let found = client.run(client.objects.head(&path))?;
            Ok(is_proven(client, file, parts, Some(&[digest]), &found)?.then_some(digest))
        }
        Err(error) => Err(error),
    }
}

/// Puts a file in parts; the parts' digests.
fn put_parts(client: &Arc<Client>, file: &File, parts: Parts, blob: &str) -> Result<Vec<Md5>> {
    let incomplete = Incomplete::begin(client, blob)?;
    let result = send_parts(client, file, parts, &incomplete).and_then(|sent| {
        let (ids, digests): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        let complete = client.objects.complete_multipart(&incomplete.blob, &incomplete.upload_id, ids);
        match client.run_for(COMPLETION_TIMEOUT, complete) {
            Ok(_) => Ok(digests),
            // A completion whose answer was lost: the object that is there now is proven by the caller.
            Err(error) => match client.run(client.objects.head(&incomplete.blob)) {
                Ok(_) => Ok(digests),
                Err(_) => Err(error),
            },
        }
    });
    match &result {
        Ok(_) => incomplete.completed(client),
        Err(_) => incomplete.abort(client),
    }
    result
}

/// Sends the parts with a few threads, each with one part in its memory: reading and digests then stay off the runtime.
fn send_parts(client: &Client, file: &File, parts: Parts, upload: &Incomplete) -> Result<Vec<(PartId, Md5)>> {
    let (next, has_failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let sent = Mutex::new(vec![None; parts.count() as usize]);
    let sender = || -> Result<()> {
        while !has_failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= parts.count() {
                break;
            }
            let part = send_part(client, file, parts, upload, index)
                .inspect_err(|_| has_failed.store(true, Ordering::Relaxed))?;
            sent.lock().unwrap_or_else(PoisonError::into_inner)[index as usize] = Some(part);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let senders: Vec<_> = (0..parts.in_flight()).map(|_| scope.spawn(sender)).collect();
        let ends: Vec<_> = senders.into_iter().map(thread::ScopedJoinHandle::join).collect();
        ends.into_iter().try_for_each(|end| {
            end.unwrap_or_else(|_| Err(Error::Io(io::Error::other("a thread of the upload ended abruptly"))))
        })
    })?;
    let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sent: Option<Vec<_>> = sent.into_iter().collect();
    sent.ok_or_else(|| Error::Io(io::Error::other("a part was not sent")))
}

fn send_part(
    client: &Client,
    file: &File,
    parts: Parts,
    upload: &Incomplete,
    index: u64,
) -> Result<(PartId, Md5)> {
    let bytes = read_part(file, parts, index)?;
    let digest = digest(&bytes);
    let limit = PART_TIMEOUT.saturating_mul((parts.part_bytes / super::parts::PART_BYTES) as u32);
    let put = client.objects.put_part(&upload.blob, &upload.upload_id, index as usize, bytes.into());
    Ok((client.run_for(limit, put)?, digest))
}

fn read_part(file: &File, parts: Parts, index: u64) -> Result<Bytes> {
    let (start, length) = parts.part(index);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes.into())
}

/// Whether an object holds the bytes of the file. The digests of the parts are taken from the file unless they are known.
fn is_proven(
    client: &Arc<Client>,
    file: &File,
    parts: Parts,
    digests: Option<&[Md5]>,
    found: &ObjectMeta,
) -> Result<bool> {
    if found.size != parts.size_bytes {
        return Ok(false);
    }
    let tag = found.e_tag.as_deref().unwrap_or_default().trim_start_matches("W/").trim_matches('"');
    if !tag.is_empty() {
        let taken: Vec<Md5>;
        let digests = match digests {
            Some(digests) => digests,
            None => {
                let each = (0..parts.count()).map(|index| Ok(digest(&read_part(file, parts, index)?)));
                taken = each.collect::<Result<_>>()?;
                &taken
            }
        };
        let is_whole = digests.len() == 1 && tag == whole_tag(digests[0]);
        if is_whole || tag == parts_tag(digests) {
            return Ok(true);
        }
    }
    // A tag that is made otherwise, as for encrypted objects, proves nothing either way.
    holds_the_same(client, file, found)
}

fn holds_the_same(client: &Arc<Client>, file: &File, found: &ObjectMeta) -> Result<bool> {
    let blob = S3Blob::open(client, found.location.clone())?;
    let mut ours = vec![0; BLOCK_BYTES as usize];
    let mut theirs = ours.clone();
    let mut at = 0;
    while at < blob.size_bytes() {
        let count = (blob.size_bytes() - at).min(BLOCK_BYTES) as usize;
        file.read_exact_at(&mut ours[..count], at)?;
        blob.read_exact_at(&mut theirs[..count], at)?;
        if ours[..count] != theirs[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}
