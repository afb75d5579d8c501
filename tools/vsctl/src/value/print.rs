//! Column values as text, quoted exactly where `ovs-vsctl` quotes.

use super::{Atom, Datum, Real, RowRef};

/// Whether a string has to be quoted to be read back as the same string: anything but a plain word, and the
/// words that would be read as something else.
pub(crate) fn needs_quotes(text: &str) -> bool {
    let mut chars = text.chars();
    let plain_start = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let plain_rest = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    !plain_start || !plain_rest || text == "true" || text == "false" || is_uuid(text)
}

/// Whether `text` is a complete UUID.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn row_text(row: &RowRef) -> String {
    match row {
        RowRef::Uuid(uuid) => uuid.clone(),
        RowRef::New(index) => format!("row{index}"),
        RowRef::Symbol(name) => name.clone(),
    }
}

/// An atom with strings as they are.
pub(crate) fn atom_bare(atom: &Atom) -> String {
    match atom {
        Atom::Integer(n) => n.to_string(),
        Atom::Real(Real(x)) => x.to_string(),
        Atom::Boolean(b) => b.to_string(),
        Atom::String(text) => text.clone(),
        Atom::Row(row) => row_text(row),
    }
}

/// An atom with strings quoted where that is needed.
pub(crate) fn atom_text(atom: &Atom) -> String {
    match atom {
        // A JSON string is what the parser of quoted strings reads back.
        Atom::String(text) if needs_quotes(text) => serde_json::Value::from(text.as_str()).to_string(),
        _ => atom_bare(atom),
    }
}

/// A value as `get`, `list` and `show` print it. `max` is the column's largest number of elements: a
/// scalar or optional scalar that is present stands without brackets.
pub(crate) fn datum_text(datum: &Datum, max: usize) -> String {
    match datum {
        Datum::Set(set) => {
            let items: Vec<_> = set.iter().map(atom_text).collect();
            match items.as_slice() {
                [only] if max == 1 => only.clone(),
                _ => format!("[{}]", items.join(", ")),
            }
        }
        Datum::Map(map) => {
            let pairs: Vec<_> =
                map.iter().map(|(k, v)| format!("{}={}", atom_text(k), atom_text(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// A value as `--data bare` prints it: words separated by spaces, no quotes and no brackets.
pub(crate) fn datum_bare(datum: &Datum) -> String {
    let words: Vec<_> = match datum {
        Datum::Set(set) => set.iter().map(atom_bare).collect(),
        Datum::Map(map) => map.iter().map(|(k, v)| format!("{}={}", atom_bare(k), atom_bare(v))).collect(),
    };
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_stand_where_ovs_vsctl_puts_them() {
        for word in ["br0", "vhost-user", "_x", "a.b-c_d", "internal"] {
            assert!(!needs_quotes(word), "{word}");
        }
        for word in ["", "3.1.0", "00:11:22:33:44:55", "/tmp/p", "a b", "true", "false", "tcp:1.2.3.4", "é"]
        {
            assert!(needs_quotes(word), "{word}");
        }
        assert!(needs_quotes("abcdef01-2345-6789-abcd-ef0123456789"));
        assert_eq!(atom_text(&Atom::string("say \"hi\"\n")), r#""say \"hi\"\n""#);
    }

    #[test]
    fn brackets_depend_on_how_many_the_column_may_hold() {
        let one = Datum::scalar(Atom::Integer(5));
        assert_eq!(datum_text(&one, 1), "5");
        assert_eq!(datum_text(&one, usize::MAX), "[5]");
        assert_eq!(datum_text(&Datum::Set([].into()), 1), "[]");
        assert_eq!(datum_text(&Datum::Map([].into()), 9), "{}");
        let map = Datum::Map([(Atom::string("k"), Atom::string("a b"))].into());
        assert_eq!(datum_text(&map, usize::MAX), "{k=\"a b\"}");
        assert_eq!(datum_bare(&map), "k=a b");
    }
}
