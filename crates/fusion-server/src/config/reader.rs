//! Takes typed values out of layered TOML and collects everything that is wrong with them.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// What is left of the configuration while it is read, and the problems found so far.
pub(crate) struct Reader {
    layers: Table,
    problems: Vec<String>,
}

impl Reader {
    /// # Errors
    /// Where the defaults aren't TOML.
    pub(crate) fn new(defaults: &str) -> Result<Self, toml::de::Error> {
        Ok(Self {
            layers: defaults.parse()?,
            problems: Vec::new(),
        })
    }

    /// Lays a file over what is there. Keys that the defaults don't have are problems.
    pub(crate) fn overlay_file(&mut self, name: &str, text: &str) {
        match text.parse::<Table>() {
            Ok(table) => merge(&mut self.layers, table, "", &mut self.problems),
            Err(error) => self.problems.push(format!("{name}: {error}")),
        }
    }

    /// Lays one value, as text, over what is there.
    pub(crate) fn overlay(&mut self, key: &str, text: &str) {
        if let Some((section, name)) = key.split_once('.')
            && let Some(Value::Table(section)) = self.layers.get_mut(section)
        {
            section.insert(name.to_owned(), Value::String(text.to_owned()));
        }
    }

    pub(crate) fn problem(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.problems.push(format!("{key}: {problem}"));
    }

    /// The value at `key`, or its type's default after noting a problem.
    pub(crate) fn take<T: DeserializeOwned + Default>(&mut self, key: &str) -> T {
        let value = match key.split_once('.') {
            Some((section, name)) => self
                .layers
                .get(section)
                .and_then(|section| section.get(name)),
            None => self.layers.get(key),
        };
        let Some(value) = value.cloned() else {
            self.problem(key, "has no default");
            return T::default();
        };
        match typed(value) {
            Ok(value) => value,
            Err(error) => {
                self.problem(key, error.message());
                T::default()
            }
        }
    }

    /// A list of tables, empty where there is none.
    pub(crate) fn take_list<T: DeserializeOwned>(&mut self, key: &str) -> Vec<T> {
        let Some(Value::Array(list)) = self.layers.remove(key) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        for (index, item) in list.into_iter().enumerate() {
            match item.try_into() {
                Ok(item) => taken.push(item),
                Err(error) => self.problem(&format!("{key}[{index}]"), error.message()),
            }
        }
        taken
    }

    pub(crate) fn finish(self) -> Vec<String> {
        self.problems
    }
}

/// Text from a flag or the environment is read as TOML where the type wants more than a string, a comma-separated list
/// included.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, toml::de::Error> {
    let Value::String(text) = &value else {
        return value.try_into();
    };
    let candidates = [
        Some(value.clone()),
        format!("value = {}", text.trim())
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("value")),
        Some(Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| item.into())
                .collect(),
        )),
    ];
    let mut first_error = None;
    for candidate in candidates.into_iter().flatten() {
        match candidate.try_into() {
            Ok(value) => return Ok(value),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) => Err(error),
        None => value.try_into(),
    }
}

fn merge(under: &mut Table, over: Table, path: &str, problems: &mut Vec<String>) {
    for (key, value) in over {
        let here = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over, &here, problems),
            (Some(Value::Table(_)), _) => problems.push(format!("{here}: expected a table")),
            (Some(slot), value) => *slot = value,
            // Lists of tables have no default to stand on.
            (None, value @ Value::Array(_))
                if path.is_empty() && matches!(key.as_str(), "model" | "engine") =>
            {
                under.insert(key, value);
            }
            (None, _) => problems.push(format!("{here}: unknown setting")),
        }
    }
}
