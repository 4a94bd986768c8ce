//! What a row of the table says of an image.

use imageops_catalogue::legacy::LegacyImage;
use imageops_model::{ImageId, Micros};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use uuid::Uuid;

/// What slimmed files are called before the name of the original.
const SLIM_PREFIX: &str = "compressed";

/// An image of the table.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    /// Its id.
    pub(super) id: ImageId,
    /// The name that it came with.
    pub(super) name: String,
    /// Whose it is; may be empty.
    pub(super) user_id: String,
    /// What its file may be called, the likeliest first.
    pub(super) stored_names: Vec<String>,
    /// When it came, where the table knows.
    pub(super) create_time: Option<Micros>,
    /// MD5 of what the last check read.
    pub(super) checksum: Option<String>,
    /// Whether it was slimmed.
    pub(super) slim: Slim,
}

/// How slimming ended.
#[derive(Debug, PartialEq)]
pub(super) enum Slim {
    /// Nobody asked for it.
    Never,
    /// It failed, or was under way when the service was stopped.
    Failed,
    /// There is a file; what it may be called, the likeliest first, at least one name.
    Made(Vec<String>),
}

impl Row {
    /// Reads a row; the error says what of it cannot be taken.
    pub(super) fn read(legacy: &LegacyImage) -> Result<Self, String> {
        let id = &legacy.image_id;
        // Other spellings of UUIDs were never made by the service.
        let uuid = Uuid::try_parse(id).ok().filter(|uuid| {
            let mut buffer = Uuid::encode_buffer();
            uuid.hyphenated().encode_lower(&mut buffer).eq_ignore_ascii_case(id)
        });
        let uuid = uuid.ok_or_else(|| "its image_id is no UUID".to_owned())?;
        let saved = base_name(&legacy.save_file_name);
        let original = saved.strip_prefix(SLIM_PREFIX).unwrap_or(saved);
        // Some builds put the id before the name here, too.
        let name = [base_name(&legacy.file_name), original]
            .map(|name| name.strip_prefix(id.as_str()).unwrap_or(name))
            .into_iter()
            .find(|name| !name.is_empty())
            .ok_or_else(|| "it names no file".to_owned())?;
        let mut stored_names = vec![format!("{id}{name}")];
        if !original.is_empty() && original != stored_names[0] {
            stored_names.push(original.to_owned());
        }
        let slim = match legacy.slim_status.trim() {
            "" | "0" => Slim::Never,
            "1" | "3" => Slim::Failed,
            "2" => Slim::Made(stored_names.iter().map(|name| format!("{SLIM_PREFIX}{name}")).collect()),
            other => return Err(format!("its slim_status is {other:?}, not 0 to 3")),
        };
        Ok(Self {
            id: ImageId(uuid),
            name: name.to_owned(),
            user_id: legacy.user_id.clone(),
            create_time: read_time(legacy.upload_time.trim())?,
            checksum: read_checksum(&legacy.checksum),
            stored_names,
            slim,
        })
    }

    /// The checksum, where it is that of the image and not of what was slimmed of it.
    pub(super) fn checksum_of_image(&self) -> Option<&str> {
        self.checksum.as_deref().filter(|_| !matches!(self.slim, Slim::Made(_)))
    }
}

/// What follows the last separator: stored files lie in no directories.
fn base_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// A moment as PostgreSQL writes it; one without a zone is UTC, as in the service's container. Go's time before all others
/// stands for none.
fn read_time(text: &str) -> Result<Option<Micros>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let civil = || text.parse::<DateTime>().and_then(|time| time.to_zoned(TimeZone::UTC));
    let time = text.parse::<Timestamp>().or_else(|_| civil().map(|time| time.timestamp()));
    let time =
        time.map_err(|_| format!("its upload_time {text:?} cannot be read; export it in ISO style"))?;
    let micros = time.as_microsecond();
    Ok((micros > 0).then_some(Micros(micros)))
}

