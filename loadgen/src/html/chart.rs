//! A line chart as SVG.

use std::fmt::Write;

use crate::html::axis::Axis;
use crate::html::text::{Unit, escape};

/// A chart with what it shows in words.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows, in a few words.
    pub title: &'static str,
    /// What there is to see, in sentences, for those who cannot see it and for all others.
    pub caption: String,
    /// Along the bottom.
    pub x: Axis,
    /// Along the left.
    pub y: Axis,
    /// From bottom to top in drawing order.
    pub lines: Vec<Line>,
    /// The measured window, shaded behind the lines.
    pub window: Option<(f64, f64)>,
    /// How a point's place along the bottom is told.
    pub tell_x: fn(f64) -> String,
}

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its parts: between them nothing is known.
    pub parts: Vec<Vec<(f64, f64)>>,
}

impl Line {
    /// A line through points in the order of their x; it breaks where a value is missing, and where two points are
    /// further apart than `gap`.
    pub fn through(name: impl Into<String>, points: impl Iterator<Item = (f64, Option<f64>)>, gap: f64) -> Self {
        let mut parts: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
        for (x, y) in points {
            let Some(part) = parts.last_mut() else { continue };
            let is_far = part.last().is_some_and(|(before, _)| x - before > gap);
            match y.filter(|y| y.is_finite()) {
                Some(y) if is_far => parts.push(vec![(x, y)]),
                Some(y) => part.push((x, y)),
                None if part.is_empty() => {}
                None => parts.push(Vec::new()),
            }
        }
        parts.retain(|part| !part.is_empty());
        Self { name: name.into(), parts: thinned(parts) }
    }

    /// All its points.
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.parts.iter().flatten().copied()
    }

    /// Its highest value.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        self.points().map(|(_, y)| y).reduce(f64::max)
    }

    /// Its lowest value.
    #[must_use]
    pub fn min(&self) -> Option<f64> {
        self.points().map(|(_, y)| y).reduce(f64::min)
    }
}

/// More points than a screen has columns would only make the file large: of neighbours the highest stays, since a peak
/// is what one looks for.
fn thinned(parts: Vec<Vec<(f64, f64)>>) -> Vec<Vec<(f64, f64)>> {
    let count: usize = parts.iter().map(Vec::len).sum();
    let together = count.div_ceil(POINTS_MAX).max(1);
    if together == 1 {
        return parts;
    }
    let highest = |chunk: &[(f64, f64)]| chunk.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    parts.into_iter().map(|part| part.chunks(together).filter_map(highest).collect()).collect()
}

impl Chart {
    /// The figure: title, legend, picture, caption.
    #[must_use]
    pub fn figure(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_figure(&mut out);
        out
    }

