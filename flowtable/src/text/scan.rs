//! Cutting a text into tokens: lists, `name(arguments)`, quoted names.

use super::ParseError;

/// The elements of a list separated by commas or blanks; parentheses and quotes keep an element together.
pub(super) fn list(text: &str) -> Result<Vec<&str>, ParseError> {
    let mut elements = Vec::new();
    let (mut depth, mut quoted, mut escaped) = (0u32, false, false);
    let mut start = 0;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => {
                depth = depth.checked_sub(1).ok_or_else(|| {
                    ParseError::new(text, "a ')' without '('", "remove it or open the parenthesis")
                })?;
            }
            ',' | ' ' | '\t' | '\r' | '\n' if depth == 0 => {
                elements.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(ParseError::new(text, "a quoted name does not end", "close it with '\"'"));
    }
    if depth != 0 {
        return Err(ParseError::new(text, "a '(' without ')'", "close the parenthesis"));
    }
    elements.push(&text[start..]);
    elements.retain(|element| !element.is_empty());
    Ok(elements)
}

/// `name(arguments)` as its two parts.
pub(super) fn call(token: &str) -> Option<(&str, &str)> {
    let (name, rest) = token.split_once('(')?;
    Some((name, rest.strip_suffix(')')?))
}

/// A name in quotes, without them.
pub(super) fn unquote(token: &str) -> Option<String> {
    let inner = token.strip_prefix('"')?.strip_suffix('"')?;
    let mut name = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        name.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(name)
}

/// A name in quotes.
pub(super) fn quote(name: &str) -> String {
    let mut quoted = String::from('"');
    for c in name.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// An unsigned number, decimal or with `0x` hexadecimal.
pub(super) fn number(text: &str) -> Option<u128> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u128::from_str_radix(digits, 16).ok(),
        None if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    }
}

/// A number that must fit a type; `token` is what an error quotes.
pub(super) fn number_as<T: TryFrom<u128>>(token: &str, text: &str, max: u128) -> Result<T, ParseError> {
    number(text).filter(|n| *n <= max).and_then(|n| T::try_from(n).ok()).ok_or_else(|| {
        ParseError::new(token, format!("\"{text}\" is not a number from 0 to {max}"), "give such a number")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_respect_parentheses_and_quotes() {
        assert_eq!(list("a=1, b(c,d) \"e,f\"").unwrap(), ["a=1", "b(c,d)", "\"e,f\""]);
        assert!(list("a(b").is_err());
        assert!(list("a)b").is_err());
        assert!(list("\"a").is_err());
        assert!(list("").unwrap().is_empty());
    }

    #[test]
    fn quoting_is_undone() {
        for name in ["a", "a b", "a\"b\\c"] {
            assert_eq!(unquote(&quote(name)).unwrap(), name);
        }
    }
}
