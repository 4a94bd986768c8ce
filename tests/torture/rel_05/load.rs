//! The clients of a server whose power will fail: what they asked for, what they were told, and when.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use imageops::v1::{CompressRequest, ConvertRequest, ImageFormat, JobState};
use imageops_client::Client;

use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::roads::{Road, Target};
use crate::run::spread;
use crate::support::jobs::{compress_file, image};
use crate::support::random::Random;
use crate::support::wait_for;
use crate::work::{SOURCE, outputs};

/// Small: all that is written stands in the log, and is written again for each cut.
const UPLOAD_BYTES: (u64, u64) = (64 << 10, 2 << 20);
/// Images that a client keeps; it removes the oldest of more.
const KEPT: usize = 3;
/// One upload of so many is left open.
const LEFT_OPEN: u64 = 5;

/// A moment in microseconds since the epoch, by the clock that strace reads too.
pub type Moment = u64;

/// An upload, and when its client was told what. The ledger has the rest.
pub struct Upload {
    pub index: usize,
    pub road: &'static Road,
    /// Before its first byte was sent.
    pub begun: Moment,
    pub acknowledged: Option<Moment>,
    /// Before the removal was asked for.
    pub removing: Option<Moment>,
    /// The image is gone for good.
    pub removed: Option<Moment>,
}

/// A job, and when its client was told what.
pub struct Job {
    pub name: String,
    pub asked: Moment,
    pub succeeded: Moment,
    pub file: Option<String>,
    pub image: Option<String>,
}

/// Now.
pub fn moment() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after the epoch");
    u64::try_from(since.as_micros()).expect("a time in this age")
}

/// Uploads on the roads in turn, some of which are removed later and some left open.
pub async fn upload(
    target: Target,
    roads: Vec<&'static Road>,
    ledger: Arc<Ledger>,
    (number, uploads, seed): (u64, u64, u64),
) -> Vec<Upload> {
    let (mut random, mut done) = (Random::from_seed(seed), Vec::<Upload>::new());
    for turn in number..number + uploads {
        let road = roads[(turn % roads.len() as u64) as usize];
        let size_bytes = spread(&mut random, UPLOAD_BYTES.0, UPLOAD_BYTES.1);
        let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), Content::new(random.next(), size_bytes)));
        let begun = moment();
        let mut upload = Upload { index, road, begun, acknowledged: None, removing: None, removed: None };
        if road.resumes && random.below(LEFT_OPEN) == 0 {
            // The client goes away; how far the bytes have come by then is chance.
            let attempt = road.attempt(target, &ledger, index);
            let _ = tokio::time::timeout(std::time::Duration::from_millis(random.below(20)), attempt).await;
            // An answer that was not seen is none.
            ledger.entry(index, |entry| entry.acknowledged = None);
        } else {
            let image = road.attempt(target, &ledger, index).await;
            image.unwrap_or_else(|error| panic!("{}: expected an image: {error}", road.name));
            upload.acknowledged = Some(moment());
        }
        done.push(upload);
        remove_oldest(&target.client(), &ledger, &mut done).await;
    }
    done
}

/// Removes the oldest image for good when there are more than enough.
async fn remove_oldest(client: &Client, ledger: &Ledger, uploads: &mut [Upload]) {
    let mut kept =
        uploads.iter_mut().filter(|upload| upload.acknowledged.is_some() && upload.removing.is_none());
    let Some(oldest) = kept.next() else { return };
    if kept.count() < KEPT {
        return;
    }
    let name = ledger.entry(oldest.index, |entry| entry.acknowledged.clone()).expect("an image");
    oldest.removing = Some(moment());
    client.delete_image_for_good(&name, "").await.expect("an image that can be removed");
    oldest.removed = Some(moment());
}

/// Jobs that make files and images, one after another.
pub async fn work(target: Target, source: String, (first, jobs): (u64, u64)) -> Vec<Job> {
    let client = target.client();
    let mut done = Vec::new();
    for number in first..first + jobs {
        let asked = match number % 3 {
            0 => client.compress(compress_file(SOURCE, &format!("out-{number}.img"))).await,
            1 => client.compress(CompressRequest { source: image(&source), ..Default::default() }).await,
            _ => {
                let (source, format) = (image(&source), ImageFormat::Qcow2.into());
                client.convert(ConvertRequest { source, format, ..Default::default() }).await
            }
        };
        let (name, asked) = (asked.expect("a job").name, moment());
        let job = wait_for(&client, &name, JobState::Succeeded).await;
        let (file, image) = outputs(&job);
        done.push(Job { name, asked, succeeded: moment(), file, image });
    }
    done
}
