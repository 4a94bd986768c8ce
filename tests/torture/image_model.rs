//! What an image is meant to be to its clients, as a model of histories.

use crate::history::Model;

/// One image, from before its record was made to behind its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// Where it is in its life.
    pub stage: Stage,
    /// What was said of it last.
    pub description: String,
    /// Its etag; `None` while nobody was told of it.
    pub etag: Option<String>,
    /// Digest of its bytes, once they are there.
    pub sha256: String,
}

/// Where an image is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It never was.
    Absent,
    /// A record without bytes.
    Queued,
    /// This upload fills it.
    Uploading(u64),
    /// Its bytes are there; this upload has brought them.
    Active(u64),
    /// It lies in the trash.
    Trashed(u64),
    /// It is gone for good.
    Gone,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub enum Call {
    /// Make the record.
    Create,
    /// Begin to fill it, with an upload of this number.
    Begin(u64),
    /// End that with bytes of this digest.
    Commit(u64, String),
    /// Give it up.
    Abort(u64),
    /// Show it; in a list as well.
    Show,
    /// Read its bytes.
    Download,
    /// Say this of it, if it still has that etag.
    Update(String, String),
    /// Put it into the trash, if it still has that etag, unless that is empty.
    Delete(String),
    /// Take it back.
    Restore,
    /// Remove it for good.
    Purge,
    /// Have it converted.
    Convert,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The image as it is now.
    Image(Shown),
    /// Bytes of this digest.
    Bytes(String),
    /// It is done.
    Done,
    /// There is none.
    NotFound,
    /// It is in a state that does not allow this.
    Precondition,
    /// It has another etag.
    Stale,
    /// The id stands for another one.
    Exists,
}

/// What of an image is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Name of its state.
    pub state: &'static str,
    /// What is said of it.
    pub description: String,
    /// Its etag.
    pub etag: String,
    /// Digest of its bytes.
    pub sha256: String,
}

impl Default for Image {
    fn default() -> Self {
        Self { stage: Stage::Absent, description: String::new(), etag: None, sha256: String::new() }
    }
}

impl Image {
    fn is_there(&self) -> bool {
        !matches!(self.stage, Stage::Absent | Stage::Gone)
    }

    fn state(&self) -> &'static str {
        match self.stage {
            Stage::Queued => "queued",
            Stage::Uploading(_) => "uploading",
            Stage::Active(_) => "active",
            Stage::Trashed(_) => "trashed",
            Stage::Absent | Stage::Gone => "",
        }
    }

    /// It moves, and so gets an etag that nobody knows yet.
    fn moved(&self, stage: Stage) -> Self {
        if stage == self.stage { self.clone() } else { Self { stage, etag: None, ..self.clone() } }
    }

    /// The same image, if it is the one that was shown, whose etag is known from then on.
    fn shown(&self, shown: &Shown) -> Option<Self> {
        let is_same = self.is_there()
            && (self.state(), &self.description, &self.sha256)
                == (shown.state, &shown.description, &shown.sha256)
            && self.has_etag(&shown.etag);
        is_same.then(|| Self { etag: Some(shown.etag.clone()), ..self.clone() })
    }

    /// Whether it has, or may have, this etag.
    fn has_etag(&self, etag: &str) -> bool {
        self.etag.as_ref().is_none_or(|known| known == etag)
    }

    /// After a call that only needs the image: what the call makes of it, or why not.
    fn done(&self, call: &Call) -> Result<Self, Answer> {
        if matches!(call, Call::Create) {
            return match self.stage {
                Stage::Absent => Ok(self.moved(Stage::Queued)),
                Stage::Queued if self.description.is_empty() => Ok(self.clone()),
                _ => Err(Answer::Exists),
            };
        }
        if !self.is_there() {
            return Err(Answer::NotFound);
        }
        let stage = match (call, &self.stage) {
            (Call::Begin(upload), Stage::Queued) => Stage::Uploading(*upload),
            (Call::Commit(upload, sha256), Stage::Uploading(filling)) if filling == upload => {
                return Ok(Self { sha256: sha256.clone(), ..self.moved(Stage::Active(*upload)) });
            }
            (Call::Update(description, _), _) => {
                return Ok(Self { description: description.clone(), etag: None, ..self.clone() });
            }
            (Call::Show, stage) => stage.clone(),
            (Call::Download | Call::Convert, Stage::Active(upload)) => Stage::Active(*upload),
            (Call::Delete(_), Stage::Active(upload) | Stage::Trashed(upload)) => Stage::Trashed(*upload),
            (Call::Restore, Stage::Active(upload) | Stage::Trashed(upload)) => Stage::Active(*upload),
            (Call::Purge, Stage::Queued | Stage::Trashed(_)) => Stage::Gone,
            _ => return Err(Answer::Precondition),
        };
        Ok(self.moved(stage))
    }

    /// An upload is given up: the record is empty again if it was the one that filled it.
    fn aborted(&self, upload: u64, answer: Option<&Answer>) -> Option<Self> {
        match &self.stage {
            Stage::Uploading(filling) if *filling == upload => {
                let may_be = answer.is_none_or(|answer| *answer == Answer::Done);
                may_be.then(|| self.moved(Stage::Queued))
            }
            Stage::Active(by) | Stage::Trashed(by) if *by == upload => {
                answer.is_none_or(|answer| *answer == Answer::Precondition).then(|| self.clone())
            }
            // It never began, was given up before, or brought the bytes of an image that is gone: the image does not tell.
            _ => Some(self.clone()),
        }
    }
}

