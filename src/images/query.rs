//! The query string of a listing, from texts to types.

use chrono::{DateTime, Datelike as _, NaiveDateTime};

use super::model::check_storable;
use crate::{
    db::images::{Compare, Direction, Filter, ImageId, SortKey, Term, Visibility},
    error::{Error, Result},
};

/// A listing that somebody asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ListQuery {
    /// Images a page, where the request says.
    pub(crate) limit: Option<u32>,
    /// The image after which the page starts.
    pub(crate) marker: Option<ImageId>,
    /// The order: its keys tell any two images apart.
    pub(crate) sort: Vec<(SortKey, Direction)>,
    /// What the images have in common.
    pub(crate) filter: Filter,
}

/// Parameters of a listing at the most: each is a condition that the database must plan.
const MAX_PARAMETERS: usize = 64;
/// Tags and custom properties that a listing filters by at the most: each joins a table, and PostgreSQL's planner takes
/// seconds over sixty of them.
const MAX_JOINS: usize = 12;
/// Values of one `in:` list at the most.
const MAX_LIST: usize = 256;

/// Sort keys that a listing may have.
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

impl ListQuery {
    /// Reads a query string's pairs. A name that is no column filters on a custom property, as in Glance.
    ///
    /// # Errors
    /// `Invalid`, with Glance's message.
    pub(crate) fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let mut query = Self::default();
        let mut sort = SortParameters::default();
        if pairs.len() > MAX_PARAMETERS {
            return Err(Error::Invalid(format!("A listing has {MAX_PARAMETERS} query parameters at the most.")));
        }
        for (name, value) in pairs {
            check_storable("Param values", name)?;
            check_storable("Param values", value)?;
            match name.as_str() {
                "limit" => query.limit = Some(limit(value)?),
                "marker" => query.marker = Some(value.clone().into()),
                "sort" => sort.combined = Some(value),
                "sort_key" => sort.keys.push(sort_key(value.trim())?),
                "sort_dir" => sort.directions.push(direction(value.trim())?),
                "member_status" => member_status(value)?,
                "tag" => query.filter.terms.push(Term::Tag(value.trim().to_owned())),
                _ => query.filter.add(name, value)?,
            }
        }
        let joins = query.filter.terms.iter().filter(|term| matches!(term, Term::Tag(_) | Term::Property(..))).count();
        if joins > MAX_JOINS {
            return Err(Error::Invalid(format!(
                "A listing is filtered by {MAX_JOINS} tags and custom properties at the most."
            )));
        }
        query.sort = sort.order()?;
        Ok(query)
    }
}

impl Filter {
    fn add(&mut self, name: &str, value: &str) -> Result<()> {
        let text = || value.to_owned();
        let term = match name {
            "os_hidden" => {
                self.os_hidden = boolean(name, &value.to_lowercase())?;
                return Ok(());
            }
            "visibility" => {
                self.all_visibilities = value == "all";
                if self.all_visibilities {
                    return Ok(());
                }
                let unknown = |_| Error::Invalid(format!("Invalid visibility value: {value}"));
                Term::Visibility(value.parse::<Visibility>().map_err(unknown)?)
            }
            "changes-since" => {
                return Err(Error::Invalid("The \"changes-since\" filter is no longer available on v2.".to_owned()));
            }
            "protected" => Term::Protected(boolean(name, value)?),
            "size_min" => Term::Size(Compare::AtLeast, range(value)?),
            "size_max" => Term::Size(Compare::AtMost, range(value)?),
            "created_at" | "updated_at" => {
                let (compare, time) = comparison(name, value)?;
                if name == "created_at" { Term::CreatedAt(compare, time) } else { Term::UpdatedAt(compare, time) }
            }
            "id" => Term::Id(one_of(value)?),
            "name" => Term::Name(one_of(value)?),
            "status" => Term::Status(one_of(value)?),
            "container_format" => Term::ContainerFormat(one_of(value)?),
            "disk_format" => Term::DiskFormat(one_of(value)?),
            "owner" => Term::Owner(text()),
            "checksum" => Term::Checksum(text()),
            "os_hash_algo" => Term::OsHashAlgo(text()),
            "os_hash_value" => Term::OsHashValue(text()),
            "size" => Term::Size(Compare::Equal, range(value)?),
            "virtual_size" => Term::VirtualSize(range(value)?),
            "min_ram" => Term::MinRam(range(value)?),
            "min_disk" => Term::MinDisk(range(value)?),
            _ => Term::Property(name.to_owned(), text()),
        };
        self.terms.push(term);
        Ok(())
    }
}

/// What the request says of the order.
#[derive(Default)]
struct SortParameters<'q> {
    combined: Option<&'q str>,
    keys: Vec<SortKey>,
    directions: Vec<Direction>,
}

