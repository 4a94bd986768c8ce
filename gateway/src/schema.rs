//! JSON schemas: of the messages, from the descriptors of the contract with its comments; of the rest, by hand.

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
};
use serde_json::{Map, Value, json};

/// The schemas that a document refers to, by name.
pub(crate) struct Schemas {
    pool: DescriptorPool,
    found: Map<String, Value>,
}

impl Schemas {
    /// None yet.
    pub(crate) fn new() -> Self {
        let pool = DescriptorPool::decode(imageops::v1::FILE_DESCRIPTOR_SET)
            .expect("the descriptors were written by the build of this very program");
        Self { pool, found: Map::new() }
    }

    /// A reference to the schema of a message of `imageops.v1`; it and all it needs are added.
    pub(crate) fn message(&mut self, name: &str) -> Value {
        let message = self.pool.get_message_by_name(&format!("imageops.v1.{name}"));
        self.add_message(&message.expect("the table of routes names messages of the contract"));
        reference(name)
    }

    /// A reference to a schema that is no message.
    pub(crate) fn other(&mut self, name: &str) -> Value {
        let schema = other(name).expect("the table of routes names schemas that exist");
        self.found.insert(name.to_owned(), schema);
        reference(name)
    }

    /// All that were referred to.
    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.found
    }

    fn add_message(&mut self, message: &MessageDescriptor) {
        if self.found.contains_key(message.name()) {
            return;
        }
        // Marked before its members are visited: messages may contain each other.
        self.found.insert(message.name().to_owned(), Value::Null);
        let properties: Map<String, Value> =
            message.fields().map(|field| (field.json_name().to_owned(), self.field(&field))).collect();
        let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
        describe(&mut schema, comment(&message.parent_file(), message.path()));
        self.found.insert(message.name().to_owned(), schema);
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                json!({"type": "object", "additionalProperties": self.kind(&entry.map_entry_value_field().kind())})
            }
            kind if field.is_list() => json!({"type": "array", "items": self.kind(&kind)}),
            kind => self.kind(&kind),
        };
        describe(&mut schema, comment(&field.parent_message().parent_file(), field.path()));
        schema
    }

    /// The canonical JSON form: 64-bit numbers are texts.
    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double | Kind::Float => json!({"type": "number"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "pattern": "^-?[0-9]+$"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "pattern": "^[0-9]+$"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
                // Names of members with commas between.
                "google.protobuf.FieldMask" => json!({"type": "string"}),
                "google.protobuf.Duration" => {
                    json!({"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"})
                }
                _ => {
                    self.add_message(message);
                    reference(message.name())
                }
            },
            Kind::Enum(choice) => {
                self.add_enum(choice);
                reference(choice.name())
            }
        }
    }

    fn add_enum(&mut self, choice: &EnumDescriptor) {
        let file = choice.parent_file();
        let names: Vec<String> = choice.values().map(|value| value.name().to_owned()).collect();
        let lines = choice.values().map(|value| {
            let text = comment(&file, value.path()).unwrap_or_default();
            format!("- `{}`: {text}", value.name())
        });
        let text = comment(&file, choice.path()).unwrap_or_default();
        let text = std::iter::once(format!("{text}\n")).chain(lines).collect::<Vec<_>>().join("\n");
        let mut schema = json!({"type": "string", "enum": names});
        describe(&mut schema, Some(text));
        self.found.insert(choice.name().to_owned(), schema);
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn describe(schema: &mut Value, text: Option<String>) {
    if let Some(text) = text {
        schema["description"] = text.into();
    }
}

/// The comment in front of a definition, its lines joined as they were wrapped for the proto file only.
fn comment(file: &FileDescriptor, path: &[i32]) -> Option<String> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = info.location.iter().find(|location| location.path == path)?;
    let lines: Vec<_> = location.leading_comments.as_deref()?.lines().map(str::trim).collect();
    Some(lines.join(" ").trim().to_owned())
}

