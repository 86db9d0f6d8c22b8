//! Range requests for a part of an image's data, parsed as webob and Glance do.

use std::ops::Range;

use crate::error::{Error, Result};

/// The range headers of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeRequest {
    /// `Range`
    pub(crate) range: Option<String>,
    /// `Content-Range`, which old clients send instead.
    pub(crate) content_range: Option<String>,
}

impl RangeRequest {
    /// Returns the requested range of data of this size. `None` means all data.
    ///
    /// # Errors
    /// `NoSuchRange`; `Invalid` if the request asks for several ranges.
    pub(crate) fn resolve(&self, size: u64) -> Result<Option<Range<u64>>> {
        match (&self.range, &self.content_range) {
            (Some(range), _) => from_range(range, size).map(Some),
            (None, Some(range)) => from_content_range(range, size).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// Parses `bytes=1-2`, `bytes=1-` and `bytes=-2`. The end is inclusive, and is clamped to the data's end.
fn from_range(text: &str, size: u64) -> Result<Range<u64>> {
    if text.contains(',') {
        let message = "Requests with multiple ranges are not supported in Glance. You may make multiple single-range \
             requests instead.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let (start, end) = parse_range(text).ok_or_else(|| Error::NoSuchRange("Invalid Range header.".to_owned()))?;
    let range = match (start, end) {
        (Some(start), None) => start..size,
        (Some(start), Some(end)) if start <= end => start..end.saturating_add(1).min(size),
        (None, Some(last)) => size.saturating_sub(last)..size,
        _ => return Err(Error::NoSuchRange("Invalid Range header.".to_owned())),
    };
    // As in Glance, `bytes=-0` means all data.
    let range = if (start, end) == (None, Some(0)) { 0..size } else { range };
    if range.start >= size { Err(out_of_range("start", "Start", "Range", size)) } else { Ok(range) }
}

/// Parses `bytes 1-2/*` and `bytes 1-2/3`.
fn from_content_range(text: &str, size: u64) -> Result<Range<u64>> {
    let invalid = || Error::NoSuchRange("Invalid Content-Range header.".to_owned());
    let rest = strip_prefix_ignoring_case(text, "bytes ").ok_or_else(invalid)?;
    let (start, rest) = parse_number(rest);
    let (end, rest) = parse_number(rest.strip_prefix('-').ok_or_else(invalid)?);
    let (start, end) = start.zip(end).filter(|(start, end)| start <= end).ok_or_else(invalid)?;
    let length = rest.strip_prefix('/').ok_or_else(invalid)?;
    let length = if length.starts_with('*') { None } else { Some(parse_number(length).0.ok_or_else(invalid)?) };
    let stop = end.saturating_add(1);
    if length.is_some_and(|length| stop > length) {
        return Err(invalid());
    }
    if stop > size && (length.is_none() || start < size) {
        let message = "Invalid stop position in Content-Range header. The stop position MUST be in the inclusive range";
        return Err(Error::NoSuchRange(format!("{message} [0, {}].", last_position(size))));
    }
    if start >= size { Err(out_of_range("start", "Start", "Content-Range", size)) } else { Ok(start..stop) }
}

fn out_of_range(what: &str, title: &str, header: &str, size: u64) -> Error {
    Error::NoSuchRange(format!(
        "Invalid {what} position in {header} header. {title} position MUST be in the inclusive range [0, {}].",
        last_position(size)
    ))
}

/// Returns the position of the last byte: -1 for empty data, as Glance prints it.
fn last_position(size: u64) -> i128 {
    i128::from(size) - 1
}

/// Parses the two numbers of a range, with spaces where webob allows them.
fn parse_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let rest = strip_prefix_ignoring_case(text, "bytes")?.trim_start_matches(' ').strip_prefix('=')?;
    let (start, rest) = parse_number(rest.trim_start_matches(' '));
    let rest = rest.trim_start_matches(' ').strip_prefix('-')?;
    Some((start, parse_number(rest.trim_start_matches(' ')).0))
}

fn strip_prefix_ignoring_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Parses the digits at the start, and returns the rest, too. A number too large for the type becomes its maximum.
fn parse_number(text: &str) -> (Option<u64>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    ((!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX)), rest)
}

#[cfg(test)]
mod tests {
    use super::RangeRequest;

    fn range(text: &str, size: u64) -> Result<(u64, u64), String> {
        let asked = RangeRequest { range: Some(text.to_owned()), content_range: None };
        asked.resolve(size).map(|range| range.map(|range| (range.start, range.end)).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn range_headers_are_parsed() {
        for (text, expected) in [
            ("bytes=0-4", (0, 5)),
            ("bytes=5-", (5, 10)),
            ("bytes=-3", (7, 10)),
            ("bytes=-30", (0, 10)),
            ("bytes=-0", (0, 10)),
            ("Bytes = 2 - 3", (2, 4)),
            ("bytes=9-99999999999999999999999", (9, 10)),
        ] {
            assert_eq!(range(text, 10), Ok(expected), "{text}");
        }
        for text in ["bytes=10-", "bytes=-", "bytes=3-2", "octets=0-1", "0-1", "", "bytes=0-1,3-4", "bytes=é"] {
            assert!(range(text, 10).is_err(), "{text}");
        }
        assert!(range("bytes=0-", 0).unwrap_err().ends_with("[0, -1]."));
        assert!(range("bytes=-1", 0).is_err());
    }

    #[test]
    fn content_range_headers_are_parsed_as_requests() {
        let range = |text: &str| {
            let asked = RangeRequest { range: None, content_range: Some(text.to_owned()) };
            asked.resolve(10).map(|range| range.unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(range("bytes 0-4/*"), Ok(0..5));
        assert_eq!(range("bytes 0-4/10"), Ok(0..5));
        for text in ["bytes 0-10/*", "bytes 4-2/*", "bytes */10", "bytes 0-4", "bytes 0-4/x", "bytes 10-11/*", "0-4/*"]
        {
            assert!(range(text).is_err(), "{text}");
        }
    }
}