impl Model for Image {
    type Call = Call;
    type Answer = Answer;

    fn after(&self, call: &Call, answer: Option<&Answer>) -> Option<Self> {
        if let Call::Abort(upload) = call {
            return self.aborted(*upload, answer);
        }
        let wanted = match call {
            Call::Update(_, etag) | Call::Delete(etag) => Some(etag).filter(|etag| !etag.is_empty()),
            _ => None,
        };
        let may_be_stale = wanted.is_some_and(|etag| self.is_there() && self.etag.as_ref() != Some(etag));
        if answer == Some(&Answer::Stale) {
            return may_be_stale.then(|| self.clone());
        }
        if self.is_there() && wanted.is_some_and(|etag| !self.has_etag(etag)) {
            return None;
        }
        match (self.done(call), answer) {
            (Ok(after), None | Some(Answer::Done)) => Some(after),
            (Ok(after), Some(Answer::Image(shown))) => after.shown(shown),
            (Ok(after), Some(Answer::Bytes(sha256))) => (after.sha256 == *sha256).then_some(after),
            (Err(refusal), Some(answer)) => (refusal == *answer).then(|| self.clone()),
            // It would have been refused: nothing was done.
            (Err(_), None) | (Ok(_), Some(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Operation, explain};

    /// Operations one after another.
    fn history(steps: &[(Call, Option<Answer>)]) -> Vec<Operation<Image>> {
        let one = |(index, (call, answer)): (usize, &(Call, Option<Answer>))| {
            let start_us = 10 * index as u64;
            Operation { call: call.clone(), answer: answer.clone(), start_us, end_us: start_us + 5 }
        };
        steps.iter().enumerate().map(one).collect()
    }

    fn image(state: &'static str, description: &str, etag: &str, sha256: &str) -> Option<Answer> {
        let text = str::to_owned;
        Some(Answer::Image(Shown {
            state,
            description: text(description),
            etag: text(etag),
            sha256: text(sha256),
        }))
    }

    fn filled() -> Vec<(Call, Option<Answer>)> {
        vec![
            (Call::Create, image("queued", "", "1", "")),
            (Call::Begin(7), Some(Answer::Done)),
            (Call::Commit(7, "aa".into()), image("active", "", "3", "aa")),
        ]
    }

    #[test]
    fn a_life_is_explained() {
        let mut steps = filled();
        steps.extend([
            (Call::Download, Some(Answer::Bytes("aa".into()))),
            (Call::Update("b".into(), "3".into()), image("active", "b", "4", "aa")),
            (Call::Update("c".into(), "3".into()), Some(Answer::Stale)),
            (Call::Purge, Some(Answer::Precondition)),
            (Call::Delete("4".into()), image("trashed", "b", "5", "aa")),
            (Call::Download, Some(Answer::Precondition)),
            (Call::Restore, image("active", "b", "6", "aa")),
            (Call::Delete(String::new()), None),
            (Call::Purge, Some(Answer::Done)),
            (Call::Show, Some(Answer::NotFound)),
            (Call::Create, Some(Answer::Exists)),
        ]);
        // The purge tells that the delete before it, of which nothing is known, has happened.
        let mut history = history(&steps);
        history[10].end_us = 1_000;
        explain(Image::default(), &history).unwrap();
    }

    #[test]
    fn what_cannot_be_is_found() {
        let wrong = [
            // Acknowledged and lost.
            (Call::Show, Some(Answer::NotFound)),
            (Call::Show, image("uploading", "", "2", "")),
            // Other bytes.
            (Call::Download, Some(Answer::Bytes("bb".into()))),
            (Call::Show, image("active", "", "3", "bb")),
            // A change that nobody made.
            (Call::Show, image("active", "x", "3", "aa")),
            (Call::Show, image("active", "", "4", "aa")),
            // An etag that was taken although it was another one, or the other way round.
            (Call::Update("b".into(), "2".into()), image("active", "b", "4", "aa")),
            (Call::Update("b".into(), "3".into()), Some(Answer::Stale)),
            (Call::Create, image("queued", "", "3", "")),
            (Call::Purge, Some(Answer::Done)),
            (Call::Abort(7), Some(Answer::Done)),
        ];
        for step in wrong {
            let steps = [filled(), vec![step.clone()]].concat();
            assert!(explain(Image::default(), &history(&steps)).is_err(), "{step:?}");
        }
    }
}
