//! A resolver that answers what a test says, each time the next of it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use imageops_fetch::{Gate, Policy, Resolver};

/// Names, and what they answer to the first, second, … question; the last answer stays.
#[derive(Default)]
pub(crate) struct Names {
    answers: HashMap<String, Vec<Vec<IpAddr>>>,
    asked: Mutex<HashMap<String, usize>>,
    /// Questions in all.
    pub(crate) questions: AtomicUsize,
}

impl Names {
    pub(crate) fn of(names: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let answer = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        let answers = names
            .iter()
            .map(|(name, answers)| ((*name).to_owned(), answers.iter().map(answer).collect()))
            .collect();
        Arc::new(Self { answers, ..Self::default() })
    }
}

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        let answers = self.answers.get(host).ok_or(io::ErrorKind::NotFound)?;
        let mut asked = self.asked.lock().unwrap();
        let count = asked.entry(host.to_owned()).or_default();
        let answer = answers[(*count).min(answers.len() - 1)].clone();
        *count += 1;
        Ok(answer)
    }
}

/// A gate that lets through what `allowed` says, at any port.
pub(crate) fn gate(names: &Arc<Names>, allowed: &[&str]) -> Gate {
    let policy = Policy {
        ports: vec!["1-65535".parse().unwrap()],
        allowed: allowed.iter().map(|text| text.parse().unwrap()).collect(),
        ..Policy::default()
    };
    Gate::new(policy, Arc::clone(names) as Arc<dyn Resolver>)
}
