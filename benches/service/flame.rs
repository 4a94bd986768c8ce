//! Samples of stacks as a flame graph: the wider a box, the more of the time was spent in it and in what it called.

use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: f64 = 1200.0;
const LINE: f64 = 17.0;
const HEAD: f64 = 34.0;
/// Boxes below this share are left out: nobody could read them.
const SHARE_MIN: f64 = 0.003;
/// About the width of a character.
const CHARACTER: f64 = 6.6;

/// A function, under those that called it.
#[derive(Default)]
pub struct Frame {
    samples: u64,
    callees: BTreeMap<String, Frame>,
}

impl Frame {
    /// Counts a stack; its outermost function first.
    pub fn add(&mut self, stack: &[String]) {
        self.samples += 1;
        if let Some((first, rest)) = stack.split_first() {
            self.callees.entry(first.clone()).or_default().add(rest);
        }
    }

    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Samples in which `name` occurs in a function's name, each counted once.
    pub fn samples_in(&self, name: &str) -> u64 {
        let of = |(function, frame): (&String, &Self)| {
            if function.contains(name) { frame.samples } else { frame.samples_in(name) }
        };
        self.callees.iter().map(of).sum()
    }

    /// Levels below this one that are wide enough to be drawn.
    fn depth(&self, least: u64) -> usize {
        let wide = self.callees.values().filter(|frame| frame.samples >= least);
        wide.map(|frame| 1 + frame.depth(least)).max().unwrap_or(0)
    }

    /// The picture.
    pub fn draw(&self, title: &str) -> String {
        let least = ((self.samples as f64 * SHARE_MIN) as u64).max(1);
        let height = HEAD + LINE * self.depth(least) as f64 + 8.0;
        let mut body = String::new();
        self.draw_callees(&mut body, (0.0, height - 8.0), WIDTH / self.samples.max(1) as f64, least);
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{title}">
<style>
svg {{ background: #ffffff; }}
text {{ font: 11px ui-monospace, monospace; fill: #1f2328; }}
.title {{ font: 600 14px system-ui, sans-serif; }}
rect {{ stroke: #ffffff; stroke-width: 0.5; }}
.own {{ fill: #79b8ff; }} .kernel {{ fill: #ffb77c; }} .other {{ fill: #d1d5da; }} .digest {{ fill: #b392f0; }}
</style>
<text class="title" x="8" y="20">{title}: {} samples; blue: imageops, violet: digests and codecs, orange: the kernel</text>
{body}</svg>
"#,
            self.samples
        )
    }

    fn draw_callees(&self, body: &mut String, (mut x, bottom): (f64, f64), scale: f64, least: u64) {
        for (name, frame) in &self.callees {
            let width = frame.samples as f64 * scale;
            if frame.samples >= least {
                let top = bottom - LINE;
                let text = escape(name);
                let share = 100.0 * width / WIDTH;
                let _ = write!(
                    body,
                    r#"<g><title>{text}: {share:.1} %</title><rect class="{}" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{LINE}"/>"#,
                    kind(name)
                );
                let room = ((width - 4.0) / CHARACTER) as usize;
                if room > 3 {
                    let shown: String = name.chars().take(room).collect();
                    let _ = write!(
                        body,
                        r#"<text x="{:.1}" y="{:.1}">{}</text>"#,
                        x + 2.0,
                        bottom - 5.0,
                        escape(&shown)
                    );
                }
                body.push_str("</g>\n");
                frame.draw_callees(body, (x, top), scale, least);
            }
            x += width;
        }
    }
}

fn kind(name: &str) -> &'static str {
    const DIGESTS: [&str; 9] =
        ["md5", "sha2", "sha256", "crc32", "deflate", "inflate", "zstd", "ZSTD", "compress_block"];
    if name.ends_with("_[k]") {
        "kernel"
    } else if DIGESTS.iter().any(|part| name.contains(part)) {
        "digest"
    } else if name.contains("imageops") {
        "own"
    } else {
        "other"
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
