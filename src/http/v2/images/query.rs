//! Parses the query string of a listing.

use chrono::{Datelike as _, NaiveDate, NaiveDateTime, TimeDelta};

use crate::{
    error::{Error, Result},
    images::list::ListQuery,
    model::{Comparison, Direction, ImageFilter, MemberStatus, SortKey, Term, VisibilityFilter, check_no_nul},
    python,
};

/// The maximum number of parameters of a listing. Each is a condition that the database must plan.
const MAX_PARAMETERS: usize = 64;
/// The maximum number of tags and custom properties in the filter of a listing. Each needs a join, and PostgreSQL takes seconds to
/// plan sixty of them.
const MAX_JOINS: usize = 12;
/// The maximum number of values in an `in:` list.
const MAX_LIST: usize = 256;

/// The sort keys that a listing supports.
const SORT_KEYS: [(&str, SortKey); 8] = [
    ("name", SortKey::Name),
    ("status", SortKey::Status),
    ("container_format", SortKey::ContainerFormat),
    ("disk_format", SortKey::DiskFormat),
    ("size", SortKey::Size),
    ("id", SortKey::Id),
    ("created_at", SortKey::CreatedAt),
    ("updated_at", SortKey::UpdatedAt),
];

/// Parses the pairs of a query string. As in Glance, a name that is not a known parameter filters by a custom property.
///
/// # Errors
/// `Invalid`, with Glance's message.
pub(super) fn parse(pairs: &[(String, String)]) -> Result<ListQuery> {
    let mut query = ListQuery::default();
    let mut sort = SortParameters::default();
    if pairs.len() > MAX_PARAMETERS {
        return Err(Error::Invalid(format!("A listing can have at most {MAX_PARAMETERS} query parameters.")));
    }
    for (at, (name, value)) in pairs.iter().enumerate() {
        check_no_nul("Param values", name)?;
        check_no_nul("Param values", value)?;
        let is_repeated = || pairs[at + 1..].iter().any(|(later, _)| later == name);
        match name.as_str() {
            "limit" => query.limit = Some(limit(value)?),
            "marker" => query.marker = Some(value.clone().into()),
            "sort" => sort.combined = Some(value),
            "sort_key" => sort.keys.push(sort_key(value.trim())?),
            "sort_dir" => sort.directions.push(direction(value.trim())?),
            "member_status" => query.filter.membership = membership(value)?,
            "tag" => query.filter.terms.push(Term::Tag(value.trim().to_owned())),
            // If these are repeated, all of them must hold.
            "visibility" | "checksum" | "os_hash_value" => query.filter.add(name, value)?,
            // Glance ignores the client's value.
            "deleted" => {}
            // If others are repeated, the last one is used.
            _ if is_repeated() => {}
            _ => query.filter.add(name, value)?,
        }
    }
    let joins = query.filter.terms.iter().filter(|term| matches!(term, Term::Tag(_) | Term::Property(..))).count();
    if joins > MAX_JOINS {
        return Err(Error::Invalid(format!(
            "A listing can be filtered by at most {MAX_JOINS} tags and custom properties."
        )));
    }
    query.sort = sort.order()?;
    Ok(query)
}

impl ImageFilter {
    fn add(&mut self, name: &str, value: &str) -> Result<()> {
        let text = || value.to_owned();
        let term = match name {
            "os_hidden" => {
                self.os_hidden = boolean(name, &value.to_lowercase())?;
                return Ok(());
            }
            "visibility" => {
                self.visibility = self.visibility.and(visibility(value)?);
                return Ok(());
            }
            "owner" => {
                self.owner = Some(text());
                return Ok(());
            }
            "changes-since" => {
                return Err(Error::Invalid("The \"changes-since\" filter is no longer available on v2.".to_owned()));
            }
            "protected" => Term::Protected(boolean(name, value)?),
            "created_at" | "updated_at" => {
                let (compare, time) = comparison(name, value)?;
                if name == "created_at" { Term::CreatedAt(compare, time) } else { Term::UpdatedAt(compare, time) }
            }
            "id" => Term::Id(one_of(value)?),
            "name" => Term::Name(one_of(value)?),
            "status" => Term::Status(one_of(value)?),
            "container_format" => Term::ContainerFormat(one_of(value)?),
            "disk_format" => Term::DiskFormat(one_of(value)?),
            "checksum" => Term::Checksum(text()),
            "os_hash_algo" => Term::OsHashAlgo(text()),
            "os_hash_value" => Term::OsHashValue(text()),
            _ => number(name, value)?.unwrap_or_else(|| Term::Property(name.to_owned(), text())),
        };
        self.terms.push(term);
        Ok(())
    }
}

