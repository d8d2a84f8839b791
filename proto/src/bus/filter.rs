//! Filters over events that are JSON: comparisons by path, joined by and, or, not.
//!
//! The JSON form is what the printed form is, and what is parsed:
//!
//! ```json
//! {"$and": [{"path": "kind", "value": "reading"}, {"$ge": {"path": "c.0", "value": 21.5}}]}
//! ```
//!
//! Operators: `$eq` (also without a name), `$ne`, `$lt`, `$le`, `$gt`, `$ge` with `path` and `value`;
//! `$exists` with `path`; `$and`, `$or` with a list of at least one; `$not` with a filter.
//!
//! A path names keys and array indices (from 0), joined by dots; one that begins with `/` is a JSON
//! pointer (RFC 6901), for keys with dots in them. Numbers compare exactly as decimals. A comparison
//! with a value of another type, or with nothing, is false; `$ne` is the opposite of `$eq`. An event
//! that is not JSON, or nests deeper than 64, matches no filter, not even `$not`.

mod decimal;
mod json;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use json::Json;
use thiserror::Error;

/// Longest JSON form, in bytes.
pub const MAX_TEXT: usize = 16 << 10;
/// Most comparisons and connectives.
pub const MAX_NODES: usize = 256;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 16;
/// Most steps of a path.
pub const MAX_STEPS: usize = 32;

/// Why a text or a construction is no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The text is not JSON.
    #[error("the filter is not JSON")]
    NotJson,
    /// The JSON is not a filter.
    #[error("not a filter: {0}")]
    Invalid(&'static str),
    /// Too long, deep or large.
    #[error("the filter has more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Equal.
    Eq,
    /// Not equal, of another type, or missing.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

const OPS: [(&str, Op); 6] =
    [("$eq", Op::Eq), ("$ne", Op::Ne), ("$lt", Op::Lt), ("$le", Op::Le), ("$gt", Op::Gt), ("$ge", Op::Ge)];

/// What is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operand {
    /// Null.
    Null,
    /// True or false; compares only for equality.
    Bool(bool),
    /// A number as JSON writes it; [`Operand::number`] makes one.
    Number(String),
    /// A text; ordered by code points.
    Text(String),
}

impl Operand {
    /// A decimal number, as JSON writes it: `-1.5e3`. Its exponent may be up to 2^40, either way.
    pub fn number(text: &str) -> Result<Self, FilterError> {
        if decimal::scan(text.as_bytes()) != Some(text.len()) {
            return Err(FilterError::Invalid("not a number"));
        }
        if !decimal::fits(text.as_bytes()) {
            return Err(FilterError::Invalid("an exponent beyond 2^40"));
        }
        Ok(Self::Number(text.into()))
    }
}

impl From<i64> for Operand {
    fn from(number: i64) -> Self {
        Self::Number(number.to_string())
    }
}

impl From<u64> for Operand {
    fn from(number: u64) -> Self {
        Self::Number(number.to_string())
    }
}

impl From<i32> for Operand {
    fn from(number: i32) -> Self {
        i64::from(number).into()
    }
}

impl From<bool> for Operand {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Operand {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Operand {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Exists(Path),
    Compare(Path, Op, Operand),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    text: String,
    steps: Vec<String>,
}

/// A filter over JSON events. Built by its functions or parsed from its JSON form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    root: Node,
}

impl Path {
    fn new(text: &str) -> Result<Self, FilterError> {
        let steps: Vec<String> = match text.strip_prefix('/') {
            Some(pointer) => {
                pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
            }
            None if text.is_empty() => Vec::new(),
            None => text.split('.').map(String::from).collect(),
        };
        if steps.len() > MAX_STEPS {
            return Err(FilterError::TooLarge { what: "steps in a path", limit: MAX_STEPS });
        }
        Ok(Self { text: text.into(), steps })
    }
}

impl Filter {
    fn new(root: Node) -> Result<Self, FilterError> {
        let (nodes, depth) = root.size();
        if nodes > MAX_NODES {
            return Err(FilterError::TooLarge { what: "parts", limit: MAX_NODES });
        }
        if depth > MAX_DEPTH {
            return Err(FilterError::TooLarge { what: "levels", limit: MAX_DEPTH });
        }
        Ok(Self { root })
    }

    /// Compares what lies at `path`; the empty path is the whole event.
    pub fn compare(path: &str, op: Op, operand: impl Into<Operand>) -> Result<Self, FilterError> {
        let operand = operand.into();
        if let Operand::Number(text) = &operand {
            Operand::number(text)?;
        }
        Self::new(Node::Compare(Path::new(path)?, op, operand))
    }

