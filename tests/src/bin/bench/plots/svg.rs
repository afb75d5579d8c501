//! A sheet of SVG: rectangles, lines, text. Colours follow the reader's light or dark theme.

use std::fmt::{Display, Write as _};

/// Width of every plot, in pixels.
pub(super) const WIDTH: f64 = 880.0;
/// Space around everything.
pub(super) const MARGIN: f64 = 20.0;
/// About the width of a character of ordinary text; labels are placed by it.
pub(super) const CHARACTER: f64 = 6.7;

/// Series keep their own colours in both themes; all of them stand out from white and from near-black.
const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}\
.title{font-size:15px;font-weight:600}\
.soft{fill:#59636e;font-size:12px}\
.grid{stroke:#8c959f;stroke-opacity:.28}\
.axis{stroke:#59636e}\
.mark{stroke:#1f2328;stroke-width:1.4}\
@media (prefers-color-scheme:dark){\
text{fill:#e6edf3}.soft{fill:#9198a1}.axis{stroke:#9198a1}.mark{stroke:#e6edf3}}";

/// Where a text is anchored.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A sheet being drawn on.
pub(super) struct Sheet {
    height: f64,
    name: String,
    body: String,
}

impl Sheet {
    /// An empty sheet of [`WIDTH`] by `height`, called `name` for screen readers.
    pub(super) fn new(height: f64, name: &str) -> Self {
        Self { height, name: name.to_owned(), body: String::new() }
    }

    // Writing to a string cannot fail.
    fn put(&mut self, element: impl Display) {
        let _ = writeln!(self.body, "{element}");
    }

    /// A text of the class `title`, `soft` or, empty, ordinary, on the base line `y`.
    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{class}>{text}</text>"
        ));
    }

    /// A line of the class `grid`, `axis` or `mark`.
    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        ));
    }

    /// A bar from `(x, y)`, its upper left corner.
    pub(super) fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        let width = width.max(1.0);
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" fill=\"{colour}\"/>"
        ));
    }

    /// A line through `points`, with a dot at each; `dashed` tells a second line of one colour apart.
    pub(super) fn curve(&mut self, points: &[(f64, f64)], colour: &str, dashed: bool) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dash = if dashed { " stroke-dasharray=\"7 4\"" } else { "" };
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\"{dash}/>",
            path.join(" ")
        ));
        for (x, y) in points {
            self.put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.6\" fill=\"{colour}\"/>"));
        }
    }

    /// A thin line in a series' own colour.
    pub(super) fn whisker(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"1.3\"/>"
        ));
    }

    /// Title lines and a softer line below; gives the y below them.
    pub(super) fn heading(&mut self, title: &str, below: &str) -> f64 {
        let mut y = MARGIN + 12.0;
        for line in wrap(title, 104) {
            self.text((MARGIN, y), Anchor::Start, "title", &line);
            y += 20.0;
        }
        self.text((MARGIN, y), Anchor::Start, "soft", below);
        y + 16.0
    }

    /// The document.
    pub(super) fn finish(self) -> String {
        let Self { height, name, body } = self;
        let name = escape(&name);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\">\n<title>{name}</title>\n\
             <style>{STYLE}</style>\n{body}</svg>\n"
        )
    }
}

/// Height a heading takes, as [`Sheet::heading`] draws it.
pub(super) fn heading_height(title: &str) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few lines")]
    let lines = wrap(title, 104).len() as f64;
    MARGIN + 12.0 + lines * 20.0 + 16.0
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + word.chars().count() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The colour of a series, by whose it is: the same contestant looks the same in every plot.
pub(super) fn colour(series: &str) -> &'static str {
    const COLOURS: [(&str, &str); 6] = [
        ("vswitchd", "#3b7ddd"),
        ("OVS", "#e07b39"),
        ("testpmd", "#8b949e"),
        ("Linux", "#3fa45b"),
        ("earlier", "#9a6dd7"),
        ("", "#3b7ddd"),
    ];
    COLOURS.iter().find(|(start, _)| series.starts_with(start)).map_or("#3b7ddd", |(_, colour)| colour)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Anchor, Sheet, colour, escape, wrap};

    /// Whether every element is closed, in order, and nothing but known entities follows an ampersand.
    pub(in super::super) fn well_formed(text: &str) -> bool {
        let mut open: Vec<&str> = Vec::new();
        let mut pieces = text.split('<');
        if pieces.next().is_none_or(|before| !before.trim().is_empty()) {
            return false;
        }
        for piece in pieces {
            let Some((tag, content)) = piece.split_once('>') else { return false };
            let entities = ["&amp;", "&lt;", "&gt;", "&quot;"];
            let strange = content
                .match_indices('&')
                .any(|(at, _)| !entities.iter().any(|e| content[at..].starts_with(e)));
            if strange || content.contains('>') || tag.matches('"').count() % 2 == 1 {
                return false;
            }
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or_default());
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_check_of_these_tests_sees_what_is_broken() {
        assert!(well_formed("<a><b x=\"1\"/>t &amp; u</a>"));
        for broken in ["<a>", "<a></b>", "<a>&</a>", "<a x=\"></a>", "<a><b></a></b>", "text"] {
            assert!(!well_formed(broken), "{broken}");
        }
    }

    #[test]
    fn a_sheet_is_well_formed_whatever_the_texts_say() {
        let mut sheet = Sheet::new(100.0, "a < b & \"c\"");
        sheet.heading("1 > 0 & <b>", "x & y");
        sheet.text((1.0, 2.0), Anchor::End, "soft", "</text>");
        sheet.bar((0.0, 0.0), (5.0, 5.0), colour("OVS-DPDK"));
        sheet.curve(&[(0.0, 0.0), (1.0, 1.0)], colour("vswitchd"), true);
        let text = sheet.finish();
        assert!(well_formed(&text), "{text}");
    }

    #[test]
    fn long_titles_are_wrapped_between_words() {
        assert_eq!(wrap("aa bb cc", 6), ["aa bb", "cc"]);
        assert_eq!(wrap("longerthanthat x", 6), ["longerthanthat", "x"]);
        assert_eq!(escape("<&>\""), "&lt;&amp;&gt;&quot;");
    }
}
