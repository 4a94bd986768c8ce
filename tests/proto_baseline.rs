//! What clients in the field know of `imageops.v1` stays true: the contract is compared with the kept baseline.
//!
//! `buf breaking` asks the same in `cargo xtask check`; this test is for everyone without buf.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, FileDescriptorSet};
use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, ServiceDescriptor};

const BASELINE: &[u8] = include_bytes!("../proto/imageops/v1/baseline.binpb");
const PACKAGE: &str = "imageops.v1";

#[test]
fn the_contract_keeps_what_the_baseline_promises() {
    let breaks = breaks(&pool(BASELINE), &pool(imageops::v1::FILE_DESCRIPTOR_SET));
    assert!(breaks.is_empty(), "clients in the field would break:\n{}", breaks.join("\n"));
}

/// Every way to break a client is noticed: the comparison is worth something.
#[test]
fn each_breaking_change_is_noticed() {
    type Change = fn(&mut FileDescriptorSet);
    // What is done, what must be said about it, and how it is done.
    let changes: &[(&str, &str, Change)] = &[
        ("a removed message", "imageops.v1.GetJobRequest is gone", |set| {
            let file = file(set, "service.proto");
            file.service[0].method.retain(|method| method.name() != "GetJob");
            self::file(set, "jobs.proto")
                .message_type
                .retain(|message| !message.name().starts_with("GetJob"));
        }),
        ("a removed field", "Reason.code (number 1) is gone", |set| {
            message(set, "images.proto", "Reason").field.retain(|field| field.name() != "code")
        }),
        ("a renumbered field", "Reason.code (number 1) is gone", |set| {
            field(set, "images.proto", "Reason", "code").number = Some(77)
        }),
        ("a renamed field", "Reason.code: was", |set| {
            field(set, "images.proto", "Reason", "code").name = Some("id".into())
        }),
        ("another name in JSON", "Reason.offset_bytes: was", |set| {
            field(set, "images.proto", "Reason", "offset_bytes").json_name = Some("offset".into());
        }),
        ("another type", "Reason.code: was", |set| {
            field(set, "images.proto", "Reason", "code").set_type(Type::Bytes)
        }),
        ("another message type", "Image.update_time: was", |set| {
            field(set, "images.proto", "Image", "update_time").type_name =
                Some(".imageops.v1.Digests".into());
        }),
        ("a list that was one", "Reason.code: was", |set| {
            field(set, "images.proto", "Reason", "code").set_label(Label::Repeated)
        }),
        ("presence lost", "Reason.offset_bytes: was", |set| {
            let reason = message(set, "images.proto", "Reason");
            reason.oneof_decl.clear();
            let field = reason.field.iter_mut().find(|field| field.name() == "offset_bytes").unwrap();
            (field.proto3_optional, field.oneof_index) = (None, None);
        }),
        ("a member that left its oneof", "Source.image: was", |set| {
            field(set, "images.proto", "Source", "image").oneof_index = None
        }),
        ("a removed enum", "imageops.v1.ImageState is gone", |set| {
            file(set, "images.proto").enum_type.retain(|kind| kind.name() != "ImageState");
            message(set, "images.proto", "Image").field.retain(|field| field.name() != "state");
        }),
        ("a removed value", "IMAGE_FORMAT_OTHER = 12", |set| {
            file(set, "images.proto").enum_type[0].value.pop();
        }),
        ("a renumbered value", "IMAGE_FORMAT_OTHER = 12", |set| {
            file(set, "images.proto").enum_type[0].value.last_mut().unwrap().number = Some(99);
        }),
        ("a renamed value", "IMAGE_FORMAT_OTHER = 12", |set| {
            file(set, "images.proto").enum_type[0].value.last_mut().unwrap().name =
                Some("IMAGE_FORMAT_X".into());
        }),
        ("a removed service", "imageops.v1.ImageOps is gone", |set| {
            file(set, "service.proto").service.clear()
        }),
        ("a removed method", "imageops.v1.ImageOps.DeleteJob is gone", |set| {
            file(set, "service.proto").service[0].method.pop();
        }),
        ("a stream of answers lost", "ImageOps.WatchStatus: was", |set| {
            method(set, "WatchStatus").server_streaming = Some(false);
        }),
        ("a stream of requests lost", "ImageOps.UploadImage: was", |set| {
            method(set, "UploadImage").client_streaming = Some(false);
        }),
        ("another request", "ImageOps.GetJob: was", |set| {
            method(set, "GetJob").input_type = Some(".imageops.v1.GetUploadRequest".into())
        }),
        ("another answer", "ImageOps.GetJob: was", |set| {
            method(set, "GetJob").output_type = Some(".imageops.v1.GetUploadResponse".into())
        }),
    ];
    let old = pool(BASELINE);
    for (what, said, change) in changes {
        let mut set = FileDescriptorSet::decode(BASELINE).unwrap();
        change(&mut set);
        let new =
            DescriptorPool::from_file_descriptor_set(set).unwrap_or_else(|error| panic!("{what}: {error}"));
        let breaks = breaks(&old, &new);
        assert!(breaks.iter().any(|text| text.contains(said)), "{what} is not noticed: {breaks:?}");
    }
}