/// The schemas of bodies that are no messages.
fn other(name: &str) -> Option<Value> {
    let name_of_file =
        json!({"type": "string", "minLength": 1, "description": "Relative to the image root."});
    Some(match name {
        "Problem" => json!({
            "type": "object",
            "description": "An error (RFC 9457). Programs look at `reason`, people at `detail`.",
            "required": ["type", "title", "status", "detail", "reason"],
            "properties": {
                "type": {"type": "string", "format": "uri"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "reason": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"},
                "durable_bytes": {"type": "string", "description": "Where a refused upload goes on."},
                "violations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
                    },
                },
            },
        }),
        "OpsCheckRequest" => json!({
            "type": "object",
            "required": ["inputImageName"],
            "properties": {"inputImageName": name_of_file},
        }),
        "OpsCompressRequest" => json!({
            "type": "object",
            "required": ["inputImageName", "outputImageName"],
            "properties": {"inputImageName": name_of_file, "outputImageName": name_of_file},
        }),
        "OpsStarted" => json!({
            "type": "object",
            "required": ["msg", "requestId", "status"],
            "properties": {
                "msg": {"type": "string"},
                "requestId": {"type": "string", "format": "uuid"},
                "status": {"type": "integer", "enum": [0, 1]},
            },
        }),
        "OpsCheck" => json!({
            "type": "object",
            "required": ["checkInfo", "msg", "status"],
            "properties": {
                "msg": {"type": "string"},
                "status": {"type": "integer", "minimum": 0, "maximum": 6},
                "checkInfo": {
                    "type": "object",
                    "required": ["checkResult", "checksum", "imageInfo"],
                    "properties": {
                        "checkResult": {"type": "integer", "enum": [0, 1, 2, 3, 4, 63, 99, 100]},
                        "checksum": {"type": ["string", "null"]},
                        "imageInfo": {"type": ["object", "null"], "additionalProperties": {"type": ["string", "number"]}},
                    },
                },
            },
        }),
        "OpsCompress" => json!({
            "type": "object",
            "required": ["msg", "rate", "status"],
            "properties": {
                "msg": {"type": "string"},
                "rate": {"type": "number", "minimum": 0, "maximum": 1},
                "status": {"type": "integer", "minimum": 0, "maximum": 4},
            },
        }),
        name => return file_system(name),
    })
}

/// The schemas of the EdgeGallery file-system service.
fn file_system(name: &str) -> Option<Value> {
    let text = json!({"type": "string"});
    let common = json!({
        "imageId": {"type": "string", "format": "uuid"},
        "fileName": text,
        "userId": text,
        "storageMedium": text,
        "uploadTime": {"type": "string", "pattern": "^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d$"},
        "slimStatus": {"type": "integer", "minimum": 0, "maximum": 3},
    });
    let object = |more: Value| {
        let mut properties = common.clone();
        for (name, schema) in more.as_object().into_iter().flatten() {
            properties[name] = schema.clone();
        }
        let required: Vec<_> =
            properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        json!({"type": "object", "required": required, "properties": properties})
    };
    let image = || {
        let info = json!({
            "type": "object",
            "required": ["image-end-offset", "check-errors", "format", "filename"],
            "properties": {
                "image-end-offset": text, "check-errors": text, "format": text, "filename": text,
                "disk_size": text, "virtual_size": {"type": "number"},
            },
        });
        let check = json!({
            "type": "object",
            "required": ["checksum", "checkResult", "imageInfo"],
            "properties": {"checksum": text, "checkResult": {"type": "integer"}, "imageInfo": info},
        });
        let mut image = object(json!({"checkStatusResponse": {
            "type": "object",
            "required": ["status", "msg", "checkInfo"],
            "properties": {
                "status": {"type": "integer", "minimum": 0, "maximum": 6}, "msg": text, "checkInfo": check,
            },
        }}));
        image["properties"]["compressInfo"] = json!({
            "type": "object",
            "properties": {
                "compressStatus": {"type": "integer"}, "compressMsg": text, "compressRate": {"type": "number"},
            },
        });
        image
    };
    Some(match name {
        "FsUploaded" => object(json!({"checkStatus": {"type": "integer", "enum": [0, 1]}, "msg": text})),
        "FsImage" => image(),
        "FsList" => json!({"type": "array", "items": image()}),
        _ => return None,
    })
}
