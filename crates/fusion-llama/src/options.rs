//! Reading an engine's own options: each has a name that is known, and a value that can be.

use fusion_engine::{
    Launch,
    types::{Error, Result},
};

/// # Errors
/// `invalid_value` naming the first option that isn't `known`, and those that are.
pub(crate) fn check_names(launch: &Launch, known: &[&str]) -> Result<()> {
    let unknown = launch
        .options
        .iter()
        .find(|(name, _)| !known.contains(&name.as_str()));
    let Some((name, _)) = unknown else {
        return Ok(());
    };
    let message = format!(
        "a GGUF model of type {} has no option {name}; it has {}",
        launch.model_type.as_str(),
        known.join(", ")
    );
    Err(Error::invalid(format!("options.{name}"), message))
}

/// # Errors
/// `invalid_value` for another value than one of the named.
pub(crate) fn one_of<T: Copy>(
    launch: &Launch,
    name: &str,
    values: &[(&str, T)],
) -> Result<Option<T>> {
    let Some(given) = launch.option(name) else {
        return Ok(None);
    };
    let found = values.iter().find(|(value, _)| *value == given);
    found.map(|(_, value)| Some(*value)).ok_or_else(|| {
        let names: Vec<_> = values.iter().map(|(value, _)| *value).collect();
        let message = format!("{name} must be one of {}", names.join(", "));
        Error::invalid(format!("options.{name}"), message)
    })
}

/// # Errors
/// `invalid_value` for what isn't a whole number from `least` on.
pub(crate) fn number(launch: &Launch, name: &str, least: u32) -> Result<Option<u32>> {
    let Some(given) = launch.option(name) else {
        return Ok(None);
    };
    match given.parse() {
        Ok(number) if number >= least => Ok(Some(number)),
        _ => {
            let message = format!("{name} must be a whole number from {least} on");
            Err(Error::invalid(format!("options.{name}"), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use fusion_engine::types::model::ModelType;

    use super::*;

    fn launch(options: &[(&str, &str)]) -> Launch {
        Launch {
            model: "m.gguf".into(),
            model_type: ModelType::Lm,
            context_length: None,
            slots: 1,
            threads: 1,
            cache_dir: None,
            options: options
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_wrong_name_or_value_is_told_with_the_right_ones() {
        let error = check_names(
            &launch(&[("kv", "shared"), ("kvtype", "f16")]),
            &["kv", "kv_type"],
        )
        .unwrap_err();
        assert_eq!(error.param.as_deref(), Some("options.kvtype"));
        assert!(error.message.contains("kv, kv_type"), "{error}");

        let values = [("a", 1), ("b", 2)];
        assert_eq!(
            one_of(&launch(&[("x", "b")]), "x", &values).unwrap(),
            Some(2)
        );
        assert_eq!(one_of(&launch(&[]), "x", &values).unwrap(), None);
        let error = one_of(&launch(&[("x", "c")]), "x", &values).unwrap_err();
        assert!(error.message.contains("a, b"), "{error}");

        assert_eq!(number(&launch(&[("n", "3")]), "n", 1).unwrap(), Some(3));
        for wrong in ["0", "-1", "1.5", "many", ""] {
            assert!(number(&launch(&[("n", wrong)]), "n", 1).is_err(), "{wrong}");
        }
    }
}