impl SortParameters<'_> {
    /// The order, with creation time and id behind it so that any two images are told apart.
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
        // One direction goes for every key, and for those behind them.
        let default = match self.directions.as_slice() {
            [direction] => *direction,
            _ => Direction::Desc,
        };
        let directions = self.directions.into_iter().chain(std::iter::repeat(default));
        let mut order: Vec<(SortKey, Direction)> = Vec::new();
        for (key, direction) in self.keys.into_iter().zip(directions) {
            // A key that comes again changes nothing.
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
    match value.trim().parse::<i128>() {
        Ok(limit) if limit < 0 => Err(Error::Invalid("limit param must be positive".to_owned())),
        Ok(limit) => Ok(u32::try_from(limit).unwrap_or(u32::MAX)),
        Err(_) => Err(Error::Invalid("limit param must be an integer".to_owned())),
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

fn member_status(text: &str) -> Result<()> {
    match text {
        // Nobody sees an image as its member yet, so every status lists the same.
        "pending" | "accepted" | "rejected" | "all" => Ok(()),
        _ => Err(Error::Invalid(format!("Invalid status: {text}"))),
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

fn range(text: &str) -> Result<i64> {
    let error = |_| Error::Invalid("Unable to filter on a range with a non-numeric value.".to_owned());
    text.trim().parse().map_err(error)
}

/// `in:a,"b,c"`, `eq:a`, or the text itself.
fn one_of(value: &str) -> Result<Vec<String>> {
    match value.split_once(':') {
        None => Ok(vec![value.to_owned()]),
        Some(("eq", text)) => Ok(vec![text.to_owned()]),
        Some(("in", list)) => quoted_list(list),
        // A time is no operator with its text behind it.
        Some(_) if timestamp(value).is_some() => Ok(vec![value.to_owned()]),
        Some((operator, _)) => Err(Error::Invalid(format!("Unable to filter by unknown operator '{operator}'."))),
    }
}

/// Splits at commas that are not in quotes; a backslash takes the character behind it for what it is.
fn quoted_list(list: &str) -> Result<Vec<String>> {
    let fault = |what: &str| Error::Invalid(format!("Invalid filter value {list}. {what}"));
    let mut items = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        if items.len() == MAX_LIST {
            return Err(Error::Invalid(format!("A list of values has {MAX_LIST} of them at the most.")));
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

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at)
    })
}

fn comparison(name: &str, value: &str) -> Result<(Compare, NaiveDateTime)> {
    let (operator, text) = match timestamp(value) {
        Some(time) => return Ok((Compare::Equal, time)),
        None => value.split_once(':').unwrap_or(("eq", value)),
    };
    let time = timestamp(text).ok_or_else(|| {
        Error::Invalid(format!("Bad \"{name}\" query filter format. Use ISO 8601 DateTime notation."))
    })?;
    let compare = match operator {
        "gt" => Compare::Above,
        "gte" => Compare::AtLeast,
        "lt" => Compare::Below,
        "lte" => Compare::AtMost,
        "eq" => Compare::Equal,
        "neq" => Compare::Unequal,
        _ => {
            return Err(Error::Invalid("Unable to filter on a unknown operator.".to_owned()));
        }
    };
    Ok((compare, time))
}

/// An ISO 8601 time, taken as UTC where it names no zone, of a year that every engine can hold.
fn timestamp(text: &str) -> Option<NaiveDateTime> {
    parse_timestamp(text).filter(|time| (1000..=9999).contains(&time.year()))
}

fn parse_timestamp(text: &str) -> Option<NaiveDateTime> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.naive_utc());
    }
    let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok()).or_else(|| {
        let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        date.and_hms_opt(0, 0, 0)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ListQuery, quoted_list};
    use crate::db::images::{Direction, SortKey};

    fn parse(query: &[(&str, &str)]) -> Result<ListQuery, String> {
        let pairs: Vec<_> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ListQuery::parse(&pairs).map_err(|error| error.to_string())
    }

    #[test]
    fn newest_first_without_an_order() {
        let expected = vec![(SortKey::CreatedAt, Direction::Desc), (SortKey::Id, Direction::Desc)];
        assert_eq!(parse(&[]).unwrap().sort, expected);
    }

    #[test]
    fn one_direction_goes_for_every_key() {
        let sort = parse(&[("sort_key", "name"), ("sort_key", "size"), ("sort_dir", "asc")]).unwrap().sort;
        assert!(sort.iter().all(|(_, direction)| *direction == Direction::Asc), "{sort:?}");
        assert_eq!(sort.len(), 4);
    }

    #[test]
    fn both_spellings_of_an_order_cannot_be_mixed() {
        assert!(parse(&[("sort", "name:asc"), ("sort_key", "name")]).unwrap_err().contains("cannot be combined"));
    }

    #[test]
    fn quotes_hold_commas_together() {
        assert_eq!(quoted_list("a,\"b,c\",d").unwrap(), ["a", "b,c", "d"]);
        assert!(quoted_list("a,\"b").is_err());
        assert!(quoted_list("\"a\"b").is_err());
        assert!(quoted_list("a\"b\"").is_err());
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(pairs in prop::collection::vec((any::<String>(), any::<String>()), 0..8)) {
            let _ = ListQuery::parse(&pairs);
        }

        #[test]
        fn no_list_makes_it_panic(list in any::<String>()) {
            let _ = quoted_list(&list);
        }
    }
}
