//! Column values from the command line.
//!
//! The grammar is `ovs-vsctl`'s: `br0`, `"any text"` (a JSON string), `5`, `true`, `[a, b]` or `a,b` for a
//! set, `{k=v, k2=v2}` or `k=v,k2=v2` for a map, `@name` for a row of the same command line. It is a little
//! wider in one place, because people write it that way: a value may hold `:` and `/` unquoted, and where a
//! column takes a single string the whole argument is that string.

use super::{Atom, AtomKind, BaseType, ColumnType, Datum, Real, RowRef, atom_text};
use crate::error::{Error, usage};

/// Characters that end an unquoted column name or key.
const NAME_END: &str = ":=, []{}!<>";

/// Characters that end an unquoted element of a set or value of a map.
const ITEM_END: &str = ", []{}";

/// Characters that end an unquoted key inside `{…}`.
const KEY_END: &str = "=, []{}";

/// Takes one token off the front of `text`: a quoted string or everything up to one of `ends`.
/// Returns the token with its quotes and the rest.
///
/// # Errors
/// When a quoted string does not end.
fn take_token<'a>(text: &'a str, ends: &str) -> Result<(&'a str, &'a str), Error> {
    if !text.starts_with('"') {
        return Ok(text.split_at(text.find(|c| ends.contains(c)).unwrap_or(text.len())));
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok(text.split_at(at + 1)),
            _ => {}
        }
    }
    Err(usage!("{text}: the quoted string has no closing quote"))
}

/// Takes a column name or key off the front of `text`, without quotes.
///
/// # Errors
/// When it is empty or a quoted string is malformed.
pub(crate) fn parse_token(text: &str) -> Result<(String, &str), Error> {
    let (token, rest) = take_token(text, NAME_END)?;
    if token.is_empty() {
        return Err(usage!("{text}: a name is missing here"));
    }
    Ok((unquote(token)?, rest))
}

fn unquote(token: &str) -> Result<String, Error> {
    if token.starts_with('"') {
        serde_json::from_str(token).map_err(|why| usage!("{token}: not a valid quoted string ({why})"))
    } else {
        Ok(token.to_owned())
    }
}

/// Parses a whole argument as one atom of the given type.
///
/// # Errors
/// When the text is not such an atom, or the column's constraints exclude it.
pub(crate) fn parse_atom(text: &str, base: &BaseType) -> Result<Atom, Error> {
    let wrong = || usage!("\"{text}\" is not {}", base.kind.describe());
    let atom = match base.kind {
        AtomKind::Integer => Atom::Integer(text.parse().map_err(|_| wrong())?),
        AtomKind::Real => match text.parse::<f64>() {
            Ok(x) if x.is_finite() => Atom::Real(Real(x)),
            _ => return Err(wrong()),
        },
        AtomKind::Boolean => match text {
            "true" | "yes" | "on" | "1" => Atom::Boolean(true),
            "false" | "no" | "off" | "0" => Atom::Boolean(false),
            _ => return Err(wrong()),
        },
        AtomKind::String if text.is_empty() => {
            return Err(usage!("an empty string is written as '\"\"'"));
        }
        AtomKind::String => Atom::String(unquote(text)?),
        AtomKind::Uuid if text.len() > 1 && text.starts_with('@') => {
            Atom::Row(RowRef::Symbol(text.to_owned()))
        }
        AtomKind::Uuid if is_uuid(text) => Atom::Row(RowRef::Uuid(text.to_ascii_lowercase())),
        AtomKind::Uuid => return Err(wrong()),
    };
    check(&atom, base)?;
    Ok(atom)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && {
        text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
    }
}

/// Checks the constraints of the column, so that the error names the choices.
fn check(atom: &Atom, base: &BaseType) -> Result<(), Error> {
    if !base.choices.is_empty() && !base.choices.contains(atom) {
        let choices: Vec<_> = base.choices.iter().map(atom_text).collect();
        return Err(usage!("{} is not one of the allowed values ({})", atom_text(atom), choices.join(", ")));
    }
    let (min, max) = base.integers;
    match atom {
        Atom::Integer(n) if *n < min || *n > max => {
            Err(usage!("{n} is not in the valid range {min} to {max}"))
        }
        _ => Ok(()),
    }
}

/// Splits the elements of a set or map written with or without brackets into `(key, value)` tokens.
///
/// # Errors
/// On unbalanced brackets, a missing element or text behind the end.
pub(crate) fn split_items(text: &str, map: bool) -> Result<Vec<(&str, Option<&str>)>, Error> {
    let (open, close) = if map { ('{', '}') } else { ('[', ']') };
    let bracketed = text.starts_with(open);
    let mut rest = if bracketed { text.get(1..).unwrap_or_default() } else { text }.trim_start();
    let mut items = Vec::new();
    while !rest.is_empty() && !rest.starts_with(close) {
        let (item, after) = take_item(rest, map)?;
        items.push(item);
        let trimmed = after.trim_start_matches([',', ' ']);
        if trimmed.len() == after.len() && !after.is_empty() && !after.starts_with(close) {
            return Err(usage!("{text}: unexpected \"{after}\" (quote it if it is part of the value)"));
        }
        rest = trimmed;
    }
    match (bracketed, rest.strip_prefix(close)) {
        (true, None) => Err(usage!("{text}: the closing \"{close}\" is missing")),
        (true, Some("")) => Ok(items),
        (false, None) if !items.is_empty() => Ok(items),
        (false, None) => Err(usage!("a value is missing (an empty one is written as '{open}{close}')")),
        _ => Err(usage!("{text}: unexpected \"{rest}\" behind the value")),
    }
}

