//! Where the table comes from: the service's database, or a file that was exported from it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use imageops_catalogue::legacy::{self, LegacyDatabase, LegacyImage};

use crate::config::ImportEdgegallery;
use crate::exit::{Exit, Fatal};

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Where PostgreSQL listens.
const PORT: &str = "5432";

/// Reads the table, the oldest image first.
pub(super) async fn read(from: &ImportEdgegallery) -> Result<Vec<LegacyImage>, Fatal> {
    let mut images = match &from.table {
        Some(path) => read_file(path)?,
        None => {
            let failed = |error: legacy::LegacyError| Fatal::new(Exit::Catalogue, error.to_string());
            legacy::read(&database(from)?).await.map_err(failed)?
        }
    };
    images.sort_by(|a, b| (&a.upload_time, &a.image_id).cmp(&(&b.upload_time, &b.image_id)));
    Ok(images)
}

fn database(from: &ImportEdgegallery) -> Result<LegacyDatabase, Fatal> {
    if let Some(url) = &from.database_url {
        return Ok(LegacyDatabase::Url(url.clone()));
    }
    // A variable that is set to nothing is not set.
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let parts = (given(&from.postgres_host), given(&from.postgres_db_name), given(&from.postgres_username));
    let (Some(host), Some(database), Some(username)) = parts else {
        let message = "say where the table is: --table FILE, --database-url URL, or POSTGRES_HOST, POSTGRES_DB_NAME, \
                       POSTGRES_USERNAME and POSTGRES_PASSWORD as the service had them";
        return Err(Fatal::new(Exit::Usage, message));
    };
    let port = given(&from.postgres_port).unwrap_or(PORT.to_owned());
    let port = port.parse().map_err(|_| Fatal::new(Exit::Usage, format!("{port:?} is no port")))?;
    let password = given(&from.postgres_password).unwrap_or_default();
    Ok(LegacyDatabase::Parts { host, port, database, username, password })
}

fn read_file(path: &Path) -> Result<Vec<LegacyImage>, Fatal> {
    let wrong = |problem: String| {
        Fatal::new(Exit::Configuration, format!("the table {} cannot be read: {problem}", path.display()))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    read_csv(&text).map_err(wrong)
}

/// Reads the rows below a line with the names of the columns.
fn read_csv(text: &str) -> Result<Vec<LegacyImage>, String> {
    let mut records = parse_csv(text.strip_prefix('\u{feff}').unwrap_or(text))?.into_iter();
    let names: Vec<_> =
        records.next().unwrap_or_default().into_iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    if !names.iter().any(|name| name == "image_id") {
        return Err("its first line does not name the columns; export it with `csv header`".to_owned());
    }
    let mut images = Vec::new();
    for (fields, number) in records.zip(2..) {
        if fields.len() != names.len() {
            return Err(format!("record {number} has {} fields, not {}", fields.len(), names.len()));
        }
        let columns: BTreeMap<_, _> = names.iter().cloned().zip(fields).collect();
        images.push(LegacyImage::from_columns(columns));
    }
    if images.len() > legacy::ROWS_MAX {
        return Err(format!("it has more than {} rows", legacy::ROWS_MAX));
    }
    Ok(images)
}

/// Splits CSV into records (RFC 4180; lines may also end with a line feed alone).
fn parse_csv(text: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut chars = text.chars().peekable();
    // Whether a record has begun: a last line without an end counts, nothing behind the last end does not.
    let mut begun = false;
    while let Some(next) = chars.next() {
        begun = true;
        match next {
            '"' if field.is_empty() => take_quoted(&mut chars, &mut field)?,
            ',' => record.push(std::mem::take(&mut field)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
                begun = false;
            }
            other => field.push(other),
        }
    }
    if begun {
        record.push(field);
        records.push(record);
    }
    Ok(records)
}

/// What follows an opening quotation mark, to the closing one; a doubled one stands for itself.
fn take_quoted(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    field: &mut String,
) -> Result<(), String> {
    while let Some(next) = chars.next() {
        if next != '"' {
            field.push(next);
        } else if chars.next_if_eq(&'"').is_some() {
            field.push('"');
        } else {
            return Ok(());
        }
    }
    Err("a quotation mark is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn csv_is_split_as_the_rfc_says() {
        let record = |fields: &[&str]| fields.iter().map(|&field| field.to_owned()).collect::<Vec<_>>();
        for (text, want) in [
            ("", vec![]),
            ("a,b\n", vec![record(&["a", "b"])]),
            ("a,b\r\nc,d", vec![record(&["a", "b"]), record(&["c", "d"])]),
            ("a,\n,\n", vec![record(&["a", ""]), record(&["", ""])]),
            ("\"a,\"\"b\"\"\nc\",\"\"\n", vec![record(&["a,\"b\"\nc", ""])]),
            ("\"\"\n", vec![record(&[""])]),
            ("a\rb\n", vec![record(&["a\rb"])]),
        ] {
            assert_eq!(parse_csv(text).unwrap(), want, "{text:?}");
        }
        assert!(parse_csv("a,\"b\nc").is_err());
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let text = "\u{feff}USER_ID,image_id,virtual_size\nu,\"i\",0.5\n";
        let want =
            LegacyImage { image_id: "i".to_owned(), user_id: "u".to_owned(), ..LegacyImage::default() };
        assert_eq!(read_csv(text).unwrap(), [want]);
        assert_eq!(read_csv("image_id\n").unwrap(), []);
        for wrong in ["", "\n", "i,u\n", "image_id,user_id\ni\n"] {
            assert!(read_csv(wrong).is_err(), "{wrong:?}");
        }
    }
}
