//! Growth as pictures: a small chart for each curve, both axes from zero, so that a straight line is linear growth and a
//! level one is none.

use std::fmt::Write as _;

use super::figures::Curve;

/// Size of one chart with what is written around it.
const CHART: (f64, f64) = (370.0, 230.0);
/// The plot in a chart: left, top, width, height.
const PLOT: (f64, f64, f64, f64) = (56.0, 40.0, 290.0, 140.0);
const COLUMNS: usize = 2;

/// All of them, two in a row.
pub(super) fn draw(curves: &[Curve]) -> String {
    let rows = curves.len().div_ceil(COLUMNS);
    let (width, height) = (CHART.0 * COLUMNS as f64, CHART.1 * rows as f64);
    let mut body = String::new();
    for (index, curve) in curves.iter().enumerate() {
        let (x, y) = ((index % COLUMNS) as f64 * CHART.0, (index / COLUMNS) as f64 * CHART.1);
        let _ = writeln!(body, r#"<g transform="translate({x} {y})">"#);
        chart(&mut body, curve);
        body.push_str("</g>\n");
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="How figures grow">
<style>
svg {{ color: #1f2328; background: #ffffff; }}
text {{ font: 11px system-ui, sans-serif; fill: currentColor; }}
.title {{ font-size: 13px; font-weight: 600; }}
.axis {{ stroke: currentColor; stroke-opacity: 0.35; fill: none; }}
.line {{ stroke: #2f81f7; stroke-width: 2; fill: none; }}
circle {{ fill: #2f81f7; }}
@media (prefers-color-scheme: dark) {{ svg {{ color: #e6edf3; background: #0d1117; }} }}
</style>
{body}</svg>
"#
    )
}

fn chart(body: &mut String, curve: &Curve) {
    let (left, top, width, height) = PLOT;
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0_f64, f64::max).max(f64::MIN_POSITIVE);
    let (x_max, y_max) = (
        most(&mut curve.points.iter().map(|point| point.0)),
        most(&mut curve.points.iter().map(|point| point.1)),
    );
    // A little room above the highest point.
    let y_end = y_max * 1.15;
    let place = |(x, y): (f64, f64)| (left + width * x / x_max, top + height - height * y / y_end);
    let _ = writeln!(body, r#"<text class="title" x="{left}" y="22">{}</text>"#, curve.title);
    let (right, bottom) = (left + width, top + height);
    let _ = writeln!(body, r#"<path class="axis" d="M{left} {top} V{bottom} H{right}"/>"#);
    let points: Vec<_> = curve.points.iter().map(|point| place(*point)).collect();
    let line: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(body, r#"<polyline class="line" points="{}"/>"#, line.join(" "));
    for (x, y) in &points {
        let _ = writeln!(body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3"/>"#);
    }
    let high = place((0.0, y_max)).1;
    let _ = writeln!(
        body,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
        left - 6.0,
        high + 4.0,
        number(y_max)
    );
    let _ = writeln!(body, r#"<text x="{:.1}" y="{bottom}" text-anchor="end">0</text>"#, left - 6.0);
    let _ = writeln!(body, r#"<text x="{left}" y="{:.1}" text-anchor="start">{}</text>"#, top - 4.0, curve.y);
    let _ = writeln!(
        body,
        r#"<text x="{right}" y="{:.1}" text-anchor="end">{} {}</text>"#,
        bottom + 16.0,
        number(x_max),
        curve.x
    );
}

/// With as many digits as say something.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::{Curve, draw};

    #[test]
    fn the_highest_point_lies_in_the_picture() {
        let curve = Curve {
            title: "Growth".to_owned(),
            x: "images".to_owned(),
            y: "ms".to_owned(),
            points: vec![(0.0, 1.0), (10.0, 2.0)],
        };
        let picture = draw(&[curve]);
        assert!(picture.contains(r#"<polyline class="line" points="56.0,119.1 346.0,58.3"/>"#), "{picture}");
    }
}