    /// What lies at `path` equals the operand.
    pub fn eq(path: &str, operand: impl Into<Operand>) -> Result<Self, FilterError> {
        Self::compare(path, Op::Eq, operand)
    }

    /// Something lies at `path`, and be it null.
    pub fn exists(path: &str) -> Result<Self, FilterError> {
        Self::new(Node::Exists(Path::new(path)?))
    }

    /// All of them match; at least one is needed.
    pub fn all(filters: impl IntoIterator<Item = Self>) -> Result<Self, FilterError> {
        Self::new(Node::And(Self::some(filters)?))
    }

    /// Any of them matches; at least one is needed.
    pub fn any(filters: impl IntoIterator<Item = Self>) -> Result<Self, FilterError> {
        Self::new(Node::Or(Self::some(filters)?))
    }

    /// It does not match.
    pub fn negate(self) -> Result<Self, FilterError> {
        Self::new(Node::Not(Box::new(self.root)))
    }

    fn some(filters: impl IntoIterator<Item = Self>) -> Result<Vec<Node>, FilterError> {
        let nodes: Vec<_> = filters.into_iter().map(|f| f.root).take(MAX_NODES + 1).collect();
        if nodes.is_empty() { Err(FilterError::Invalid("an empty list")) } else { Ok(nodes) }
    }

    /// Whether an event matches.
    pub fn matches(&self, event: &[u8]) -> bool {
        Json::document(event).is_some_and(|document| self.root.matches(document))
    }
}

impl Node {
    /// Parts and levels.
    fn size(&self) -> (usize, usize) {
        let of = |nodes: &[Self]| {
            nodes.iter().map(Self::size).fold((1, 1), |(n, d), (m, e)| (n + m, d.max(e + 1)))
        };
        match self {
            Self::And(nodes) | Self::Or(nodes) => of(nodes),
            Self::Not(node) => of(core::slice::from_ref(node)),
            Self::Exists(_) | Self::Compare(..) => (1, 1),
        }
    }

    fn matches(&self, document: json::Value<'_>) -> bool {
        let find = |path: &Path| path.steps.iter().try_fold(document, |value, step| value.member(step));
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.matches(document)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(document)),
            Self::Not(node) => !node.matches(document),
            Self::Exists(path) => find(path).is_some(),
            Self::Compare(path, op, operand) => {
                let order = find(path).and_then(|value| order(value, operand));
                match op {
                    Op::Eq => order == Some(Ordering::Equal),
                    Op::Ne => order != Some(Ordering::Equal),
                    Op::Lt => order == Some(Ordering::Less),
                    Op::Le => order.is_some_and(Ordering::is_le) && ordered(operand, order),
                    Op::Gt => order == Some(Ordering::Greater),
                    Op::Ge => order.is_some_and(Ordering::is_ge) && ordered(operand, order),
                }
            }
        }
    }
}

/// Booleans and null have no order: `$le` and `$ge` hold only for what has one.
const fn ordered(operand: &Operand, _order: Option<Ordering>) -> bool {
    matches!(operand, Operand::Number(_) | Operand::Text(_))
}

fn order(value: json::Value<'_>, operand: &Operand) -> Option<Ordering> {
    match (value, operand) {
        (json::Value::Null, Operand::Null) => Some(Ordering::Equal),
        (json::Value::Bool(a), Operand::Bool(b)) => (a == *b).then_some(Ordering::Equal),
        (json::Value::Number(a), Operand::Number(b)) => decimal::compare(a, b.as_bytes()),
        (json::Value::String(a), Operand::Text(b)) => Some(json::compare(a, b)),
        _ => None,
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_TEXT {
            return Err(FilterError::TooLarge { what: "bytes", limit: MAX_TEXT });
        }
        let document = Json::document(text.as_bytes()).ok_or(FilterError::NotJson)?;
        let mut budget = MAX_NODES;
        Self::new(parse(document, MAX_DEPTH, &mut budget)?)
    }
}

fn text(raw: &[u8]) -> String {
    json::chars(raw).collect()
}