    fn write_figure(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "<figure>\n<h3>{}</h3>", escape(self.title))?;
        if self.lines.len() > 1 {
            write!(out, "<ul class=\"legend\">")?;
            for (number, line) in self.lines.iter().enumerate() {
                write!(out, "<li><i class=\"c{}\"></i>{}</li>", number % COLOURS, escape(&line.name))?;
            }
            writeln!(out, "</ul>")?;
        }
        writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}. {}\">",
            escape(self.title),
            escape(&self.caption)
        )?;
        self.write_frame(out)?;
        for (number, line) in self.lines.iter().enumerate() {
            self.write_line(out, number % COLOURS, line)?;
        }
        writeln!(out, "</svg>\n<figcaption>{}</figcaption>\n</figure>", escape(&self.caption))
    }

    fn write_frame(&self, out: &mut String) -> std::fmt::Result {
        if let Some((from, until)) = self.window {
            let (from, until) = (self.across(from), self.across(until));
            writeln!(
                out,
                "<rect class=\"window\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                (until - from).max(0.0),
                BOTTOM - TOP
            )?;
        }
        for (value, text) in self.y.ticks() {
            let y = self.up(value);
            writeln!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>")?;
            let (x, y) = (LEFT - 8.0, y + 4.0);
            writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", escape(&text))?;
        }
        for (value, text) in self.x.ticks() {
            let x = self.across(value);
            writeln!(
                out,
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{BOTTOM}\" y2=\"{:.1}\"/>",
                BOTTOM + 5.0
            )?;
            let y = BOTTOM + 19.0;
            writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", escape(&text))?;
        }
        let (middle, below) = (f64::midpoint(LEFT, RIGHT), HEIGHT - 4.0);
        writeln!(
            out,
            "<text class=\"label\" x=\"{middle:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{}</text>",
            escape(self.x.label)
        )?;
        writeln!(out, "<text class=\"label\" x=\"4\" y=\"12\">{}</text>", escape(self.y.label))
    }

    fn write_line(&self, out: &mut String, colour: usize, line: &Line) -> std::fmt::Result {
        for part in &line.parts {
            let mut path = String::new();
            for (at, (x, y)) in part.iter().enumerate() {
                let go = if at == 0 { 'M' } else { 'L' };
                write!(path, "{go}{:.1} {:.1}", self.across(*x), self.up(*y))?;
            }
            // A point without neighbours would have no length, and not be seen.
            if part.len() == 1 {
                path.push_str("h0.01");
            }
            writeln!(out, "<path class=\"line c{colour}\" d=\"{path}\"/>")?;
        }
        if line.points().count() > TOLD_POINTS_MAX {
            return Ok(());
        }
        for (x, y) in line.points() {
            let told = format!("{}: {} {}", (self.tell_x)(x), line.name, self.y.unit.show(y));
            let (across, up) = (self.across(x), self.up(y));
            writeln!(
                out,
                "<circle class=\"c{colour}\" cx=\"{across:.1}\" cy=\"{up:.1}\" r=\"5\"><title>{}</title></circle>",
                escape(&told)
            )?;
        }
        Ok(())
    }

    fn across(&self, x: f64) -> f64 {
        LEFT + self.x.position(x).clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    fn up(&self, y: f64) -> f64 {
        BOTTOM - self.y.position(y).clamp(0.0, 1.0) * (BOTTOM - TOP)
    }
}

/// A moment on the time axis.
#[must_use]
pub fn tell_second(at: f64) -> String {
    Unit::Seconds.show(at)
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 296.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 876.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 246.0;
/// Colours in the style sheet.
const COLOURS: usize = 8;
const POINTS_MAX: usize = 1_500;
/// Points of a line up to which each tells its value when pointed at.
const TOLD_POINTS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: Vec<Line>) -> Chart {
        Chart {
            title: "Latency <over> time",
            caption: "It \"rose\".".to_owned(),
            x: Axis::span("seconds", Unit::Seconds, 0.0, 10.0),
            y: Axis::linear("cores", Unit::Cores, 0.0, 1.0),
            lines,
            window: Some((2.0, 8.0)),
            tell_x: tell_second,
        }
    }

    #[test]
    fn what_is_missing_breaks_the_line() {
        let points = [(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(3.0)), (9.0, Some(4.0))];
        let line = Line::through("a", points.into_iter(), 1.5);
        assert_eq!(line.parts, [vec![(0.0, 1.0), (1.0, 2.0)], vec![(3.0, 3.0)], vec![(9.0, 4.0)]]);
        assert_eq!((line.min(), line.max()), (Some(1.0), Some(4.0)));
        assert_eq!(Line::through("a", [(0.0, None), (1.0, Some(f64::NAN))].into_iter(), 1.5).parts.len(), 0);
    }

    #[test]
    fn a_long_run_keeps_its_peaks() {
        let points = (0..100_000).map(|at| (f64::from(at), Some(if at == 77_777 { 9.0 } else { 1.0 })));
        let line = Line::through("a", points, 1.5);
        assert!(line.points().count() <= POINTS_MAX + 1);
        assert_eq!(line.max(), Some(9.0));
    }

    #[test]
    fn a_figure_stays_within_its_frame_and_tells_its_points() {
        let line = Line::through("x<y", [(0.0, Some(0.5)), (10.0, Some(5.0))].into_iter(), 20.0);
        let figure = chart(vec![line]).figure();
        assert!(figure.contains("d=\"M84.0 140.0L876.0 34.0\""), "{figure}");
        assert!(figure.contains("<title>10 s: x&lt;y 5.00</title>"));
        assert!(figure.contains("aria-label=\"Latency &lt;over&gt; time. It &quot;rose&quot;.\""));
        assert!(figure.contains("class=\"window\" x=\"242.4\""));
        assert!(!figure.contains("legend"), "one line needs none");
    }
}