/// One element and the text behind it.
type Item<'a> = ((&'a str, Option<&'a str>), &'a str);

fn take_item(text: &str, map: bool) -> Result<Item<'_>, Error> {
    let (token, rest) = take_token(text, if map { KEY_END } else { ITEM_END })?;
    if token.is_empty() {
        return Err(usage!("{text}: a value is missing here"));
    }
    if !map {
        return Ok(((token, None), rest));
    }
    let Some(rest) = rest.strip_prefix('=') else {
        return Ok(((token, None), rest));
    };
    let (value, rest) = take_token(rest, ITEM_END)?;
    if value.is_empty() {
        return Err(usage!(
            "{text}: the value of key {token} is missing (an empty one is written as '\"\"')"
        ));
    }
    Ok(((token, Some(value)), rest))
}

/// Parses an argument as the whole content of a column.
///
/// # Errors
/// When the text does not fit the column's type, with the reason.
pub(crate) fn parse_datum(text: &str, kind: &ColumnType) -> Result<Datum, Error> {
    let single_string = kind.max == 1 && kind.key.kind == AtomKind::String && !kind.is_map();
    let datum = if single_string && !text.starts_with('[') {
        Datum::scalar(parse_atom(text, &kind.key)?)
    } else if let Some(value_type) = &kind.value {
        let pair = |(key, value): (&str, Option<&str>)| {
            let value =
                value.ok_or_else(|| usage!("{text}: a map is written as key=value, {key} has no value"))?;
            Ok((parse_atom(key, &kind.key)?, parse_atom(value, value_type)?))
        };
        Datum::Map(split_items(text, true)?.into_iter().map(pair).collect::<Result<_, Error>>()?)
    } else {
        let items = split_items(text, false)?.into_iter();
        Datum::Set(items.map(|(item, _)| parse_atom(item, &kind.key)).collect::<Result<_, _>>()?)
    };
    match datum.len() {
        n if n < kind.min => Err(usage!("{text}: this column cannot be empty")),
        n if n > kind.max => {
            Err(usage!("{text}: {n} values given but the column takes at most {}", kind.max))
        }
        _ => Ok(datum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::datum_text;

    fn ints() -> ColumnType {
        let mut base = BaseType::plain(AtomKind::Integer);
        base.integers = (0, 4095);
        ColumnType::set_of(base, 0, 4096)
    }

    fn map() -> ColumnType {
        let string = BaseType::plain(AtomKind::String);
        ColumnType { key: string.clone(), value: Some(string), min: 0, max: usize::MAX }
    }

    #[test]
    fn sets_with_and_without_brackets() {
        for text in ["[1,2,3]", "1,2,3", "3 2,1", "[ 1, 2 3 ]", "1,2,2,3"] {
            assert_eq!(datum_text(&parse_datum(text, &ints()).unwrap(), 9), "[1, 2, 3]", "{text}");
        }
        assert!(parse_datum("[]", &ints()).unwrap().is_empty());
        for bad in ["", "[1", "1]", "[1]x", "1;2", "4096", "-1", "[1=2]", "[,"] {
            assert!(parse_datum(bad, &ints()).is_err(), "{bad}");
        }
    }

    #[test]
    fn maps_with_and_without_brackets() {
        let text = |text| datum_text(&parse_datum(text, &map()).unwrap(), 9);
        assert_eq!(text("{a=b, c=\"d e\"}"), "{a=b, c=\"d e\"}");
        assert_eq!(text("a=b,path=/tmp/x:y"), "{a=b, path=\"/tmp/x:y\"}");
        assert_eq!(text("{}"), "{}");
        assert_eq!(text("a=\"\""), "{a=\"\"}");
        for bad in ["", "a", "{a=b", "a=", "=b", "{a=b}}", "a=\"b"] {
            assert!(parse_datum(bad, &map()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_single_string_takes_the_whole_argument() {
        let name = ColumnType::scalar(AtomKind::String);
        assert_eq!(parse_datum("tcp:1.2.3.4:6633", &name).unwrap().as_str(), Some("tcp:1.2.3.4:6633"));
        assert_eq!(parse_datum("\"a, b\"", &name).unwrap().as_str(), Some("a, b"));
        assert_eq!(parse_datum("\"\"", &name).unwrap().as_str(), Some(""));
        assert!(parse_datum("[]", &name).is_err(), "a scalar cannot be empty");
        assert!(parse_datum("[a,b]", &name).is_err(), "a scalar takes one");
    }

    #[test]
    fn choices_and_kinds_are_named_in_the_error() {
        let mut base = BaseType::plain(AtomKind::String);
        base.choices = vec![Atom::string("access"), Atom::string("trunk")];
        let error = parse_datum("acess", &ColumnType::set_of(base, 0, 1)).unwrap_err().to_string();
        assert!(error.contains("access, trunk"), "{error}");
        let error = parse_atom("x", &BaseType::plain(AtomKind::Uuid)).unwrap_err().to_string();
        assert!(error.contains("@name"), "{error}");
        assert!(parse_atom("1e400", &BaseType::plain(AtomKind::Real)).is_err());
    }
}
