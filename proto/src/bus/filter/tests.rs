use super::*;
use alloc::format;
use alloc::vec;
use proptest::prelude::*;

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn comparisons() {
    let event = br#" {"a":{"b":[1,{"c":"x\n\u00e9"}]},"n":-2.50,"t":true,"z":null,"k.d":7,"a.":0} "#;
    for (text, want) in [
        (r#"{"path":"n","value":-2.5}"#, true),
        (r#"{"$eq":{"value":-25e-1,"path":"n"}}"#, true),
        (r#"{"$lt":{"path":"n","value":-2.4999999999999999999}}"#, true),
        (r#"{"$ge":{"path":"n","value":-2.5}}"#, true),
        (r#"{"$gt":{"path":"n","value":-2.5}}"#, false),
        (r#"{"$le":{"path":"n","value":"x"}}"#, false),
        (r#"{"$ne":{"path":"n","value":"x"}}"#, true),
        (r#"{"$ne":{"path":"nothing","value":1}}"#, true),
        (r#"{"path":"a.b.0","value":1}"#, true),
        (r#"{"path":"a.b.01","value":1}"#, false),
        (r#"{"path":"a.b.1.c","value":"x\u000aé"}"#, true),
        (r#"{"$gt":{"path":"a.b.1.c","value":"x"}}"#, true),
        (r#"{"path":"/k.d","value":7}"#, true),
        (r#"{"path":"z","value":null}"#, true),
        (r#"{"$le":{"path":"t","value":true}}"#, false),
        (r#"{"$exists":{"path":"z"}}"#, true),
        (r#"{"$exists":{"path":"a.b.2"}}"#, false),
        (r#"{"$not":{"$exists":{"path":"q"}}}"#, true),
        (
            r#"{"$and":[{"path":"t","value":true},{"$or":[{"path":"n","value":0},{"path":"z","value":null}]}]}"#,
            true,
        ),
    ] {
        assert_eq!(filter(text).matches(event), want, "{text}");
    }
    assert!(filter(r#"{"path":"","value":"whole"}"#).matches(br#""whole""#));
    let twice = filter(r#"{"path":"a","value":2}"#);
    assert!(twice.matches(br#"{"a":1,"a":2}"#), "the last of a name counts");
}

#[test]
fn what_is_not_json_matches_nothing() {
    let any = filter(r#"{"$not":{"$exists":{"path":"q"}}}"#);
    assert!(any.matches(b"{}"));
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for event in [
        &b""[..],
        b"x",
        b"{",
        b"{}{}",
        b"\xff",
        b"[1,]",
        b"{\"a\"}",
        b"\"\\ud800\"",
        b"01",
        b"\"\n\"",
        deep.as_bytes(),
    ] {
        assert!(!any.matches(event), "{:?}", alloc::string::String::from_utf8_lossy(event));
    }
}

#[test]
fn poison_is_refused() {
    for text in [
        "",
        "1",
        "{}",
        "[]",
        r#"{"$and":[]}"#,
        r#"{"$and":{}}"#,
        r#"{"path":"a"}"#,
        r#"{"value":1}"#,
        r#"{"path":1,"value":1}"#,
        r#"{"path":"a","value":[]}"#,
        r#"{"path":"a","path":"b"}"#,
        r#"{"$xor":[]}"#,
        r#"{"$eq":{"path":"a","value":1,"more":1}}"#,
        r#"{"$not":[]}"#,
        r#"{"$gt":{"path":"a","value":1e1099511627777}}"#,
        r#"{"$gt":{"path":"a","value":-1e-99999999999999999999}}"#,
    ] {
        assert!(text.parse::<Filter>().is_err(), "{text}");
    }
    let deep = format!("{}{{\"path\":\"a\",\"value\":1}}{}", "{\"$not\":".repeat(16), "}".repeat(16));
    assert!(matches!(deep.parse::<Filter>(), Err(FilterError::TooLarge { .. })));
    let one = || Filter::eq("a", 1).unwrap();
    assert!(matches!(Filter::all((0..300).map(|_| one())), Err(FilterError::TooLarge { .. })));
    let mut deep = one();
    let error = loop {
        match deep.negate() {
            Ok(next) => deep = next,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FilterError::TooLarge { limit: MAX_DEPTH, .. }));
    assert!(Filter::all(vec![]).is_err() && Operand::number("1.").is_err());
    assert!("a.".repeat(40).parse::<Filter>().is_err() && Filter::exists(&"a.".repeat(40)).is_err());
}

#[test]
fn the_builder_and_the_text_are_one() {
    let built = Filter::any([
        Filter::all([Filter::eq("kind", "re\"ad").unwrap(), Filter::compare("c", Op::Ge, 21).unwrap()])
            .unwrap(),
        Filter::exists("/x~1y").unwrap().negate().unwrap(),
    ])
    .unwrap();
    let text = built.to_string();
    assert_eq!(
        text,
        r#"{"$or":[{"$and":[{"$eq":{"path":"kind","value":"re\"ad"}},{"$ge":{"path":"c","value":21}}]},{"$not":{"$exists":{"path":"/x~1y"}}}]}"#
    );
    assert_eq!(filter(&text), built);
    assert!(built.matches(br#"{"kind":"re\"ad","c":21.0,"x/y":1}"#));
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (-50i64..50).prop_map(Into::into),
        "[a-c\"\\\\\n\u{e9}\u{1f600}]{0,3}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Against another JSON reader.
    #[test]
    fn paths_and_values_agree_with_serde(doc in value(), pretty: bool, path in "[ab01](\\.[ab01]){0,2}", want in -50i64..50) {
        let text = if pretty { serde_json::to_string_pretty(&doc) } else { serde_json::to_string(&doc) }.unwrap();
        let there = path.split('.').try_fold(&doc, |v, step| match v {
            serde_json::Value::Array(a) => a.get(step.parse::<usize>().ok()?),
            other => other.get(step),
        });
        prop_assert_eq!(Filter::exists(&path).unwrap().matches(text.as_bytes()), there.is_some());
        let number = there.and_then(serde_json::Value::as_i64);
        for (op, holds) in [
            (Op::Eq, number == Some(want)),
            (Op::Ne, number != Some(want)),
            (Op::Lt, number.is_some_and(|n| n < want)),
            (Op::Le, number.is_some_and(|n| n <= want)),
            (Op::Gt, number.is_some_and(|n| n > want)),
            (Op::Ge, number.is_some_and(|n| n >= want)),
        ] {
            prop_assert_eq!(Filter::compare(&path, op, want).unwrap().matches(text.as_bytes()), holds);
        }
        if let Some(serde_json::Value::String(s)) = there {
            prop_assert!(Filter::eq(&path, s.as_str()).unwrap().matches(text.as_bytes()));
        }
    }

    #[test]
    fn what_parses_prints_and_parses_again(text in "[ -~]{0,60}") {
        if let Ok(filter) = text.parse::<Filter>() {
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }
    }

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let is_json = core::str::from_utf8(&bytes).is_ok_and(|t| serde_json::from_str::<serde_json::Value>(t).is_ok());
        let any = Filter::exists("").unwrap();
        prop_assert_eq!(any.matches(&bytes), is_json);
    }
}