impl VisibilityFilter {
    /// The filter that both filters imply.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Default | Self::All, other) => other,
            (one, Self::All) => one,
            (one, other) => {
                if one == other {
                    one
                } else {
                    Self::None
                }
            }
        }
    }
}

fn visibility(value: &str) -> Result<VisibilityFilter> {
    match value {
        "all" => Ok(VisibilityFilter::All),
        // As in Glance, this is not an error, and no image matches.
        "" => Ok(VisibilityFilter::None),
        _ => match value.parse() {
            Ok(visibility) => Ok(VisibilityFilter::Only(visibility)),
            Err(_) => Err(Error::Invalid(format!("Invalid visibility value: {value}"))),
        },
    }
}

/// The condition on a numeric column, or on one end of its range; `None` if the name is not a numeric column.
fn number(name: &str, value: &str) -> Result<Option<Term>> {
    let (column, compare) = if let Some(column) = name.strip_suffix("_min") {
        (column, Comparison::AtLeast)
    } else if let Some(column) = name.strip_suffix("_max") {
        (column, Comparison::AtMost)
    } else {
        (name, Comparison::Equal)
    };
    let term = match column {
        "size" => Term::Size,
        "virtual_size" => Term::VirtualSize,
        "min_ram" => Term::MinRam,
        "min_disk" => Term::MinDisk,
        _ => return Ok(None),
    };
    let error = || Error::Invalid("Unable to filter on a range with a non-numeric value.".to_owned());
    let number = python::parse_int(value).ok_or_else(error)?;
    // A number beyond the column's range compares like the end of the range.
    let bounded = number.clamp(i64::MIN.into(), i64::MAX.into());
    Ok(Some(term(compare, i64::try_from(bounded).map_err(|_| error())?)))
}

/// The sort parameters of the request.
#[derive(Default)]
struct SortParameters<'q> {
    combined: Option<&'q str>,
    keys: Vec<SortKey>,
    directions: Vec<Direction>,
}

impl SortParameters<'_> {
    /// The sort order, followed by creation time and id, so that the order of any two images is defined.
    fn order(mut self) -> Result<Vec<(SortKey, Direction)>> {
        if let Some(combined) = self.combined {
            if !self.keys.is_empty() || !self.directions.is_empty() {
                return Err(Error::Invalid("Old and new sorting syntax cannot be combined".to_owned()));
            }
            for part in combined.trim().split(',') {
                let (key, dir) = part.split_once(':').unwrap_or((part, ""));
                self.keys.push(sort_key(key.trim())?);
                self.directions.push(if dir.is_empty() { Direction::Desc } else { direction(dir.trim())? });
            }
        }
        if self.directions.len() > 1 && self.directions.len() != self.keys.len() {
            return Err(Error::Invalid("Number of sort dirs does not match the number of sort keys".to_owned()));
        }
        if self.keys.is_empty() {
            self.keys.push(SortKey::CreatedAt);
        }
        // A single direction applies to all keys, including those that are appended.
        let default = match self.directions.as_slice() {
            [direction] => *direction,
            _ => Direction::Desc,
        };
        let directions = self.directions.into_iter().chain(std::iter::repeat(default));
        let mut order: Vec<(SortKey, Direction)> = Vec::new();
        for (key, direction) in self.keys.into_iter().zip(directions) {
            // A repeated key has no effect.
            if order.iter().all(|(known, _)| *known != key) {
                order.push((key, direction));
            }
        }
        for key in [SortKey::CreatedAt, SortKey::Id] {
            if order.iter().all(|(known, _)| *known != key) {
                order.push((key, default));
            }
        }
        Ok(order)
    }
}

fn limit(value: &str) -> Result<u32> {
    match python::parse_int(value) {
        Some(limit) if limit < 0 => Err(Error::Invalid("limit param must be positive".to_owned())),
        Some(limit) => Ok(u32::try_from(limit).unwrap_or(u32::MAX)),
        None => Err(Error::Invalid("limit param must be an integer".to_owned())),
    }
}

fn sort_key(name: &str) -> Result<SortKey> {
    let found = SORT_KEYS.iter().find(|(known, _)| *known == name);
    found.map(|(_, key)| *key).ok_or_else(|| {
        let known = SORT_KEYS.map(|(name, _)| name).join(", ");
        Error::Invalid(format!("Invalid sort key: {name}. It must be one of the following: {known}."))
    })
}

fn direction(text: &str) -> Result<Direction> {
    match text {
        "asc" => Ok(Direction::Asc),
        "desc" => Ok(Direction::Desc),
        _ => Err(Error::Invalid(format!("Invalid sort direction: {text}"))),
    }
}

fn membership(text: &str) -> Result<Option<MemberStatus>> {
    match text {
        "all" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| Error::Invalid(format!("Invalid status: {text}"))),
    }
}

