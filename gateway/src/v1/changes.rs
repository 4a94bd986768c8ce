//! Changes of records: PATCH with a mask, and the entity tags that guard them.

use axum::body::Body;
use axum::http::{HeaderMap, Uri};
use imageops::FieldMask;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{header_text, malformed, read_json};
use crate::problem::Problem;
use crate::query::Query;
use crate::router::Gateway;

/// A record with new values, and which of them count.
pub(super) struct Change<M> {
    pub(super) record: M,
    pub(super) update_mask: FieldMask,
}

impl<M: DeserializeOwned> Change<M> {
    /// Reads the body; without `update_mask` in the query the members that the body has are the mask.
    pub(super) async fn read(
        gateway: &Gateway,
        uri: &Uri,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Self, Problem> {
        let query = Query::parse(uri, &["update_mask"])?;
        let body = read_json(gateway, headers, body).await?;
        let members: Map<String, Value> = serde_json::from_slice(&body).map_err(malformed)?;
        let update_mask = match query.one("update_mask")? {
            Some(mask) => serde_json::from_value(Value::String(mask.to_owned()))
                .map_err(|_| Problem::invalid("update_mask", "names members in lowerCamelCase"))?,
            None => mask_of(&members)?,
        };
        Ok(Self { record: serde_json::from_slice(&body).map_err(malformed)?, update_mask })
    }
}

/// The members that a body has, but for those that say which image is meant.
fn mask_of(members: &Map<String, Value>) -> Result<FieldMask, Problem> {
    let named = members.keys().filter(|member| !["name", "etag"].contains(&member.as_str()));
    let mut mask = FieldMask::default();
    for member in named {
        // The spelling of the proto files is taken in bodies as well.
        let path: FieldMask = if member.contains('_') {
            FieldMask { paths: vec![member.clone()] }
        } else {
            serde_json::from_value(Value::String(member.clone())).map_err(malformed)?
        };
        mask.paths.extend(path.paths);
    }
    Ok(mask)
}

/// The etag of `If-Match`; `None` when any will do.
pub(super) fn expected_etag(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = header_text(headers, "if-match")? else { return Ok(None) };
    if text == "*" {
        return Ok(None);
    }
    let etag = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match etag.filter(|etag| !etag.is_empty() && !etag.contains(['"', ','])) {
        Some(etag) => Ok(Some(etag.to_owned())),
        None => Err(Problem::invalid("If-Match", "holds one entity tag in quotation marks, or `*`")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    #[test]
    fn the_members_of_a_body_are_its_mask() {
        let members =
            serde_json::json!({"displayName": "a", "tags": [], "name": "x", "etag": "1", "size_bytes": 1});
        let mut mask = mask_of(members.as_object().unwrap()).unwrap();
        mask.paths.sort();
        assert_eq!(mask.paths, ["display_name", "size_bytes", "tags"]);
    }

    #[test]
    fn an_entity_tag_stands_in_quotation_marks() {
        let etag = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            expected_etag(&HeaderMap::from_iter([(header::IF_MATCH, value)]))
        };
        assert_eq!(etag("\"1f\"").unwrap(), Some("1f".to_owned()));
        assert_eq!(etag("*").unwrap(), None);
        for wrong in ["1f", "\"\"", "W/\"1f\"", "\"1\", \"2\"", ""] {
            assert!(etag(wrong).is_err(), "{wrong}");
        }
    }
}
