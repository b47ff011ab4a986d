//! JSON as BSON, in a form that people can read in the database where nothing is lost by it.

use mongodb::bson::{Binary, Bson, Document, spec::BinarySubtype};
use serde_json::{Map, Number, Value};

use crate::error::StoreError;

/// BSON itself allows some more.
const DEEPEST: usize = 40;

/// A value that BSON can't hold as it is, or not under its names, is kept as JSON's text.
pub(super) fn to_bson(value: &Value) -> Result<Bson, StoreError> {
    match plain(value, DEEPEST) {
        Some(bson) => Ok(bson),
        None => Ok(Bson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes: serde_json::to_vec(value)?,
        })),
    }
}

fn plain(value: &Value, depth: usize) -> Option<Bson> {
    let deeper = depth.checked_sub(1)?;
    Some(match value {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Bson::Int64(number),
            None if number.is_u64() => return None,
            None => Bson::Double(number.as_f64()?),
        },
        Value::String(text) => Bson::String(text.clone()),
        Value::Array(items) => Bson::Array(
            items
                .iter()
                .map(|item| plain(item, deeper))
                .collect::<Option<_>>()?,
        ),
        Value::Object(fields) => Bson::Document(plain_fields(fields, deeper)?),
    })
}

fn plain_fields(fields: &Map<String, Value>, depth: usize) -> Option<Document> {
    let mut document = Document::new();
    for (name, value) in fields {
        if name.is_empty() || name.starts_with('$') || name.contains(['.', '\0']) {
            return None;
        }
        document.insert(name.clone(), plain(value, depth)?);
    }
    Some(document)
}

pub(super) fn from_bson(bson: Bson) -> Result<Value, StoreError> {
    Ok(match bson {
        Bson::Binary(binary) => serde_json::from_slice(&binary.bytes)?,
        Bson::Boolean(value) => Value::Bool(value),
        Bson::Int32(number) => number.into(),
        Bson::Int64(number) => number.into(),
        Bson::Double(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        Bson::String(text) => Value::String(text),
        Bson::Array(items) => {
            Value::Array(items.into_iter().map(from_bson).collect::<Result<_, _>>()?)
        }
        Bson::Document(document) => Value::Object(from_document(document)?),
        // Nothing else is ever written.
        _ => Value::Null,
    })
}

pub(super) fn from_document(document: Document) -> Result<Map<String, Value>, StoreError> {
    document
        .into_iter()
        .map(|(name, value)| Ok((name, from_bson(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_comes_back_as_it_was() {
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        for value in [
            json!(null),
            json!([1, -1, 1.5, 1e300, true, "ü", [], {}]),
            json!({"a": {"b": [null]}, "1": 2}),
            json!(u64::MAX),
            json!({"a.b": 1, "$c": 2, "": 3, "nul\0": 4}),
            json!({"fine": {"$date": {"$numberLong": "1"}}}),
            deep,
        ] {
            let stored = to_bson(&value).unwrap();
            assert_eq!(from_bson(stored).unwrap(), value);
        }
    }

    #[test]
    fn what_people_may_want_to_read_is_readable() {
        let stored = to_bson(&json!({"user": "u", "n": 3})).unwrap();
        let document = stored.as_document().unwrap();
        assert_eq!(document.get_str("user").unwrap(), "u");
        assert_eq!(document.get_i64("n").unwrap(), 3);
    }
}
