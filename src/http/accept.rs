//! Content negotiation for error bodies. It follows webob exactly, because clients depend on the result.

use axum::http::{HeaderMap, header};

/// The format of an error body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For clients that accept anything. python-glanceclient parses it.
    Html,
    /// For clients that prefer JSON.
    Json,
    /// For clients that accept neither.
    Plain,
}

/// How specifically a media range matches an offer: 2 exactly, 1 by its type, 0 as `*/*`.
type Specificity = u8;

/// Chooses the format by the request's `Accept` headers.
pub(super) fn negotiate(headers: &HeaderMap) -> Form {
    let mut lines = headers.get_all(header::ACCEPT).iter().map(|line| line.to_str().unwrap_or("\0")).peekable();
    if lines.peek().is_none() {
        return Form::Plain;
    }
    let text = lines.collect::<Vec<_>>().join(",");
    // webob treats a malformed header as if the client accepted anything.
    let Some(ranges) = parse(&text) else {
        return Form::Html;
    };
    let quality = |offer: &str| {
        let fits = ranges.iter().filter_map(|(range, quality)| Some((specificity(range, offer)?, *quality)));
        fits.max_by_key(|(specificity, _)| *specificity).map_or(0, |(_, quality)| quality)
    };
    let (html, json) = (quality("text/html"), quality("application/json"));
    match (html, json) {
        (0, 0) => Form::Plain,
        (html, json) if html >= json => Form::Html,
        _ => Form::Json,
    }
}

fn specificity(range: &str, offer: &str) -> Option<Specificity> {
    if range == "*/*" {
        return Some(0);
    }
    if range.strip_suffix("/*").is_some_and(|kind| offer.split('/').next() == Some(kind)) {
        return Some(1);
    }
    (range == offer).then_some(2)
}

/// Parses the media ranges in lower case, with their quality in thousandths; `None` if the header is malformed.
fn parse(text: &str) -> Option<Vec<(String, u16)>> {
    let mut ranges = Vec::new();
    for element in text.split(',') {
        let element = element.trim_matches([' ', '\t']);
        if element.is_empty() {
            continue;
        }
        let mut parts = element.split(';').map(|part| part.trim_matches([' ', '\t']));
        let range = parts.next()?.to_ascii_lowercase();
        let (kind, subkind) = range.split_once('/')?;
        if !is_token(kind) || !is_token(subkind) || (kind == "*" && subkind != "*") {
            return None;
        }
        let mut quality = 1000;
        let mut has_parameters = false;
        for parameter in parts {
            let (name, value) = parameter.split_once('=')?;
            if !is_token(name) {
                return None;
            }
            if name.eq_ignore_ascii_case("q") {
                quality = thousandths(value)?;
                // The parameters after q are extensions, which no offer has.
                break;
            }
            has_parameters = true;
        }
        // A range with parameters matches no offer, because the offers have none.
        if !has_parameters {
            ranges.push((range, quality));
        }
    }
    Some(ranges)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1") || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    let quality = if whole == "1" { 1000 + fraction } else { fraction };
    (quality <= 1000).then_some(quality)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header};
    use proptest::prelude::*;

    use super::{Form, negotiate};

    fn chosen(accept: &str) -> Form {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        negotiate(&headers)
    }

    /// Each of these was observed from a Glance 33.
    #[test]
    fn the_format_is_chosen_as_by_webob() {
        assert_eq!(negotiate(&HeaderMap::new()), Form::Plain);
        let cases = [
            ("", Form::Plain),
            ("*/*", Form::Html),
            ("text/html", Form::Html),
            ("application/json", Form::Json),
            ("application/json, text/plain", Form::Json),
            ("text/plain;q=0.9, application/json;q=1.0", Form::Json),
            ("application/*", Form::Json),
            ("text/html;q=0.1,application/json;q=0.9", Form::Json),
            ("application/json;q=0, */*", Form::Html),
            ("application/octet-stream", Form::Plain),
            ("application/xml", Form::Plain),
            ("text/plain", Form::Plain),
            ("garbage", Form::Html),
        ];
        for (accept, expected) in cases {
            assert_eq!(chosen(accept), expected, "{accept}");
        }
    }

    proptest! {
        #[test]
        fn no_header_causes_a_panic(accept in "[ -~]*") {
            chosen(&accept);
        }
    }
}
