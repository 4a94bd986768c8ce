#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

#[test]
fn reads_what_the_tools_write() {
    let text = b"vg0 {\nid = \"a-b\" # note\nseqno = 7\nflags = []\nstatus = [\"READ\", \"WRITE\"]\n\nlv {\nstripes = [\n\"pv0\", 20\n]\n}\n}\n\
        description = \"with \\\"quotes\\\" and = { }\"\nnumber = -1\n\0\0";
    let document = Document::parse(text).unwrap();
    let root = document.root();
    assert_eq!(root.text("description"), Some(&b"with \\\"quotes\\\" and = { }"[..]));
    assert_eq!(root.number("number"), None);
    let group = root.section("vg0").unwrap();
    assert_eq!((group.number("seqno"), group.text("id")), (Some(7), Some(&b"a-b"[..])));
    assert_eq!(group.words("status"), Some(vec![&b"READ"[..], b"WRITE"]));
    assert_eq!(group.words("flags"), Some(Vec::new()));
    let names: Vec<_> = group.entries().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"id"[..], b"seqno", b"flags", b"status", b"lv"]);
    let Some(Entry::List(stripes)) = group.section("lv").unwrap().get("stripes") else { panic!() };
    assert_eq!(stripes.items().collect::<Vec<_>>(), [Item::Text(b"pv0"), Item::Number(20)]);
    assert_eq!(group.section("lv").unwrap().words("stripes"), None);
}

#[test]
fn what_is_not_of_the_form_is_refused() {
    let texts: [&[u8]; 22] = [
        b"a",
        b"a =",
        b"a = [",
        b"a = [1",
        b"a = [1,",
        b"a = [1,]",
        b"a = [1 2]",
        b"a {",
        b"}",
        b"a = }",
        b"= 1",
        b"a = \"x",
        b"a = \"x\\\"",
        b"a = 1.5",
        b"a = word",
        b"a = -",
        b"a = 99999999999999999999",
        b"a = 1\0b = 2",
        b"a = [[1]]",
        b"a = 1 a = 2",
        b"a { b = 1 b { } }",
        b"a { } }",
    ];
    for text in texts {
        let fault = Document::parse(text).map(|_| ()).unwrap_err();
        assert_eq!(fault, Fault::Malformed, "{}", String::from_utf8_lossy(text));
    }
    assert_eq!(Document::parse("a {".repeat(100_000).as_bytes()).map(|_| ()).unwrap_err(), Fault::Malformed);
    let many: String = (0..70_000).map(|number| format!("a{number} = 1\n")).collect();
    assert_eq!(Document::parse(many.as_bytes()).map(|_| ()).unwrap_err(), Fault::TooLong);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(&text).map(|document| document.root().entries().count());
    }

    #[test]
    fn any_tokens_are_read_or_refused(tokens in prop::collection::vec(prop::sample::select(vec![
        "a", "b", "=", "{", "}", "[", "]", ",", "\"s\"", "1", "#c\n", " ", "\\", "\"",
    ]), 0..60)) {
        let text = tokens.concat();
        if let Ok(document) = Document::parse(text.as_bytes()) {
            let mut pending = vec![document.root()];
            while let Some(section) = pending.pop() {
                for (name, entry) in section.entries() {
                    prop_assert!(section.get(std::str::from_utf8(name).unwrap()).is_some());
                    if let Entry::Section(inner) = entry {
                        pending.push(inner);
                    }
                }
            }
        }
    }
}
