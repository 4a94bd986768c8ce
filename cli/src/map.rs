//! `imageops map`.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use imageops_image::disk::ExtentKind;
use imageops_image::format::{self, Format};
use imageops_image::guest::{ExtraGains, Layout};
use imageops_image::map::{DiskMap, MapExtent, MapSummary};
use imageops_image::{Control, Error as EngineError};
use serde::Serialize;

use crate::args::{ExtraArgs, FormatName, Global};
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output::{Facts, Form, print, printable, size, size_exact};
use crate::picture::Picture;
use crate::target::Target;
use crate::view::{Gaps, Part, Reason, add_extra, parts_table};

#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// The image, raw or qcow2. Local files only.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    source: PathBuf,

    /// Draw a picture into this file, too; an existing one is replaced.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    svg: Option<PathBuf>,

    /// Format of FILE; without it the content decides.
    #[arg(long, value_enum)]
    format: Option<FormatName>,

    #[command(flatten)]
    extra: ExtraArgs,
}

/// Prints the extents of an image, and draws them when asked.
pub(crate) async fn run(global: &Global, arguments: &MapArgs) -> Result<Exit, Failure> {
    if global.server().is_some() {
        let failure = Failure::new("map is for local files");
        return Err(failure.advise("leave out --server, or unset IMAGEOPS_SERVER"));
    }
    let form = global.output;
    let source = arguments.source.clone();
    let format = arguments.format.map(Format::from);
    let svg = arguments.svg.clone();
    let extra = arguments.extra.any().then(|| arguments.extra.gains());
    local::run(move |control| map_file(&source, format, extra, form, svg.as_deref(), control)).await?;
    Ok(Exit::Success)
}

/// Why a walk ended before the end.
enum Ended {
    /// Nobody reads the output any more.
    Unread,
    Failed(Failure),
}

impl From<EngineError> for Ended {
    fn from(error: EngineError) -> Self {
        Self::Failed(error.into())
    }
}

fn map_file(
    source: &Path,
    format: Option<Format>,
    extra: Option<ExtraGains>,
    form: Form,
    svg: Option<&Path>,
    control: &Control,
) -> Result<(), Failure> {
    // A line of progress would be drawn between the lines of the map.
    let quiet = Control::new(|_| {}, control.cancel_token().clone());
    let control = if io::stdout().is_terminal() { &quiet } else { control };
    let failed = |error: EngineError| Failure::from(error).of(source.display());
    let image = format::open(local::open(source)?, format).map_err(failed)?;
    let map = DiskMap::open_with(&image, extra.unwrap_or_default(), control).map_err(failed)?;
    let target = svg.map(|path| Target::create(path, Some(source))).transpose()?;
    let mut picture = svg.map(|_| Picture::new(image.disk.virtual_size_bytes(), map.layout()));
    let mut printer = Printer::new(form);
    printer.begin();
    let walked = map.walk(control, |extent| {
        printer.extent(extent, map.layout()).map_err(Ended::Failed)?;
        match &mut picture {
            Some(picture) => picture.add(extent),
            None if printer.out.is_none() => return Err(Ended::Unread),
            None => {}
        }
        Ok(())
    });
    let summary = match walked {
        Ok(summary) => summary,
        Err(Ended::Unread) => return Ok(()),
        Err(Ended::Failed(failure)) => return Err(failure.of(source.display())),
    };
    printer.end()?;
    if form == Form::Table {
        print(&text(source, image.format, &summary, extra.is_some()))?;
    }
    if let (Some(picture), Some(target)) = (picture, target) {
        let drawn = picture.render(&summary.totals);
        target.file().write_all(drawn.as_bytes()).map_err(|error| Failure::io("the picture", &error))?;
        target.publish()?;
    }
    Ok(())
}

