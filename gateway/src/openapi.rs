//! The OpenAPI document, made from the table of routes.

use serde_json::{Map, Value, json};

use crate::route::{Answer, Content, Parameter, Place, Route};
use crate::schema::Schemas;

/// The document of these routes.
pub(crate) fn document(routes: &[Route]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in routes {
        let operation = operation(route, &mut schemas);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "imageops",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Checks, compresses, takes in and hands out virtual-machine images. Bodies are the canonical \
                JSON of the messages of `imageops.v1`; 64-bit numbers are texts. Errors below `/v1` are problems \
                (RFC 9457) with a stable `reason`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas.into_map(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        // A server without authentication asks for no key.
        "security": [{}, {"key": []}],
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut answers: Map<String, Value> =
        route.answers.iter().map(|answer| (answer.status.to_string(), response(answer, schemas))).collect();
    if route.path.starts_with("/v1/") {
        let problem = Content::Json("Problem");
        let failure = Answer { status: 0, description: "What went wrong.", content: problem };
        answers.insert("default".to_owned(), response(&failure, schemas));
    }
    let mut operation = json!({
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": answers,
    });
    if !route.parameters.is_empty() {
        operation["parameters"] = route.parameters.iter().map(parameter).collect();
    }
    if !route.request.is_empty() {
        let forms: Map<String, Value> =
            route.request.iter().filter_map(|form| media(*form, schemas)).collect();
        operation["requestBody"] = json!({"content": forms});
    }
    operation
}

fn response(answer: &Answer, schemas: &mut Schemas) -> Value {
    let mut response = json!({"description": answer.description});
    if let Some((media_type, media)) = media(answer.content, schemas) {
        response["content"] = json!({media_type: media});
    }
    response
}

fn media(content: Content, schemas: &mut Schemas) -> Option<(String, Value)> {
    let (media_type, schema) = match content {
        Content::Empty => return None,
        Content::Message(name) => ("application/json", schemas.message(name)),
        Content::Json("Problem") => ("application/problem+json", schemas.other("Problem")),
        Content::Json(name) => ("application/json", schemas.other(name)),
        Content::Form { texts, file } => ("multipart/form-data", form_schema(texts, file)),
        Content::Raw(media_type) => (media_type, json!({})),
    };
    Some((media_type.to_owned(), json!({"schema": schema})))
}

fn form_schema(texts: &[&str], file: &str) -> Value {
    let text = |name: &&str| ((*name).to_owned(), json!({"type": "string"}));
    let mut properties: Map<String, Value> = texts.iter().map(text).collect();
    let mut schema = json!({"type": "object"});
    if !file.is_empty() {
        properties.insert(
            file.to_owned(),
            json!({"type": "string", "contentMediaType": "application/octet-stream"}),
        );
        schema["required"] = json!([file]);
    }
    schema["properties"] = properties.into();
    schema
}

fn parameter(parameter: &Parameter) -> Value {
    let place = match parameter.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Header => "header",
    };
    json!({
        "name": parameter.name,
        "in": place,
        "description": parameter.description,
        "required": parameter.required,
        "schema": {"type": "string"},
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::router::all_routes;

    /// All `$ref`s in a document.
    fn references(value: &Value, found: &mut HashSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(target)) = members.get("$ref") {
                    found.insert(target.clone());
                }
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_in_the_document_once() {
        let routes = all_routes();
        let document = document(&routes);
        let mut operations = HashSet::new();
        for route in &routes {
            let operation = &document["paths"][route.path][route.method];
            assert_eq!(operation["operationId"], route.operation, "{} {}", route.method, route.path);
            assert!(operations.insert(route.operation), "{} is there twice", route.operation);
            assert!(!route.tag.is_empty() && !route.answers.is_empty(), "{}", route.operation);
        }
        let listed: usize =
            document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(listed, routes.len());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document(&all_routes());
        let mut found = HashSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for target in found {
            let name = target.strip_prefix("#/components/schemas/").unwrap();
            assert!(document["components"]["schemas"][name].get("type").is_some(), "{target}");
        }
    }

    #[test]
    fn schemas_are_those_of_the_contract_with_its_comments() {
        let document = document(&all_routes());
        let schemas = &document["components"]["schemas"];
        let job = &schemas["Job"]["properties"];
        assert_eq!(job["createTime"]["format"], "date-time");
        assert_eq!(job["revision"]["type"], "string");
        assert_eq!(job["state"]["$ref"], "#/components/schemas/JobState");
        assert_eq!(schemas["Progress"]["properties"]["percent"]["type"], "number");
        assert!(schemas["Job"]["description"].as_str().unwrap().starts_with("A piece of work"));
        assert!(schemas["JobState"]["enum"].as_array().unwrap().contains(&json!("JOB_STATE_RUNNING")));
        assert!(schemas["JobState"]["description"].as_str().unwrap().contains("A worker is at it."));
    }
}