fn boolean(name: &str, text: &str) -> Result<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::Invalid(format!(
            "Invalid value '{text}' for '{name}' filter. Valid values are 'true' or 'false'."
        ))),
    }
}

/// `in:a,"b,c"`, `eq:a`, or the text itself.
fn one_of(value: &str) -> Result<Vec<String>> {
    match value.split_once(':') {
        None => Ok(vec![value.to_owned()]),
        Some(("eq", text)) => Ok(vec![text.to_owned()]),
        Some(("in", list)) => {
            let mut texts = quoted_list(list)?;
            // Each value is a separate lookup, so duplicates are removed.
            texts.sort();
            texts.dedup();
            Ok(texts)
        }
        // A time also contains colons.
        Some(_) if timestamp(value).is_some() => Ok(vec![value.to_owned()]),
        Some((operator, _)) => Err(Error::Invalid(format!("Unable to filter by unknown operator '{operator}'."))),
    }
}

/// Splits a list at commas outside quotes. A backslash escapes the quote after it.
fn quoted_list(list: &str) -> Result<Vec<String>> {
    let fault = |what: &str| Error::Invalid(format!("Invalid filter value {list}. {what}"));
    let mut items = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        if items.len() == MAX_LIST {
            return Err(Error::Invalid(format!("A list can have at most {MAX_LIST} values.")));
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = closing_quote(quoted).ok_or_else(|| fault("The quote is not closed."))?;
            items.push(quoted[..end].to_owned());
            rest = &quoted[end + 1..];
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(fault("There is no comma after closing quotation mark."));
            }
            rest = rest.strip_prefix(',').unwrap_or(rest);
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let item = &rest[..end];
            if item.contains('"') {
                return Err(fault("There is no comma before opening quotation mark."));
            }
            items.push(item.to_owned());
            rest = rest[end..].strip_prefix(',').unwrap_or("");
        }
    }
    Ok(items)
}

/// The offset of the closing quote, which has no backslash before it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut before = '"';
    text.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && before != '\\';
        before = c;
        closes.then_some(at)
    })
}

fn comparison(name: &str, value: &str) -> Result<(Comparison, NaiveDateTime)> {
    let (operator, text) = match timestamp(value) {
        Some(time) => return Ok((Comparison::Equal, time)),
        None => value.split_once(':').unwrap_or(("eq", value)),
    };
    let time = timestamp(text).ok_or_else(|| {
        Error::Invalid(format!("Bad \"{name}\" query filter format. Use ISO 8601 DateTime notation."))
    })?;
    let compare = match operator {
        "gt" => Comparison::Above,
        "gte" => Comparison::AtLeast,
        "lt" => Comparison::Below,
        "lte" => Comparison::AtMost,
        "eq" => Comparison::Equal,
        "neq" => Comparison::Unequal,
        _ => {
            return Err(Error::Invalid("Unable to filter on a unknown operator.".to_owned()));
        }
    };
    Ok((compare, time))
}

/// Parses an ISO 8601 time, in UTC if it has no zone. The year must be one that every database engine can store.
fn timestamp(text: &str) -> Option<NaiveDateTime> {
    parse_timestamp(text).filter(|time| (1000..=9999).contains(&time.year()))
}

/// Parses the forms of ISO 8601 that Glance accepts: with or without hyphens and colons, and with any parts missing at the end.
fn parse_timestamp(text: &str) -> Option<NaiveDateTime> {
    let mut rest = text;
    let year = digits(&mut rest, 4, 4)?;
    let mut month = 1;
    let mut day = 1;
    if !rest.is_empty() {
        let hyphen = skip(&mut rest, '-');
        month = digits(&mut rest, if hyphen { 1 } else { 2 }, 2)?;
        if rest.is_empty() && !hyphen {
            return None;
        }
    }
    if !rest.is_empty() {
        let hyphen = skip(&mut rest, '-');
        day = digits(&mut rest, if hyphen { 1 } else { 2 }, 2)?;
    }
    let date = NaiveDate::from_ymd_opt(year.try_into().ok()?, month, day)?;
    if rest.is_empty() {
        return date.and_hms_opt(0, 0, 0);
    }
    if !skip(&mut rest, ' ') && !skip(&mut rest, 'T') {
        return None;
    }
    let hour = digits(&mut rest, 2, 2)?;
    let minute = after_colon(&mut rest, 2).unwrap_or(0);
    let second = after_colon(&mut rest, 1);
    let mut microsecond = 0;
    if second.is_some() && (skip(&mut rest, '.') || skip(&mut rest, ',')) {
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (fraction, behind) = rest.split_at(length);
        microsecond = format!("{fraction:0<6}").get(..6)?.parse().ok().filter(|_| length > 0)?;
        rest = behind;
    }
    let local = date.and_hms_micro_opt(hour, minute, second.unwrap_or(0), microsecond)?;
    local.checked_sub_signed(offset(rest)?)
}

