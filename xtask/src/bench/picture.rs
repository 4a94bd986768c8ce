//! The ratios as a picture: a group of bars for each guest, a bar for each peer.

use std::fmt::Write as _;

use super::contenders::is_ours;
use super::record::{Measurement, Table};

const WIDTH: f64 = 760.0;
/// Where bars begin and where the longest ends; the figure stands behind it.
const BARS: (f64, f64) = (250.0, 700.0);
const LINE: f64 = 22.0;

/// Draws how many times as fast as each peer our compress is.
pub(crate) fn draw(all: &[Measurement]) -> String {
    let groups: Vec<(&str, &Table)> = all
        .iter()
        .flat_map(|one| one.tables.iter().map(move |table| (one.title.as_str(), table)))
        .filter(|(_, table)| table.group.writes())
        .collect();
    let peers = |table: &Table| -> Vec<(String, f64)> {
        let rows = table.rows.iter().filter(|row| !is_ours(&row.name));
        rows.filter_map(|row| Some((row.name.clone(), table.ratio(row)?))).collect()
    };
    let longest =
        groups.iter().flat_map(|(_, table)| peers(table)).map(|(_, ratio)| ratio).fold(1.0, f64::max);
    let mut body = String::new();
    let mut y = 56.0;
    for (title, table) in groups {
        let _ = writeln!(body, r#"<text class="guest" x="16" y="{y}">{}</text>"#, escape(title));
        y += LINE;
        for (name, ratio) in peers(table) {
            let length = (BARS.1 - BARS.0) * ratio / longest;
            let (label, base) = (BARS.0 - 8.0, y - 4.0);
            let _ = writeln!(body, r#"<text x="{label}" y="{y}" text-anchor="end">{}</text>"#, escape(&name));
            let top = base - 10.0;
            let _ =
                writeln!(body, r#"<rect x="{}" y="{top}" width="{length:.1}" height="14" rx="2"/>"#, BARS.0);
            let end = BARS.0 + length + 6.0;
            let _ = writeln!(body, r#"<text x="{end:.1}" y="{y}">{ratio:.1} ×</text>"#);
            y += LINE;
        }
        y += 10.0;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img" aria-label="Times as fast as peers">
<style>
svg {{ color: #1f2328; background: #ffffff; }}
text {{ font: 13px system-ui, sans-serif; fill: currentColor; }}
.title {{ font-size: 16px; font-weight: 600; }}
.guest {{ font-weight: 600; }}
rect {{ fill: #2f81f7; }}
@media (prefers-color-scheme: dark) {{ svg {{ color: #e6edf3; background: #0d1117; }} }}
</style>
<text class="title" x="16" y="28">How many times as fast imageops compress is, output verified</text>
{body}</svg>
"#
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