#[test]
fn a_grown_contract_breaks_nothing() {
    let mut set = FileDescriptorSet::decode(BASELINE).unwrap();
    let mut added = message(&mut set, "images.proto", "Reason").field[0].clone();
    (added.name, added.json_name, added.number) = (Some("more".into()), Some("more".into()), Some(99));
    message(&mut set, "images.proto", "Reason").field.push(added);
    let mut value = file(&mut set, "images.proto").enum_type[0].value[1].clone();
    (value.name, value.number) = (Some("IMAGE_FORMAT_MORE".into()), Some(99));
    file(&mut set, "images.proto").enum_type[0].value.push(value);
    let mut more = method(&mut set, "GetJob").clone();
    more.name = Some("GetJobMore".into());
    file(&mut set, "service.proto").service[0].method.push(more);
    assert_eq!(
        breaks(&pool(BASELINE), &DescriptorPool::from_file_descriptor_set(set).unwrap()),
        Vec::<String>::new()
    );
}

fn pool(bytes: &[u8]) -> DescriptorPool {
    DescriptorPool::decode(bytes).unwrap()
}

/// What a client that knows `old` would miss or misread in `new`.
fn breaks(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let mut found = Vec::new();
    for message in old.all_messages().filter(|message| message.package_name() == PACKAGE) {
        match new.get_message_by_name(message.full_name()) {
            Some(now) => compare_messages(&message, &now, &mut found),
            None => found.push(format!("{} is gone", message.full_name())),
        }
    }
    for kind in old.all_enums().filter(|kind| kind.package_name() == PACKAGE) {
        match new.get_enum_by_name(kind.full_name()) {
            Some(now) => compare_enums(&kind, &now, &mut found),
            None => found.push(format!("{} is gone", kind.full_name())),
        }
    }
    for service in old.services().filter(|service| service.package_name() == PACKAGE) {
        match new.get_service_by_name(service.full_name()) {
            Some(now) => compare_services(&service, &now, &mut found),
            None => found.push(format!("{} is gone", service.full_name())),
        }
    }
    found
}

fn compare_messages(old: &MessageDescriptor, new: &MessageDescriptor, found: &mut Vec<String>) {
    for field in old.fields() {
        match new.get_field(field.number()) {
            Some(now) if shape(&field) == shape(&now) => {}
            Some(now) => {
                found.push(format!("{}: was {}, is {}", field.full_name(), shape(&field), shape(&now)))
            }
            None => found.push(format!("{} (number {}) is gone", field.full_name(), field.number())),
        }
    }
}

/// All of a field that a client relies on, in binary and in JSON.
fn shape(field: &FieldDescriptor) -> String {
    format!(
        "{} ({}) {:?} {:?} presence {} oneof {:?}",
        field.name(),
        field.json_name(),
        field.kind(),
        field.cardinality(),
        field.supports_presence(),
        field.containing_oneof().filter(|oneof| !oneof.is_synthetic()).map(|oneof| oneof.name().to_owned()),
    )
}

fn compare_enums(old: &EnumDescriptor, new: &EnumDescriptor, found: &mut Vec<String>) {
    let values = |kind: &EnumDescriptor| -> BTreeSet<_> {
        kind.values().map(|value| (value.number(), value.name().to_owned())).collect()
    };
    for (number, name) in values(old).difference(&values(new)) {
        found.push(format!("{} = {number} of {} is gone", name, old.full_name()));
    }
}

fn compare_services(old: &ServiceDescriptor, new: &ServiceDescriptor, found: &mut Vec<String>) {
    for method in old.methods() {
        let shape = |method: &prost_reflect::MethodDescriptor| {
            (
                method.input().full_name().to_owned(),
                method.is_client_streaming(),
                method.output().full_name().to_owned(),
                method.is_server_streaming(),
            )
        };
        match new.methods().find(|now| now.name() == method.name()) {
            Some(now) if shape(&method) == shape(&now) => {}
            Some(now) => {
                found.push(format!("{}: was {:?}, is {:?}", method.full_name(), shape(&method), shape(&now)))
            }
            None => found.push(format!("{} is gone", method.full_name())),
        }
    }
}

fn file<'a>(
    set: &'a mut FileDescriptorSet,
    name: &str,
) -> &'a mut prost_reflect::prost_types::FileDescriptorProto {
    set.file.iter_mut().find(|file| file.name() == format!("imageops/v1/{name}")).unwrap()
}

fn message<'a>(set: &'a mut FileDescriptorSet, file_name: &str, name: &str) -> &'a mut DescriptorProto {
    file(set, file_name).message_type.iter_mut().find(|message| message.name() == name).unwrap()
}

fn field<'a>(
    set: &'a mut FileDescriptorSet,
    file_name: &str,
    message_name: &str,
    name: &str,
) -> &'a mut prost_reflect::prost_types::FieldDescriptorProto {
    message(set, file_name, message_name).field.iter_mut().find(|field| field.name() == name).unwrap()
}

fn method<'a>(
    set: &'a mut FileDescriptorSet,
    name: &str,
) -> &'a mut prost_reflect::prost_types::MethodDescriptorProto {
    file(set, "service.proto").service[0].method.iter_mut().find(|method| method.name() == name).unwrap()
}