/// Builds wrote words where there is none.
fn read_checksum(text: &str) -> Option<String> {
    let text = text.trim();
    let is_md5 = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_md5.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ID: &str = "94d6e70d-51f7-4b0d-965f-59dca2c3002c";

    fn legacy() -> LegacyImage {
        LegacyImage {
            image_id: ID.to_owned(),
            file_name: "disk.qcow2".to_owned(),
            user_id: "u1".to_owned(),
            save_file_name: format!("{ID}disk.qcow2"),
            upload_time: "2021-10-19 16:33:03".to_owned(),
            slim_status: "0".to_owned(),
            checksum: "782FA5257615748e673eefe0143188e4".to_owned(),
        }
    }

    #[test]
    fn a_row_is_read() {
        let row = Row::read(&legacy()).unwrap();
        let expected = Row {
            id: ImageId(Uuid::try_parse(ID).unwrap()),
            name: "disk.qcow2".to_owned(),
            user_id: "u1".to_owned(),
            stored_names: vec![format!("{ID}disk.qcow2")],
            create_time: Some(Micros(1_634_661_183_000_000)),
            checksum: Some("782fa5257615748e673eefe0143188e4".to_owned()),
            slim: Slim::Never,
        };
        assert_eq!(row, expected);
        assert_eq!(row.checksum_of_image(), row.checksum.as_deref());
    }

    #[test]
    fn names_of_all_builds_lead_to_the_file() {
        let stored = format!("{ID}disk.qcow2");
        for (file_name, save_file_name, extra) in [
            ("disk.qcow2", "", None),
            ("", &*stored, None),
            (&stored, &stored, None),
            ("disk.qcow2", &format!("compressed{stored}"), None),
            ("../../etc/disk.qcow2", &format!("/usr/app/vmImage/{stored}"), None),
            ("disk.qcow2", "pack.zip", Some("pack.zip")),
        ] {
            let row = Row::read(&LegacyImage {
                file_name: file_name.to_owned(),
                save_file_name: save_file_name.to_owned(),
                slim_status: "2".to_owned(),
                ..legacy()
            })
            .unwrap();
            assert_eq!(row.name, "disk.qcow2");
            let names: Vec<_> = std::iter::once(&*stored).chain(extra).collect();
            assert_eq!(row.stored_names, names, "{save_file_name}");
            let slim = names.iter().map(|name| format!("compressed{name}")).collect();
            assert_eq!(row.slim, Slim::Made(slim));
            assert_eq!(row.checksum_of_image(), None, "it is that of the slimmed file");
        }
    }

    #[test]
    fn times_of_all_column_types_are_read() {
        let moment = Some(Micros(1_634_661_183_000_000));
        for (text, want) in [
            ("2021-10-19T16:33:03", moment),
            ("2021-10-19 16:33:03+00", moment),
            ("2021-10-20 00:33:03+08", moment),
            ("2021-10-19T16:33:03+00:00", moment),
            ("2021-10-19 22:03:03.25+05:30", Some(Micros(1_634_661_183_250_000))),
            ("", None),
            ("0001-01-01 00:00:00", None),
        ] {
            assert_eq!(read_time(text), Ok(want), "{text}");
        }
        assert!(read_time("Tue 19 Oct 16:33:03 2021").is_err());
    }

    #[test]
    fn what_cannot_be_taken_is_said() {
        let nameless = LegacyImage { file_name: "a/".to_owned(), save_file_name: ID.to_owned(), ..legacy() };
        for (wrong, said) in [
            (LegacyImage { image_id: String::new(), ..legacy() }, "image_id"),
            (LegacyImage { image_id: "../../etc/passwd".to_owned(), ..legacy() }, "image_id"),
            (LegacyImage { image_id: format!("{{{ID}}}"), ..legacy() }, "image_id"),
            (LegacyImage { image_id: ID.replace('-', ""), ..legacy() }, "image_id"),
            (LegacyImage { slim_status: "yes".to_owned(), ..legacy() }, "slim_status"),
            (LegacyImage { upload_time: "yesterday".to_owned(), ..legacy() }, "upload_time"),
            (nameless, "no file"),
        ] {
            let problem = Row::read(&wrong).unwrap_err();
            assert!(problem.contains(said), "{problem}");
        }
        for (text, slim) in [("1", Slim::Failed), ("3", Slim::Failed), ("", Slim::Never)] {
            let row = Row::read(&LegacyImage { slim_status: text.to_owned(), ..legacy() }).unwrap();
            assert_eq!(row.slim, slim);
        }
        for word in ["", "error", "null"] {
            assert_eq!(read_checksum(word), None);
        }
    }
}
