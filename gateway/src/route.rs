//! The one table of what the gateway serves: the router and the OpenAPI document are both made from it.

use std::sync::Arc;

use axum::routing::MethodRouter;

use crate::router::Gateway;

/// What a request or answer carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// Nothing.
    Empty,
    /// Canonical JSON of a message of `imageops.v1`, by its short name.
    Message(&'static str),
    /// JSON of one of the schemas that are no messages: `Ops…`, `Problem`.
    Json(&'static str),
    /// Bytes or text under this content type.
    Raw(&'static str),
    /// A `multipart/form-data` form.
    Form {
        /// Its text fields.
        texts: &'static [&'static str],
        /// Its file, which must be there. Empty: it has none.
        file: &'static str,
    },
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the path.
    Path,
    /// In the query string.
    Query,
    /// In a header.
    Header,
}

/// A parameter of an operation; its value is a text for the OpenAPI document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    /// Where it stands.
    pub(crate) place: Place,
    /// Its name.
    pub(crate) name: &'static str,
    /// What it means.
    pub(crate) description: &'static str,
    /// Whether it must be there.
    pub(crate) required: bool,
}

/// One answer of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// When it is given.
    pub(crate) description: &'static str,
    /// What it carries.
    pub(crate) content: Content,
}

/// One method of one path.
pub(crate) struct Route {
    /// The method, in lower case as OpenAPI writes it.
    pub(crate) method: &'static str,
    /// The path with `{parameters}`. A verb may follow the last one: `/v1/jobs/{id}:cancel`.
    pub(crate) path: &'static str,
    /// Unique name of the operation.
    pub(crate) operation: &'static str,
    /// One sentence.
    pub(crate) summary: &'static str,
    /// Group.
    pub(crate) tag: &'static str,
    /// Parameters.
    pub(crate) parameters: Vec<Parameter>,
    /// What the request carries, in all forms that are taken.
    pub(crate) request: Vec<Content>,
    /// The answers, without the errors that every operation of its group can give.
    pub(crate) answers: Vec<Answer>,
    /// Whether a slash at the end of the path changes nothing.
    pub(crate) slash_allowed: bool,
    /// What does it.
    pub(crate) handler: MethodRouter<Arc<Gateway>>,
}

impl Route {
    /// A route with nothing but its names; the parameters of its path are found in it.
    pub(crate) fn new(
        method: &'static str,
        path: &'static str,
        operation: &'static str,
        summary: &'static str,
        handler: MethodRouter<Arc<Gateway>>,
    ) -> Self {
        let parameters = path_parameters(path);
        Self {
            method,
            path,
            operation,
            summary,
            tag: "",
            parameters,
            request: vec![],
            answers: vec![],
            slash_allowed: false,
            handler,
        }
    }

    /// Puts it into a group.
    pub(crate) fn tag(mut self, tag: &'static str) -> Self {
        self.tag = tag;
        self
    }

    /// Adds an optional query parameter.
    pub(crate) fn query(mut self, name: &'static str, description: &'static str) -> Self {
        self.parameters.push(Parameter { place: Place::Query, name, description, required: false });
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &'static str, description: &'static str, required: bool) -> Self {
        self.parameters.push(Parameter { place: Place::Header, name, description, required });
        self
    }

    /// Adds a form of the request's body.
    pub(crate) fn takes(mut self, content: Content) -> Self {
        self.request.push(content);
        self
    }

    /// Adds an answer.
    pub(crate) fn answers(mut self, status: u16, description: &'static str, content: Content) -> Self {
        self.answers.push(Answer { status, description, content });
        self
    }

    /// Serves the path with a slash at its end too.
    pub(crate) fn slash_allowed(mut self) -> Self {
        self.slash_allowed = true;
        self
    }

    /// The path as the router matches it: the router knows no text behind a parameter, the handler looks at it.
    pub(crate) fn matched_path(&self) -> &'static str {
        match self.path.rfind("}:") {
            Some(end) => &self.path[..=end],
            None => self.path,
        }
    }
}

fn path_parameters(path: &'static str) -> Vec<Parameter> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    names
        .map(|name| Parameter {
            place: Place::Path,
            name,
            description: match name {
                "session" => "Name of the session.",
                "part" => "Number of the part, from 1.",
                "store" => "UUID or display name of the store.",
                "tenant" => "The tenant.",
                _ => "UUID of the thing meant.",
            },
            required: true,
        })
        .collect()
}