fn parse(value: json::Value<'_>, depth: usize, budget: &mut usize) -> Result<Node, FilterError> {
    let invalid = FilterError::Invalid;
    let deeper = depth.checked_sub(1).ok_or(FilterError::TooLarge { what: "levels", limit: MAX_DEPTH })?;
    *budget = budget.checked_sub(1).ok_or(FilterError::TooLarge { what: "parts", limit: MAX_NODES })?;
    let members = members(value)?;
    let Some((name, inner)) = members.first() else { return Err(invalid("an empty object")) };
    if members.len() == 1 {
        if let Some((_, op)) = OPS.iter().find(|(known, _)| known == name) {
            return comparison(self::members(*inner)?, *op);
        }
        match name.as_str() {
            "$and" => return Ok(Node::And(list(*inner, deeper, budget)?)),
            "$or" => return Ok(Node::Or(list(*inner, deeper, budget)?)),
            "$not" => return Ok(Node::Not(Box::new(parse(*inner, deeper, budget)?))),
            "$exists" => match self::members(*inner)?.as_slice() {
                [(key, json::Value::String(path))] if key == "path" => {
                    return Ok(Node::Exists(Path::new(&text(path))?));
                }
                _ => return Err(invalid("`$exists` takes `path`")),
            },
            _ => {}
        }
    }
    comparison(members, Op::Eq)
}

fn comparison(members: Vec<(String, json::Value<'_>)>, op: Op) -> Result<Node, FilterError> {
    let invalid = FilterError::Invalid;
    let (mut path, mut operand) = (None, None);
    for (name, value) in members {
        let twice = match name.as_str() {
            "path" => {
                let json::Value::String(raw) = value else { return Err(invalid("`path` is a text")) };
                path.replace(Path::new(&text(raw))?).is_some()
            }
            "value" => operand
                .replace(match value {
                    json::Value::Null => Operand::Null,
                    json::Value::Bool(b) => Operand::Bool(b),
                    json::Value::Number(n) => {
                        let digits: String = n.iter().map(|c| char::from(*c)).collect();
                        Operand::number(&digits)?
                    }
                    json::Value::String(raw) => Operand::Text(text(raw)),
                    _ => return Err(invalid("`value` is neither a list nor an object")),
                })
                .is_some(),
            _ => return Err(invalid("a name that is not known")),
        };
        if twice {
            return Err(invalid("a name that stands twice"));
        }
    }
    Ok(Node::Compare(
        path.ok_or(invalid("`path` is missing"))?,
        op,
        operand.ok_or(invalid("`value` is missing"))?,
    ))
}

fn list(value: json::Value<'_>, depth: usize, budget: &mut usize) -> Result<Vec<Node>, FilterError> {
    let json::Value::Array(raw) = value else { return Err(FilterError::Invalid("a list is needed")) };
    let mut json = Json::new(raw);
    json.eat(b'[');
    let mut nodes = Vec::new();
    while !json.eat(b']') {
        nodes.push(parse(json.value(0).ok_or(FilterError::NotJson)?, depth, budget)?);
        json.eat(b',');
    }
    if nodes.is_empty() { Err(FilterError::Invalid("an empty list")) } else { Ok(nodes) }
}

fn members(value: json::Value<'_>) -> Result<Vec<(String, json::Value<'_>)>, FilterError> {
    let json::Value::Object(raw) = value else { return Err(FilterError::Invalid("an object is needed")) };
    let mut json = Json::new(raw);
    json.eat(b'{');
    let mut members = Vec::new();
    while !json.eat(b'}') {
        let key = json.key().ok_or(FilterError::NotJson)?;
        members.push((text(key), json.value(0).ok_or(FilterError::NotJson)?));
        if members.len() > 2 {
            return Err(FilterError::Invalid("too many names in one object"));
        }
        json.eat(b',');
    }
    Ok(members)
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, name, nodes: &[Self]| {
            write!(f, "{{\"{name}\":[")?;
            for (n, node) in nodes.iter().enumerate() {
                f.write_str(if n == 0 { "" } else { "," })?;
                node.fmt(f)?;
            }
            f.write_str("]}")
        };
        match self {
            Self::And(nodes) => list(f, "$and", nodes),
            Self::Or(nodes) => list(f, "$or", nodes),
            Self::Not(node) => write!(f, "{{\"$not\":{node}}}"),
            Self::Exists(path) => {
                f.write_str("{\"$exists\":{\"path\":")?;
                quote(f, &path.text)?;
                f.write_str("}}")
            }
            Self::Compare(path, op, operand) => {
                let name = OPS.iter().find(|(_, known)| known == op).map_or("$eq", |(name, _)| name);
                write!(f, "{{\"{name}\":{{\"path\":")?;
                quote(f, &path.text)?;
                f.write_str(",\"value\":")?;
                match operand {
                    Operand::Null => f.write_str("null")?,
                    Operand::Bool(b) => write!(f, "{b}")?,
                    Operand::Number(n) => f.write_str(n)?,
                    Operand::Text(text) => quote(f, text)?,
                }
                f.write_str("}}")
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\0'..='\u{1f}' => write!(f, "\\u{:04x}", u32::from(c))?,
            _ => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}
