//! Those who use the servers: over a network that loses, repeats and reorders messages.

use std::rc::Rc;

use imageops_model::{ImageId, JobId, JobState, UploadId};

use super::schedule::Owner;
use super::server::{Answer, Request};
use super::{World, digest};

/// How long an answer is waited for.
const ANSWER_MS: i64 = 15_000;
/// How often it is looked for.
const LOOK_MS: i64 = 200;
/// Images that one client makes.
const IMAGES: u64 = 2;
/// Jobs on each of them.
const JOBS_MAX: u64 = 2;
/// Contents that are sent: few, so that some are equal.
const CONTENTS: u64 = 5;
const CONTENT_BYTES_MAX: u64 = 24;

/// One client from its first to its last request.
pub async fn run(world: Rc<World>, number: u64) {
    for _ in 0..IMAGES {
        world.sleep(world.below(30_000).cast_signed()).await;
        let client = Client { world: Rc::clone(&world), server: number as usize % world.machines.len() };
        let Some(image) = client.upload().await else { continue };
        for _ in 0..world.below(JOBS_MAX + 1) {
            client.job(image).await;
        }
        if world.happens(2) {
            client.remove(image).await;
        }
    }
}

struct Client {
    world: Rc<World>,
    /// Where its uploads go: staged bytes lie on one machine.
    server: usize,
}

impl Client {
    /// Sends an upload to its end; the image that it was told of.
    async fn upload(&self) -> Option<ImageId> {
        let world = &self.world;
        let content = vec![b'a' + world.below(CONTENTS) as u8; 1 + world.below(CONTENT_BYTES_MAX) as usize];
        let promise = if world.happens(12) { digest(b"others") } else { digest(&content) };
        let is_good = promise == digest(&content);
        let id = UploadId(world.uuid());
        world.reference.borrow_mut().upload_begins(id, self.server, content.clone(), is_good);
        let mut next = Request::Create(id, content.len() as u64, promise);
        let is_abandoned = world.happens(12);
        loop {
            match self.ask(self.server, &next).await {
                Answer::Offset(offset) => {
                    world.reference.borrow_mut().told_offset(id, offset);
                    if world.happens(40) {
                        next = Request::Abort(id);
                        world.reference.borrow_mut().upload_given_up(id);
                        continue;
                    }
                    if is_abandoned && offset > 0 {
                        world.reference.borrow_mut().upload_given_up(id);
                        return None;
                    }
                    let rest = &content[offset as usize..];
                    next = if rest.is_empty() {
                        Request::Commit(id)
                    } else {
                        let count = 1 + world.below(rest.len() as u64) as usize;
                        world.reference.borrow_mut().sends(id, offset + count as u64);
                        Request::Append(id, offset, rest[..count].to_vec())
                    };
                }
                Answer::Image(image) => {
                    let mut figures = world.figures.get();
                    figures.uploads += 1;
                    world.figures.set(figures);
                    world.tell(&format!("{id} is acknowledged as {image}"));
                    world.reference.borrow_mut().upload_acknowledged(id, image);
                    return Some(image);
                }
                Answer::Ended => {
                    world.reference.borrow_mut().upload_ended(id);
                    return None;
                }
                // It may not have begun, when the answer to the beginning was lost and it was given up since.
                Answer::No => return None,
                Answer::Job(..) | Answer::Done | Answer::Unavailable => world.sleep(1_000).await,
            }
        }
    }

    /// Has a job done, and perhaps stops it.
    async fn job(&self, image: ImageId) {
        let world = &self.world;
        let request = world.uuid();
        let wanted =
            if world.happens(3) { Request::Check(request, image) } else { Request::Convert(request, image) };
        let Answer::Job(id, _, output) = self.ask_until_told(&wanted).await else { return };
        world.reference.borrow_mut().job_acknowledged(id);
        if world.happens(5) {
            world.sleep(world.below(3_000).cast_signed()).await;
            self.ask_until_told(&Request::CancelJob(id)).await;
        }
        let state = self.wait_for_end(id).await;
        let mut figures = world.figures.get();
        figures.jobs += 1;
        world.figures.set(figures);
        world.reference.borrow_mut().job_end_told(id, state);
        if let Some(output) = output.filter(|_| state == JobState::Succeeded && world.happens(3)) {
            self.remove(output).await;
        }
    }

    async fn wait_for_end(&self, id: JobId) -> JobState {
        loop {
            match self.ask_until_told(&Request::GetJob(id)).await {
                Answer::Job(_, state, _) if state.is_final() => return state,
                Answer::No => self.world.reference.borrow_mut().fail(format!("R-1: {id} is forgotten")),
                _ => {}
            }
            self.world.sleep(5_000).await;
        }
    }

    async fn remove(&self, image: ImageId) {
        self.world.reference.borrow_mut().removes(image);
        if self.world.happens(2) {
            self.ask_until_told(&Request::Trash(image)).await;
        } else {
            self.ask_until_told(&Request::Purge(image)).await;
        }
    }

    async fn ask_until_told(&self, request: &Request) -> Answer {
        loop {
            let server = self.world.below(self.world.machines.len() as u64) as usize;
            match self.ask(server, request).await {
                Answer::Unavailable => self.world.sleep(1_000).await,
                answer => return answer,
            }
        }
    }

    /// One request; [`Answer::Unavailable`] when no answer comes.
    async fn ask(&self, server: usize, request: &Request) -> Answer {
        let world = &self.world;
        let call = world.calls.get();
        world.calls.set(call + 1);
        self.send(server, request.clone(), call);
        let until = world.now.get().plus_ms(ANSWER_MS);
        loop {
            world.sleep(LOOK_MS).await;
            if let Some(answer) = world.answers.borrow_mut().remove(&call) {
                return answer;
            }
            if world.now.get() >= until {
                return Answer::Unavailable;
            }
        }
    }

    /// A request on its way, once, twice or not at all; each one's answer as well.
    fn send(&self, server: usize, request: Request, call: u64) {
        for _ in 0..copies(&self.world) {
            let (world, request) = (Rc::clone(&self.world), request.clone());
            self.world.spawn(Owner::Network, async move {
                travel(&world).await;
                let Some(life) = world.machines[server].life.borrow().clone() else { return };
                let answering = Rc::clone(&world);
                world.spawn(Owner::Server(server), async move {
                    let answer = life.answer(request).await;
                    for _ in 0..copies(&answering) {
                        let (world, answer) = (Rc::clone(&answering), answer.clone());
                        answering.spawn(Owner::Network, async move {
                            travel(&world).await;
                            world.answers.borrow_mut().insert(call, answer);
                        });
                    }
                });
            });
        }
    }
}

/// How often a message arrives.
fn copies(world: &World) -> u64 {
    match world.below(20) {
        _ if world.is_calm.get() => 1,
        0 => 0,
        1 => 2,
        _ => 1,
    }
}

/// Mostly at once; now and then so late that others have overtaken it long ago.
async fn travel(world: &World) {
    let ms = if !world.is_calm.get() && world.happens(12) { world.below(60_000) } else { world.below(50) };
    world.sleep(ms.cast_signed()).await;
}
