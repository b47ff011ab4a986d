//! JSON that nobody should have sent.

use proptest::prelude::*;
use serde_json::{Map, Value};

/// Any JSON, with names and values that bodies have as well as others.
pub(crate) fn json(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Numbers that JSON readers read exactly; not all do so with every f64.
        prop::sample::select(vec![0.5, -1.25, 1e22, -1e22, 1e-3, 4e38, 1e300])
            .prop_map(|number: f64| Value::from(number)),
        (-2..3_i64).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::String),
        prop::sample::select(names).prop_map(|name| Value::String(name.to_owned())),
    ];
    leaf.prop_recursive(4, 24, 6, move |inner| {
        let name = prop_oneof![
            4 => prop::sample::select(names).prop_map(str::to_owned),
            1 => "\\PC{0,6}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((name, inner), 0..6)
                .prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

/// A good body with something else in a few of its places.
pub(crate) fn spoiled(good: Value, names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let change = (any::<prop::sample::Index>(), prop::option::of(json(names)));
    prop::collection::vec(change, 1..4).prop_map(move |changes| {
        let mut body = good.clone();
        for (place, value) in changes {
            let mut places = Vec::new();
            places_of(&body, String::new(), &mut places);
            let place = place.get(&places).clone();
            match value {
                Some(value) => *body.pointer_mut(&place).unwrap() = value,
                None => remove(&mut body, &place),
            }
        }
        body
    })
}

fn places_of(value: &Value, here: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            places_of(value, format!("{here}/{name}"), places);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| {
            places_of(value, format!("{here}/{index}"), places);
        }),
        _ => {}
    }
    places.push(here);
}

fn remove(body: &mut Value, place: &str) {
    let Some((parent, name)) = place.rsplit_once('/') else {
        return;
    };
    match body.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.remove(&name.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(items)) => {
            items.remove(name.parse().unwrap());
        }
        _ => {}
    }
}