/// One extent in the JSON form. `start` to `offset` mean what `qemu-img map` means by them.
#[derive(Serialize)]
struct Entry<'a> {
    start: u64,
    length: u64,
    kind: &'static str,
    data: bool,
    zero: bool,
    compressed: bool,
    /// Place in the file, where the extent lies there in one piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// Bytes of the file that hold it.
    stored: u64,
    /// Stored, and freed by the guest, or dropped beside that because it was asked for.
    free: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_system: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn new(extent: &MapExtent, layout: &'a Layout) -> Self {
        let part = extent.part.and_then(|index| layout.parts().get(index)).map(|part| part.summary());
        Self {
            start: extent.range.start,
            length: extent.range.end - extent.range.start,
            kind: match extent.kind {
                _ if extent.is_free => "free",
                ExtentKind::Data => "data",
                ExtentKind::Compressed => "compressed",
                ExtentKind::Zero => "zero",
                ExtentKind::Hole => "hole",
            },
            data: extent.kind.is_stored(),
            zero: !extent.kind.is_stored(),
            compressed: extent.kind == ExtentKind::Compressed,
            offset: extent.host_offset,
            stored: extent.stored_bytes,
            free: extent.is_free,
            part: part.map(|part| part.index),
            file_system: part.map(|part| part.content.as_str()).filter(|content| *content != "unknown"),
        }
    }

    /// The line of the table, its columns as wide as those of the header.
    fn line(&self) -> String {
        let offset = self.offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        let part = match self.part {
            None => "-".to_owned(),
            Some(0) => "disk".to_owned(),
            Some(index) => index.to_string(),
        };
        let line = format!(
            "{:>16}  {:>10}  {:10}  {offset:>16}  {part:>4}  {}",
            self.start,
            size(self.length),
            self.kind,
            self.file_system.unwrap_or("-")
        );
        printable(&line) + "\n"
    }
}

/// Writes extents to stdout as they come: nobody waits for the end of a large disk, and nothing is kept.
struct Printer {
    form: Form,
    /// `None`: the reader has gone away.
    out: Option<BufWriter<io::Stdout>>,
    first: bool,
}

impl Printer {
    fn new(form: Form) -> Self {
        Self { form, out: Some(BufWriter::with_capacity(64 << 10, io::stdout())), first: true }
    }

    fn begin(&mut self) {
        if self.form == Form::Table {
            let header = format!(
                "{:>16}  {:>10}  {:10}  {:>16}  {:>4}  file system\n",
                "start", "length", "kind", "file offset", "part"
            );
            // A failure shows at the next line, too.
            let _ = self.write(&header);
        }
    }

    fn extent(&mut self, extent: &MapExtent, layout: &Layout) -> Result<(), Failure> {
        let entry = Entry::new(extent, layout);
        let text = match self.form {
            Form::Table => entry.line(),
            Form::Json => {
                let json = serde_json::to_string(&entry)
                    .map_err(|error| Failure::new(format!("an extent has no JSON form: {error}")))?;
                format!("{}{json}", if self.first { "[" } else { ",\n" })
            }
        };
        self.first = false;
        self.write(&text)
    }

    /// Writes what is left. An empty disk has no extents, and is an empty list.
    fn end(&mut self) -> Result<(), Failure> {
        match (self.form, self.first) {
            (Form::Table, _) => {}
            (Form::Json, true) => self.write("[]\n")?,
            (Form::Json, false) => self.write("]\n")?,
        }
        let flushed = self.out.as_mut().map_or(Ok(()), BufWriter::flush);
        self.written(flushed)
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let written = self.out.as_mut().map_or(Ok(()), |out| out.write_all(text.as_bytes()));
        self.written(written)
    }

    fn written(&mut self, result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                if let Some(out) = self.out.take() {
                    // What is in the buffer cannot be written: it is dropped without another try.
                    let _ = out.into_parts();
                }
                Ok(())
            }
            Err(error) => Err(Failure::io("standard output", &error)),
            Ok(()) => Ok(()),
        }
    }
}

/// The sums for people.
fn text(source: &Path, format: Format, summary: &MapSummary, extra: bool) -> String {
    let totals = &summary.totals;
    let mut facts = Facts::default();
    facts.add("image", source.to_string_lossy());
    facts.add("format", format.to_string());
    facts.add("virtual size", size_exact(summary.virtual_size_bytes));
    facts.add("stored", size_exact(totals.stored_bytes()));
    facts.add("used, plain", size(totals.data_bytes));
    facts.add("used, packed", size(totals.compressed_bytes));
    let freed = totals.dropped_bytes.saturating_sub(summary.extra_dropped_bytes);
    facts.add("freed by guest", format!("{}: compress drops them", size_exact(freed)));
    let gaps = summary.gaps.clone().map(Gaps::from);
    add_extra(&mut facts, extra.then_some(summary.extra_dropped_bytes), gaps.as_ref());
    facts.add("zero marks", size(totals.zero_bytes));
    facts.add("not stored", size(totals.hole_bytes));
    for kept in &summary.kept {
        facts.add("kept because", Reason::from(kept.clone()).line());
    }
    let parts = summary.parts.iter().map(|part| Part::from(part.report.clone()));
    format!("\n{}{}", facts.render(), parts_table(&parts.collect::<Vec<_>>()))
}
