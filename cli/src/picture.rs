//! The picture of a map: an SVG that tells where the bytes of an image are and what compress would win.
//!
//! One strip for the disk and one for each part, cut into columns of the same number of bytes: a disk of 10 TiB makes a
//! picture no larger than one of 1 GiB. Colours follow the reader's scheme, light or dark; all words are labels.

use std::fmt::Write as _;
use std::ops::Range;

use imageops_image::disk::ExtentKind;
use imageops_image::guest::Layout;
use imageops_image::map::{MapExtent, MapTotals};

use crate::output::size;

/// Columns of a strip.
const COLUMNS: u64 = 240;
/// Width of a column in the picture.
const COLUMN_WIDTH: f64 = 4.0;
/// Parts that have a strip of their own; further ones are in the strip of the disk.
const PARTS_MAX: usize = 16;
const MARGIN: f64 = 20.0;
const DISK_HEIGHT: f64 = 64.0;
const PART_HEIGHT: f64 = 36.0;
/// Room for the line of words above a strip.
const LABEL_HEIGHT: f64 = 22.0;
/// Nothing that is there is drawn smaller than this.
const HEIGHT_MIN: f64 = 1.0;
/// Width of the picture without its margins.
const WIDTH: f64 = COLUMNS as f64 * COLUMN_WIDTH;

/// What is drawn, from the bottom of a strip upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Data,
    Compressed,
    Free,
    Zero,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Data, Self::Compressed, Self::Free, Self::Zero];

    /// The sort of an extent; what is not stored is not drawn.
    fn of(extent: &MapExtent) -> Option<Self> {
        match extent.kind {
            _ if extent.is_free => Some(Self::Free),
            ExtentKind::Data => Some(Self::Data),
            ExtentKind::Compressed => Some(Self::Compressed),
            ExtentKind::Zero => Some(Self::Zero),
            ExtentKind::Hole => None,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Compressed => "packed",
            Self::Free => "free",
            Self::Zero => "zero",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Data => "used",
            Self::Compressed => "used, compressed",
            Self::Free => "freed: compress drops it",
            Self::Zero => "zero marks",
        }
    }

    fn bytes(self, totals: &MapTotals) -> u64 {
        match self {
            Self::Data => totals.data_bytes,
            Self::Compressed => totals.compressed_bytes,
            Self::Free => totals.dropped_bytes,
            Self::Zero => totals.zero_bytes,
        }
    }
}

