//! What of a JSON schema a grammar enforces, so that what it doesn't is refused rather than hoped for.

use fusion_engine::types::{Error, Result};
use llama_cpp_4::chat::json_schema_to_grammar;
use serde_json::{Map, Value, json};

/// The grammar of the texts that a schema allows.
///
/// # Errors
/// `invalid_value` naming `param`, for what isn't a schema and for keywords that no grammar enforces.
pub(crate) fn grammar(schema: &Value, param: &str) -> Result<String> {
    let refused = |why: String| Error::invalid(param, format!("{param}: {why}"));
    if has_nul(schema) {
        return Err(refused("it contains a NUL character".to_owned()));
    }
    check(schema, "#").map_err(refused)?;
    convert(schema).map_err(refused)
}

/// Only that it can be converted: what isn't enforced is left to the model.
///
/// # Errors
/// As for [`grammar`].
pub(crate) fn check_convertible(schema: &Value, param: &str) -> Result<()> {
    let converted = convert(schema).map(drop);
    converted.map_err(|why| Error::invalid(param, format!("{param}: {why}")))
}

/// A NUL would end a text early on its way through C.
pub(crate) fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn convert(schema: &Value) -> Result<String, String> {
    json_schema_to_grammar(&schema.to_string(), false).map_err(|error| error.to_string())
}

/// What says nothing about the value itself.
const ANNOTATIONS: &[&str] = &[
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "discriminator",
];
const NEVER: &[&str] = &["not", "if", "$dynamicRef", "$recursiveRef"];
const OF_OBJECTS: &[&str] = &[
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
];
const OF_ARRAYS: &[&str] = &[
    "contains",
    "minContains",
    "maxContains",
    "additionalItems",
    "unevaluatedItems",
];
const OF_NUMBERS: &[&str] = &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];

fn check(schema: &Value, place: &str) -> Result<(), String> {
    let Some(fields) = schema.as_object() else {
        return Err(format!("the schema at {place} must be an object"));
    };
    check_definitions(fields, place)?;
    refuse(fields, NEVER, place)?;
    for alone in ["$ref", "oneOf", "anyOf", "allOf"] {
        if let Some(value) = fields.get(alone) {
            alone_with_annotations(fields, alone, place)?;
            return check_alternatives(value, alone, place);
        }
    }
    if fields.contains_key("const") || fields.contains_key("enum") {
        return Ok(());
    }
    if is_of(fields, "object") {
        check_object(fields, place)?;
    }
    if is_of(fields, "array") {
        check_array(fields, place)?;
    }
    if is_of(fields, "string") {
        check_string(fields, place)?;
    }
    if is_of(fields, "integer") || is_of(fields, "number") {
        check_number(fields, place)?;
    }
    Ok(())
}

/// Without a type a keyword of any of them may count.
fn is_of(fields: &Map<String, Value>, kind: &str) -> bool {
    match fields.get("type") {
        None => true,
        Some(Value::Array(kinds)) => kinds.iter().any(|one| one == kind),
        Some(one) => one == kind,
    }
}

fn refuse(fields: &Map<String, Value>, keywords: &[&str], place: &str) -> Result<(), String> {
    match keywords
        .iter()
        .find(|keyword| fields.contains_key(**keyword))
    {
        Some(keyword) => Err(unenforced(keyword, place)),
        None => Ok(()),
    }
}

fn unenforced(keyword: &str, place: &str) -> String {
    format!(
        "{keyword} at {place} can't be enforced; say it in the prompt and leave it out of the schema"
    )
}

fn check_definitions(fields: &Map<String, Value>, place: &str) -> Result<(), String> {
    for name in ["$defs", "definitions"] {
        let definitions = fields.get(name).and_then(Value::as_object);
        for (key, schema) in definitions.into_iter().flatten() {
            check(schema, &format!("{place}/{name}/{key}"))?;
        }
    }
    Ok(())
}

/// The converter looks at nothing beside these.
fn alone_with_annotations(
    fields: &Map<String, Value>,
    keyword: &str,
    place: &str,
) -> Result<(), String> {
    let mut others = fields.keys().filter(|name| *name != keyword);
    match others.find(|name| !ANNOTATIONS.contains(&name.as_str())) {
        Some(other) => Err(unenforced(&format!("{other} beside {keyword}"), place)),
        None => Ok(()),
    }
}

fn check_alternatives(value: &Value, keyword: &str, place: &str) -> Result<(), String> {
    let Some(schemas) = value.as_array() else {
        return Ok(());
    };
    if keyword == "allOf" && schemas.len() != 1 {
        return Err(unenforced("allOf of several schemas", place));
    }
    for (index, schema) in schemas.iter().enumerate() {
        check(schema, &format!("{place}/{keyword}/{index}"))?;
    }
    Ok(())
}

fn check_object(fields: &Map<String, Value>, place: &str) -> Result<(), String> {
    refuse(fields, OF_OBJECTS, place)?;
    let none = Map::new();
    let properties = fields.get("properties").and_then(Value::as_object);
    let properties = properties.unwrap_or(&none);
    for (name, schema) in properties {
        check(schema, &format!("{place}/properties/{name}"))?;
    }
    let required = fields.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten() {
        if !name
            .as_str()
            .is_some_and(|name| properties.contains_key(name))
        {
            return Err(unenforced(
                &format!("required {name} without a schema of its own"),
                place,
            ));
        }
    }
    match fields.get("additionalProperties") {
        Some(schema @ Value::Object(_)) => check(schema, &format!("{place}/additionalProperties")),
        _ => Ok(()),
    }
}

