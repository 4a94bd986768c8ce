//! Query strings of the native API: known parameters only, each once unless it may repeat.

use axum::http::Uri;
use imageops::v1::{Archive, ImageFormat, ImageOrder, ImageState, JobKind, JobState, UploadState};

use crate::problem::Problem;

/// The parameters of one request.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query of `uri`; parameters beside the `known` ones are refused, so that a misspelt filter does not
    /// silently answer everything.
    pub(crate) fn parse(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Problem::invalid("query", "cannot be decoded"))?
            .0;
        match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some(_) => Err(Problem::invalid("query", format!("the parameters are: {}", known.join(", ")))),
            None => Ok(Self(pairs)),
        }
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be there once.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = values.next();
        if values.next().is_some() { Err(Problem::invalid(name, "may be there once")) } else { Ok(first) }
    }

    /// The text of a parameter, empty where it is absent.
    pub(crate) fn text(&self, name: &str) -> Result<String, Problem> {
        Ok(self.one(name)?.unwrap_or_default().to_owned())
    }

    /// The number of a parameter, 0 where it is absent.
    pub(crate) fn number<N: std::str::FromStr + Default>(&self, name: &str) -> Result<N, Problem> {
        match self.one(name)? {
            Some(text) => text.parse().map_err(|_| Problem::invalid(name, "is no number that can be")),
            None => Ok(N::default()),
        }
    }

    /// The value of a parameter that is `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.one(name)?.map(|text| flag(name, text)).transpose()
    }

    /// The values of an enum parameter, repeated or separated by commas.
    pub(crate) fn choices<E: Choice>(&self, name: &str) -> Result<Vec<i32>, Problem> {
        self.all(name).flat_map(|value| value.split(',')).map(|value| choice::<E>(name, value)).collect()
    }
}

/// `true` or `false`.
pub(crate) fn flag(name: &str, text: &str) -> Result<bool, Problem> {
    text.parse().map_err(|_| Problem::invalid(name, "is `true` or `false`"))
}

/// An enum of the API whose values are told by their names.
pub(crate) trait Choice {
    /// What the names of all values begin with.
    const PREFIX: &'static str;

    /// The name of a value; UNSPECIFIED, which is 0, is no choice.
    fn name_of(number: i32) -> Option<&'static str>;
}

macro_rules! choices {
    ($($of:ty: $prefix:literal),* $(,)?) => {$(
        impl Choice for $of {
            const PREFIX: &'static str = $prefix;

            fn name_of(number: i32) -> Option<&'static str> {
                Self::try_from(number).ok().map(|value| value.as_str_name())
            }
        }
    )*};
}

choices! {
    Archive: "ARCHIVE_",
    ImageFormat: "IMAGE_FORMAT_",
    ImageOrder: "IMAGE_ORDER_",
    ImageState: "IMAGE_STATE_",
    JobKind: "JOB_KIND_",
    JobState: "JOB_STATE_",
    UploadState: "UPLOAD_STATE_",
}

/// One value of an enum by its name: `RUNNING` or `JOB_STATE_RUNNING`, in any case.
pub(crate) fn choice<E: Choice>(name: &str, value: &str) -> Result<i32, Problem> {
    let wanted = value.trim().to_ascii_uppercase();
    let wanted = wanted.strip_prefix(E::PREFIX).unwrap_or(&wanted);
    let short = |full: &'static str| full.strip_prefix(E::PREFIX).unwrap_or(full);
    let known = || (1..).map_while(|number| E::name_of(number).map(|full| (number, short(full))));
    known().find(|(_, short)| *short == wanted).map(|(number, _)| number).ok_or_else(|| {
        let known: Vec<_> = known().map(|(_, short)| format!("`{}`", short.to_ascii_lowercase())).collect();
        Problem::invalid(name, format!("is one of {}", known.join(", ")))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        let uri: Uri =
            "/v1/jobs?page_size=5&page_size=6&state=running,failed&state=JOB_STATE_QUEUED".parse().unwrap();
        let query = Query::parse(&uri, &["page_size", "state"]).unwrap();
        assert!(query.one("page_size").is_err());
        let states = query.choices::<JobState>("state").unwrap();
        assert_eq!(states, [2, 4, 1]);
        assert!(Query::parse(&uri, &["state"]).is_err());
    }

    #[test]
    fn numbers_flags_and_choices_are_checked() {
        let uri: Uri = "/x?a=-1&b=unspecified&c=%20&t=true&f=false&u=1".parse().unwrap();
        let query = Query::parse(&uri, &["a", "b", "c", "t", "f", "u"]).unwrap();
        assert_eq!((query.flag("t").unwrap(), query.flag("f").unwrap()), (Some(true), Some(false)));
        assert!(query.flag("u").is_err() && query.flag("none").unwrap().is_none());
        assert!(query.number::<u32>("a").is_err());
        assert!(query.choices::<JobState>("b").is_err());
        assert!(query.choices::<JobState>("c").is_err());
        assert_eq!(query.number::<u32>("d").unwrap(), 0);
        let told = choice::<Archive>("archive", "tar").unwrap_err().to_json()["detail"].clone();
        assert_eq!(told, "archive: is one of `zip`, `gzip`, `xz`, `zstd`");
    }
}