/// Both schemes. The colours differ in lightness too, for those who do not tell them apart.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1d2430}.page{fill:#fff}.track{fill:#edf0f4}\
.data{fill:#2f5fa8}.packed{fill:#86aee0}.free{fill:#e8871e}.zero{fill:#c3ccd8}.border{fill:#1d2430}\
@media(prefers-color-scheme:dark){text{fill:#e4e8ee}.page{fill:#171a20}.track{fill:#272c35}\
.data{fill:#6ea1ea}.packed{fill:#3d6596}.free{fill:#f2a541}.zero{fill:#4c5665}.border{fill:#e4e8ee}}";

/// A stretch of the disk and how many bytes of each sort its columns hold.
struct Strip {
    label: String,
    range: Range<u64>,
    columns: Vec<[u64; Sort::ALL.len()]>,
}

impl Strip {
    fn new(label: String, range: Range<u64>) -> Self {
        // Not more columns than sectors: each has something in it.
        let count = ((range.end - range.start) / 512).clamp(1, COLUMNS);
        Self { label, range, columns: vec![[0; Sort::ALL.len()]; count as usize] }
    }

    /// The range of a column.
    fn column(&self, index: u64) -> Range<u64> {
        let length = u128::from(self.range.end - self.range.start);
        let place = |index: u64| {
            let offset = length * u128::from(index) / self.columns.len() as u128;
            self.range.start + u64::try_from(offset).expect("not more than the length")
        };
        place(index)..place(index + 1)
    }

    fn add(&mut self, range: &Range<u64>, sort: Sort) {
        let (start, end) = (range.start.max(self.range.start), range.end.min(self.range.end));
        if start >= end {
            return;
        }
        let length = u128::from(self.range.end - self.range.start);
        let first = u128::from(start - self.range.start) * self.columns.len() as u128 / length;
        // Rounding down may lead one column too far to the left, never to the right.
        for index in u64::try_from(first).expect("fewer than the columns")..self.columns.len() as u64 {
            let column = self.column(index);
            if column.start >= end {
                break;
            }
            let inside = column.end.min(end).saturating_sub(column.start.max(start));
            self.columns[index as usize][sort as usize] += inside;
        }
    }

    /// Bottom and top of each sort in a column, 0 to `height`.
    fn stack(&self, index: usize, height: f64) -> [(f64, f64); Sort::ALL.len()] {
        let range = self.column(index as u64);
        let length = (range.end - range.start).max(1) as f64;
        let mut bottom = 0.0;
        self.columns[index].map(|bytes| {
            let drawn = match bytes {
                0 => 0.0,
                bytes => (bytes as f64 / length * height).max(HEIGHT_MIN),
            };
            let top = (bottom + drawn).min(height);
            (std::mem::replace(&mut bottom, top), top)
        })
    }

    /// The strip with its top left corner at (`MARGIN`, `y`): one path for each sort, equal neighbours joined.
    fn draw(&self, y: f64, height: f64, svg: &mut String) {
        let width = WIDTH / self.columns.len() as f64;
        let _ =
            writeln!(svg, r#"<rect class="track" x="{MARGIN}" y="{y}" width="{WIDTH}" height="{height}"/>"#);
        for sort in Sort::ALL {
            let mut path = String::new();
            let level = |index: usize| self.stack(index, height)[sort as usize];
            let mut index = 0;
            while index < self.columns.len() {
                let (bottom, top) = level(index);
                let run = (index..self.columns.len()).take_while(|other| level(*other) == (bottom, top));
                let count = run.count();
                if top > bottom {
                    let x = MARGIN + index as f64 * width;
                    let (up, across) = (y + height - top, count as f64 * width);
                    let _ = write!(path, "M{x:.2} {up:.2}h{across:.2}v{:.2}h-{across:.2}z", top - bottom);
                }
                index += count;
            }
            if !path.is_empty() {
                let _ = writeln!(svg, r#"<path class="{}" d="{path}"/>"#, sort.class());
            }
        }
    }
}

/// A picture that takes extents and does not grow with them.
pub(crate) struct Picture {
    disk: Strip,
    parts: Vec<Strip>,
}

impl Picture {
    pub(crate) fn new(virtual_size_bytes: u64, layout: &Layout) -> Self {
        let summaries = layout.parts().iter().map(|part| part.summary()).filter(|part| part.index != 0);
        let inside = summaries.filter(|part| {
            let end = part.start_bytes.checked_add(part.length_bytes);
            part.length_bytes > 0 && end.is_some_and(|end| end <= virtual_size_bytes)
        });
        let parts = inside.take(PARTS_MAX).map(|part| {
            let label = format!("{}  {}, {}", part.index, part.content, size(part.length_bytes));
            Strip::new(label, part.start_bytes..part.start_bytes + part.length_bytes)
        });
        let whole = match layout.parts() {
            [part] if part.summary().index == 0 => format!("disk, {}", part.summary().content),
            _ => "disk".to_owned(),
        };
        let label = format!("{whole}, {}", size(virtual_size_bytes));
        Self { parts: parts.collect(), disk: Strip::new(label, 0..virtual_size_bytes) }
    }

    pub(crate) fn add(&mut self, extent: &MapExtent) {
        let Some(sort) = Sort::of(extent) else { return };
        for strip in std::iter::once(&mut self.disk).chain(&mut self.parts) {
            strip.add(&extent.range, sort);
        }
    }

    /// The picture as SVG.
    pub(crate) fn render(&self, totals: &MapTotals) -> String {
        let mut body = String::new();
        let mut y = MARGIN;
        label(&mut body, MARGIN, y, &format!("stored, {}", size(totals.stored_bytes())));
        y = draw_gain(&mut body, y + LABEL_HEIGHT, totals);
        y = draw_legend(&mut body, y, totals);
        label(&mut body, MARGIN, y, &self.disk.label);
        y += LABEL_HEIGHT;
        self.disk.draw(y, DISK_HEIGHT, &mut body);
        y = self.draw_borders(&mut body, y + DISK_HEIGHT) + MARGIN / 2.0;
        for strip in &self.parts {
            label(&mut body, MARGIN, y, &strip.label);
            strip.draw(y + LABEL_HEIGHT, PART_HEIGHT, &mut body);
            y += LABEL_HEIGHT + PART_HEIGHT + MARGIN / 2.0;
        }
        let (width, height) = (WIDTH + 2.0 * MARGIN, y + MARGIN / 2.0);
        let head = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">"#
        );
        let title = "Where the bytes of a disk image are";
        format!(
            "{head}\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n{body}</svg>\n"
        )
    }

    /// Where the parts lie, below the strip of the disk; returns where to go on.
    fn draw_borders(&self, svg: &mut String, y: f64) -> f64 {
        let length = (self.disk.range.end - self.disk.range.start).max(1) as f64;
        let mut right = f64::MIN;
        for strip in &self.parts {
            let x = MARGIN + strip.range.start as f64 / length * WIDTH;
            let width = ((strip.range.end - strip.range.start) as f64 / length * WIDTH).max(2.0);
            let inner = (width - 1.0).max(1.0);
            let _ = writeln!(
                svg,
                r#"<rect class="border" x="{x:.2}" y="{}" width="{inner:.2}" height="3"/>"#,
                y + 4.0
            );
            // Labels of small parts would lie on each other: the strips below have them all.
            if x > right {
                let number = strip.label.split("  ").next().unwrap_or_default();
                label(svg, x, y + 8.0, number);
                right = x + 10.0 * number.len() as f64 + 4.0;
            }
        }
        if self.parts.is_empty() { y } else { y + 8.0 + LABEL_HEIGHT }
    }
}

/// What is stored as one bar: what compress keeps, and what it drops.
fn draw_gain(svg: &mut String, y: f64, totals: &MapTotals) -> f64 {
    let height = 18.0;
    let _ = writeln!(svg, r#"<rect class="track" x="{MARGIN}" y="{y}" width="{WIDTH}" height="{height}"/>"#);
    let stored = totals.stored_bytes().max(1) as f64;
    let mut x = MARGIN;
    for sort in [Sort::Data, Sort::Compressed, Sort::Free] {
        let width = sort.bytes(totals) as f64 / stored * WIDTH;
        if width > 0.0 {
            let class = sort.class();
            let _ = writeln!(
                svg,
                r#"<rect class="{class}" x="{x:.2}" y="{y}" width="{width:.2}" height="{height}"/>"#
            );
        }
        x += width;
    }
    y + height + 10.0
}

/// What the colours mean, and how much of each there is; returns where to go on.
fn draw_legend(svg: &mut String, y: f64, totals: &MapTotals) -> f64 {
    let entries = Sort::ALL.map(|sort| (sort.class(), sort.label(), sort.bytes(totals)));
    let mut x = MARGIN;
    for (class, text, bytes) in entries.into_iter().chain([("track", "not stored", totals.hole_bytes)]) {
        let words = format!("{text}, {}", size(bytes));
        let _ = writeln!(svg, r#"<rect class="{class}" x="{x:.2}" y="{}" width="12" height="12"/>"#, y + 4.0);
        label(svg, x + 18.0, y, &words);
        x += 18.0 + 7.2 * words.len() as f64 + 16.0;
    }
    y + LABEL_HEIGHT + MARGIN / 2.0
}

/// A line of words whose box begins at `y`.
fn label(svg: &mut String, x: f64, y: f64, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, r#"<text x="{x:.2}" y="{}">{words}</text>"#, y + 15.0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use imageops_image::Control;
    use imageops_image::format;
    use imageops_image::map::DiskMap;

    use super::*;

    fn extent(range: Range<u64>, kind: ExtentKind, is_free: bool) -> MapExtent {
        let stored_bytes = range.end - range.start;
        MapExtent { range, kind, is_free, host_offset: None, stored_bytes, part: None }
    }

    /// A disk without partitions.
    fn picture(size: u64) -> Picture {
        let image = format::open(Arc::new(vec![0; 512]), Some(format::Format::Raw)).unwrap();
        let map = DiskMap::open(&image, &Control::default()).unwrap();
        Picture::new(size, map.layout())
    }

    #[test]
    fn columns_share_the_bytes_of_an_extent() {
        for size in [512, 100 << 10, (1 << 30) + 512, 10 << 40] {
            let mut picture = picture(size);
            let range = size / 3..size - size / 7;
            picture.add(&extent(range.clone(), ExtentKind::Data, false));
            picture.add(&extent(0..size / 3, ExtentKind::Compressed, true));
            let sum =
                |sort: Sort| -> u64 { picture.disk.columns.iter().map(|column| column[sort as usize]).sum() };
            assert_eq!(sum(Sort::Data), range.end - range.start, "{size}");
            assert_eq!((sum(Sort::Free), sum(Sort::Compressed)), (size / 3, 0), "{size}");
            for (index, column) in picture.disk.columns.iter().enumerate() {
                let range = picture.disk.column(index as u64);
                assert!(column.iter().sum::<u64>() <= range.end - range.start);
            }
        }
    }

    #[test]
    fn a_large_disk_makes_no_larger_picture() {
        let mut sizes = Vec::new();
        for size in [1_u64 << 30, 10 << 40] {
            let mut picture = picture(size);
            let step = size / 5000;
            for (index, start) in (0..size).step_by(usize::try_from(step).unwrap()).enumerate() {
                let end = (start + step / (index as u64 % 7 + 1)).min(size);
                picture.add(&extent(start..end, ExtentKind::Data, index % 3 == 0));
            }
            let svg = picture.render(&MapTotals { data_bytes: size / 2, ..MapTotals::default() });
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
            sizes.push(svg.len());
        }
        assert!(sizes.iter().all(|size| *size < 64 << 10), "{sizes:?}");
    }

    #[test]
    fn what_is_there_is_seen_however_small() {
        let mut picture = picture(10 << 40);
        picture.add(&extent(0..4096, ExtentKind::Data, false));
        let svg = picture.render(&MapTotals::default());
        assert!(svg.contains(r#"<path class="data" d="M20.00 "#), "{svg}");
    }
}
