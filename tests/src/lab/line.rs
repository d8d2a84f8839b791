//! Lines of `name=value` words, which a test and its node processes talk in.

use std::collections::BTreeMap;
use std::fmt;

/// The words of a line.
#[derive(Clone, Debug, Default)]
pub struct Line(BTreeMap<String, String>);

impl Line {
    /// Reads a line; words without `=` are left out.
    pub fn parse(text: &str) -> Self {
        let words = text.split_whitespace().filter_map(|word| word.split_once('='));
        Self(words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Adds a word.
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    /// A word's value.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A number that may be missing.
    ///
    /// # Panics
    /// If it is something else.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    }

    /// A number.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.number(name).unwrap_or_else(|| panic!("no {name} in `{self}`"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if n > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}