/// The offset of a time zone from UTC. The zone must be the rest of the text.
fn offset(mut rest: &str) -> Option<TimeDelta> {
    if rest.is_empty() || rest == "Z" {
        return Some(TimeDelta::zero());
    }
    let west = skip(&mut rest, '-');
    if !west && !skip(&mut rest, '+') {
        return None;
    }
    let hours = digits(&mut rest, 2, 2)?;
    skip(&mut rest, ':');
    let minutes = if rest.is_empty() { 0 } else { digits(&mut rest, 2, 2)? };
    let minutes = i64::from(hours * 60 + minutes);
    (rest.is_empty() && minutes < 24 * 60).then(|| TimeDelta::minutes(if west { -minutes } else { minutes }))
}

fn skip(rest: &mut &str, c: char) -> bool {
    rest.strip_prefix(c).inspect(|behind| *rest = behind).is_some()
}

/// Consumes a number of `min` to `max` digits, as many as there are.
fn digits(rest: &mut &str, min: usize, max: usize) -> Option<u32> {
    let length = rest.bytes().take(max).take_while(u8::is_ascii_digit).count();
    let (number, behind) = rest.split_at(length);
    *rest = behind;
    number.parse().ok().filter(|_| length >= min)
}

/// Consumes `min` to two digits with an optional colon before them. Consumes nothing if they are missing.
fn after_colon(rest: &mut &str, min: usize) -> Option<u32> {
    let mut ahead = *rest;
    skip(&mut ahead, ':');
    let number = digits(&mut ahead, min, 2)?;
    *rest = ahead;
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{quoted_list, timestamp};
    use crate::{
        images::list::ListQuery,
        model::{Direction, SortKey},
    };

    fn parse(query: &[(&str, &str)]) -> Result<ListQuery, String> {
        let pairs: Vec<_> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        super::parse(&pairs).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_order_is_newest_first() {
        let expected = vec![(SortKey::CreatedAt, Direction::Desc), (SortKey::Id, Direction::Desc)];
        assert_eq!(parse(&[]).unwrap().sort, expected);
    }

    #[test]
    fn a_single_direction_applies_to_every_key() {
        let sort = parse(&[("sort_key", "name"), ("sort_key", "size"), ("sort_dir", "asc")]).unwrap().sort;
        assert!(sort.iter().all(|(_, direction)| *direction == Direction::Asc), "{sort:?}");
        assert_eq!(sort.len(), 4);
    }

    #[test]
    fn both_forms_of_a_sort_order_cannot_be_combined() {
        assert!(parse(&[("sort", "name:asc"), ("sort_key", "name")]).unwrap_err().contains("cannot be combined"));
    }

    #[test]
    fn commas_in_quotes_do_not_split_a_value() {
        assert_eq!(quoted_list("a,\"b,c\",d").unwrap(), ["a", "b,c", "d"]);
        assert!(quoted_list("a,\"b").is_err());
        assert!(quoted_list("\"a\"b").is_err());
        assert!(quoted_list("a\"b\"").is_err());
    }

    #[test]
    fn times_are_parsed_as_by_iso8601() {
        let cases = [
            ("2020", Some("2020-01-01 00:00:00")),
            ("2020-2", Some("2020-02-01 00:00:00")),
            ("202002", None),
            ("20200203", Some("2020-02-03 00:00:00")),
            ("2020-02-03T04", Some("2020-02-03 04:00:00")),
            ("2020-02-03 04:05", Some("2020-02-03 04:05:00")),
            ("20200203T040506Z", Some("2020-02-03 04:05:06")),
            ("2020-02-03T04:05:06.5", Some("2020-02-03 04:05:06.500")),
            ("2020-02-03T04:05:06,1234567+01:30", Some("2020-02-03 02:35:06.123456")),
            ("2020-02-03T04:05:06-0130", Some("2020-02-03 05:35:06")),
            ("2020-02-03T04:05:06+01", Some("2020-02-03 03:05:06")),
            ("2020-02-03T04:05:06+24:00", None),
            ("2020-02-03T04:05:06.", None),
            ("2020-02-03T04:05:60", None),
            ("2020-02-30", None),
            ("2020-02-03T", None),
            ("2020-02-03x", None),
            ("20é0", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(timestamp(text).map(|time| time.to_string()).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_query_causes_a_panic(pairs in prop::collection::vec((any::<String>(), any::<String>()), 0..8)) {
            let _ = super::parse(&pairs);
        }

        #[test]
        fn no_list_causes_a_panic(list in any::<String>()) {
            let _ = quoted_list(&list);
        }
    }
}