fn check_array(fields: &Map<String, Value>, place: &str) -> Result<(), String> {
    refuse(fields, OF_ARRAYS, place)?;
    if fields
        .get("uniqueItems")
        .is_some_and(|unique| unique != false)
    {
        return Err(unenforced("uniqueItems", place));
    }
    if fields.contains_key("items") && fields.contains_key("prefixItems") {
        return Err(unenforced("items beside prefixItems", place));
    }
    match fields.get("items").or_else(|| fields.get("prefixItems")) {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::Array(schemas)) => {
            refuse(fields, &["minItems", "maxItems"], place)?;
            for (index, schema) in schemas.iter().enumerate() {
                check(schema, &format!("{place}/items/{index}"))?;
            }
            Ok(())
        }
        Some(schema) => check(schema, &format!("{place}/items")),
    }
}

fn check_string(fields: &Map<String, Value>, place: &str) -> Result<(), String> {
    let counted = fields.contains_key("minLength") || fields.contains_key("maxLength");
    let Some(pattern) = fields.get("pattern") else {
        // Of formats, dates, times and UUIDs are written as they should be; the others only describe.
        let formatted = fields.contains_key("format") && counted;
        return if formatted {
            Err(unenforced("a length beside format", place))
        } else {
            Ok(())
        };
    };
    if counted || fields.contains_key("format") {
        return Err(unenforced("pattern beside a length or a format", place));
    }
    // The converter takes any string where it can't follow a pattern, and says so to nobody.
    let grammar = convert(&json!({ "type": "string", "pattern": pattern }))?;
    if grammar.lines().any(|rule| rule == "root ::= string") {
        return Err(unenforced(&format!("the pattern {pattern}"), place));
    }
    Ok(())
}

fn check_number(fields: &Map<String, Value>, place: &str) -> Result<(), String> {
    refuse(fields, &["multipleOf"], place)?;
    if is_of(fields, "number") {
        return refuse(fields, OF_NUMBERS, place);
    }
    for (closed, open) in [
        ("minimum", "exclusiveMinimum"),
        ("maximum", "exclusiveMaximum"),
    ] {
        if fields.contains_key(closed) && fields.contains_key(open) {
            return Err(unenforced(&format!("{open} beside {closed}"), place));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(schema: &Value) -> String {
        let error = grammar(schema, "response_format").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("response_format"), "{schema}");
        error.message
    }

    #[test]
    fn what_pydantic_writes_is_taken() {
        let schema = json!({
            "title": "Trip", "type": "object",
            "$defs": { "City": { "type": "object", "properties": { "name": { "type": "string", "maxLength": 20 } }, "required": ["name"] } },
            "properties": {
                "from": { "$ref": "#/$defs/City", "description": "start" },
                "days": { "type": "integer", "minimum": 1, "maximum": 14 },
                "date": { "type": "string", "format": "date" },
                "code": { "type": "string", "pattern": "^[A-Z]{3}$" },
                "note": { "anyOf": [{ "type": "string" }, { "type": "null" }], "default": null },
                "tags": { "type": "array", "items": { "enum": ["sea", "hills"] }, "maxItems": 3 },
            },
            "required": ["from", "days"], "additionalProperties": false,
        });
        assert!(
            grammar(&schema, "response_format")
                .unwrap()
                .contains("root ::=")
        );
    }

    #[test]
    fn what_no_grammar_enforces_is_refused_by_its_name() {
        for (schema, word) in [
            (json!({ "type": "number", "minimum": 1 }), "minimum"),
            (json!({ "type": "integer", "multipleOf": 3 }), "multipleOf"),
            (
                json!({ "type": "array", "items": { "not": {} } }),
                "not at #/items",
            ),
            (
                json!({ "type": "array", "uniqueItems": true }),
                "uniqueItems",
            ),
            (json!({ "type": "object", "required": ["a"] }), "required"),
            (
                json!({ "type": "object", "properties": { "a": { "minimum": 1 } } }),
                "minimum",
            ),
            (json!({ "type": "string", "pattern": "a+" }), "pattern"),
            (
                json!({ "type": "string", "pattern": "^(?=a)b$" }),
                "pattern",
            ),
            (json!({ "allOf": [{}, {}] }), "allOf"),
            (
                json!({ "$ref": "#/$defs/a", "minLength": 2 }),
                "beside $ref",
            ),
        ] {
            let message = refusal(&schema);
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [
            json!([]),
            json!({ "type": "song" }),
            json!({ "type": 7 }),
            json!({ "enum": [] }),
            json!({ "$ref": "#/nowhere" }),
            json!({ "$ref": "https://example.com/schema" }),
            json!({ "properties": { "a": 1 } }),
            json!({ "type": "string", "pattern": "^(a$" }),
            json!({ "title": "a\0b" }),
        ] {
            refusal(&schema);
        }
    }
}
