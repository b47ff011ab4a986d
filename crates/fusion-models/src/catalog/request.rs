//! From what somebody asked for to a definition that can be loaded. Reads the disk, so it runs where blocking is allowed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf, absolute},
    time::Duration,
};

use fusion_types::{
    Error, ErrorCode, Result,
    model::{ModelId, ModelType, Priority},
};
use serde_json::{Map, Value};

use super::{
    adapters,
    definition::{Definition, Origin, Setup},
    inspect::{Kind, projector, weigh},
    names::{check_alias, check_id, id_of},
    scan::{is_model_file, named, scan},
};
use crate::{Concurrency, Config, LoadRequest, ModelDefinition, routing};

/// The definition that a load request means; `known` is the model whose id the request gives as its path, if there is one.
///
/// # Errors
/// `invalid_value`, `name_reserved`, `model_not_found`, `not_implemented`.
pub(crate) fn define(
    config: &Config,
    request: &LoadRequest,
    known: Option<&Definition>,
) -> Result<Definition> {
    refuse_unbuilt(request)?;
    let base = match known {
        Some(known) => known.clone(),
        None => locate(config, request)?,
    };
    let mut definition = with_setup(config, base, request)?;
    if let Some(id) = &request.model_id {
        definition.id = check_id(id)?;
    }
    for alias in &request.aliases {
        check_alias(alias)?;
    }
    if !request.aliases.is_empty() {
        definition.aliases.clone_from(&request.aliases);
    }
    if !request.metadata.is_empty() {
        definition.metadata.clone_from(&request.metadata);
    }
    definition.replicas = request.replicas.unwrap_or(definition.replicas);
    definition.pinned = request.pinned.unwrap_or(definition.pinned);
    definition.priority = request.priority.unwrap_or(definition.priority);
    definition.idle_ttl = request
        .ttl_seconds
        .map(Duration::from_secs)
        .or(definition.idle_ttl);
    definition.origin = Origin::Loaded;
    Ok(definition)
}

pub(super) const MOST_REPLICAS: u32 = 64;

fn refuse_unbuilt(request: &LoadRequest) -> Result<()> {
    match request {
        _ if request
            .replicas
            .is_some_and(|count| !(1..=MOST_REPLICAS).contains(&count)) =>
        {
            Err(Error::invalid(
                "replicas",
                format!("replicas: must be from 1 to {MOST_REPLICAS}"),
            ))
        }
        _ if request.concurrency == Some(Concurrency::Slots(0)) => {
            Err(Error::invalid("concurrency", "must be at least 1"))
        }
        _ if request.context_length == Some(0) => {
            Err(Error::invalid("context_length", "must be at least 1"))
        }
        _ => Ok(()),
    }
}

fn with_setup(
    config: &Config,
    mut definition: Definition,
    request: &LoadRequest,
) -> Result<Definition> {
    let setup = &mut definition.setup;
    if let Some(engine) = &request.engine {
        setup.engine = engine_name(config, engine)?;
    }
    if let Some(model_type) = request.model_type
        && model_type != setup.model_type
    {
        setup.model_type = model_type;
        if request.engine.is_none() {
            Kind::at(&setup.path)?
                .engine(model_type)?
                .clone_into(&mut setup.engine);
        }
    }
    setup.context_length = request.context_length.or(setup.context_length);
    set_slots(config, setup, request.concurrency);
    if !request.options.is_empty() {
        let mut given = options(&request.options)?;
        for key in FIELDS {
            let kept = setup.options.remove(key);
            given.extend(kept.map(|value| (key.to_owned(), value)));
        }
        setup.options = given;
    }
    companions(
        config,
        setup,
        &request.adapters,
        request.draft_model.as_deref(),
    )?;
    Ok(definition)
}

/// What is loaded beside a model.
fn companions(
    config: &Config,
    setup: &mut Setup,
    adapters: &[Value],
    draft_model: Option<&str>,
) -> Result<()> {
    if is_foreign(config, setup) && (draft_model.is_some() || !adapters.is_empty()) {
        return Err(Error::new(
            ErrorCode::UnsupportedOperation,
            "a foreign engine is given adapters and a draft model by its own command only",
        )
        .with_param("engine"));
    }
    if !adapters.is_empty() {
        let json = adapters::option(config, adapters)?;
        setup.options.insert(adapters::OPTION.to_owned(), json);
    }
    if let Some(draft) = draft_model {
        let path = draft_path(config, draft)?;
        setup.options.insert(DRAFT_OPTION.to_owned(), path);
    }
    Ok(())
}

/// The engine option that names the draft model.
const DRAFT_OPTION: &str = "draft_model";
/// Engine options that are fields of a request.
const FIELDS: [&str; 2] = [adapters::OPTION, DRAFT_OPTION];

/// The file of a draft model, named as models to load are.
fn draft_path(config: &Config, name: &str) -> Result<String> {
    let draft = locate(config, &LoadRequest::new(name)).map_err(|error| Error {
        message: format!("draft_model: {}", error.message),
        ..error.with_param("draft_model")
    })?;
    let path = draft.setup.path.into_os_string().into_string();
    path.map_err(|_| Error::invalid("draft_model", "the path is no text"))
}

fn is_foreign(config: &Config, setup: &Setup) -> bool {
    config
        .foreign
        .iter()
        .any(|engine| engine.name == setup.engine)
}

/// Only a foreign engine's slots are found while it runs: our own have as many as they were started with.
fn set_slots(config: &Config, setup: &mut Setup, concurrency: Option<Concurrency>) {
    let is_foreign = is_foreign(config, setup);
    match concurrency {
        None => setup.auto_slots &= is_foreign,
        Some(Concurrency::Slots(slots)) => {
            setup.slots = slots.max(1);
            setup.auto_slots = false;
        }
        Some(Concurrency::Auto(_)) => {
            setup.slots = config.slots.max(1);
            setup.auto_slots = is_foreign;
        }
    }
}

/// Finds what `model_path` means: a local path, a path in the models folder, or the name of a model that was found.
fn locate(config: &Config, request: &LoadRequest) -> Result<Definition> {
    let text = request
        .model_path
        .strip_prefix("hf:")
        .unwrap_or(&request.model_path);
    if text.is_empty() {
        return Err(Error::invalid("model_path", "the path is empty"));
    }
    let local = Path::new(text);
    if local.is_absolute() || text.starts_with('.') {
        return at_path(config, request, &make_absolute(local)?);
    }
    if let Some(path) = in_folder(&config.models_dir, text)? {
        return at_path(config, request, &path);
    }
    let found = scan(config);
    if let Some(definition) = named(&found, text)? {
        return Ok(definition.clone());
    }
    if local.exists() {
        return at_path(config, request, &make_absolute(local)?);
    }
    if text.split('/').count() == 2 {
        let message = format!("{text} is not on this machine; fetch it with `fusiond pull {text}`");
        return Err(Error::new(ErrorCode::ModelNotFound, message).with_param("model_path"));
    }
    let names = found.iter().map(|definition| definition.id.as_str());
    Err(routing::not_found(text, names).with_param("model_path"))
}

/// A path below the models folder: as it is written, or `owner/name[:file-or-quant]`.
fn in_folder(folder: &Path, text: &str) -> Result<Option<PathBuf>> {
    let (repository, part) = text
        .split_once(':')
        .map_or((text, None), |(name, part)| (name, Some(part)));
    let relative = Path::new(repository);
    if !relative
        .components()
        .all(|component| matches!(component, Component::Normal(_)))
    {
        return Err(Error::invalid(
            "model_path",
            "a path in the models folder may not leave it",
        ));
    }
    let path = folder.join(relative);
    if path.is_dir() && !path.join("config.json").is_file() {
        return model_file(&path, part);
    }
    Ok(path.exists().then_some(path))
}

/// The one model file of a pulled repository, or the one whose name has the wanted part.
fn model_file(folder: &Path, part: Option<&str>) -> Result<Option<PathBuf>> {
    let part = part.unwrap_or_default().to_lowercase();
    let files = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        path.is_file() && is_model_file(path) && name.to_lowercase().contains(&part)
    };
    let mut files: Vec<_> = files.filter(fits).collect();
    match files.len() {
        0 => Ok(None),
        1 => Ok(files.pop()),
        count => Err(Error::invalid(
            "model_path",
            format!("{count} files fit; say which, as in owner/name:Q4_K_M"),
        )),
    }
}

fn at_path(config: &Config, request: &LoadRequest, path: &Path) -> Result<Definition> {
    if !path.exists() {
        return Err(Error::invalid(
            "model_path",
            format!("there is nothing at {}", path.display()),
        ));
    }
    let id = match &request.model_id {
        Some(id) => check_id(id)?,
        None => id_of(path).ok_or_else(|| {
            Error::invalid("model_id", "the path has no name that a model could have")
        })?,
    };
    let engine = request.engine.as_deref();
    let (model_type, engine) = served_by(config, path, request.model_type, engine)?;
    Ok(plain(
        config,
        id,
        path.to_owned(),
        model_type,
        &engine,
        Origin::Loaded,
    ))
}

/// What the model is, and which engine serves it. An engine that was named judges the files itself.
fn served_by(
    config: &Config,
    path: &Path,
    wanted: Option<ModelType>,
    engine: Option<&str>,
) -> Result<(ModelType, String)> {
    let kind = Kind::at(path);
    if let Some(engine) = engine {
        let guess = kind.map_or(ModelType::Lm, |kind| kind.model_type(path));
        return Ok((wanted.unwrap_or(guess), engine_name(config, engine)?));
    }
    let kind = kind?;
    let model_type = wanted.unwrap_or_else(|| kind.model_type(path));
    Ok((model_type, kind.engine(model_type)?.to_owned()))
}

/// The name of a foreign engine, or an executable's plain name. Only names that engines have are allowed: the engine folders
/// may hold other programs.
fn engine_name(config: &Config, name: &str) -> Result<String> {
    if config.foreign.iter().any(|engine| engine.name == name) {
        return Ok(name.to_owned());
    }
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if plain && (name.starts_with("fusiond-") || name.ends_with("-engine")) {
        return Ok(name.to_owned());
    }
    Err(Error::invalid(
        "engine",
        format!("{name:?} is not the name of an engine"),
    ))
}

fn options(options: &Map<String, Value>) -> Result<BTreeMap<String, String>> {
    let plain = |(key, value): (&String, &Value)| {
        let refuse = |why: &str| Error::invalid(format!("options.{key}"), why);
        if FIELDS.contains(&key.as_str()) {
            return Err(refuse("it is a field of its own beside the options"));
        }
        if key.is_empty()
            || !key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(refuse("an option's name has letters, digits and _"));
        }
        let value = match value {
            Value::String(text) if !text.contains('\0') => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            _ => return Err(refuse("an option is a string, a number or a boolean")),
        };
        Ok((key.clone(), value))
    };
    options.iter().map(plain).collect()
}

/// # Errors
/// `invalid_value`, `name_reserved` or `not_implemented`, naming the model.
pub(crate) fn configured(config: &Config, model: &ModelDefinition) -> Result<Definition> {
    let define = || {
        check_id(model.id.as_str())?;
        let path = make_absolute(&config.models_dir.join(&model.path))?;
        let engine = model.engine.as_deref();
        let (model_type, engine) = served_by(config, &path, model.model_type, engine)?;
        let mut definition = plain(
            config,
            model.id.clone(),
            path,
            model_type,
            &engine,
            Origin::Configured,
        );
        definition.setup.context_length = model.context_length;
        set_slots(config, &mut definition.setup, model.concurrency);
        definition.setup.options = options(&model.options)?;
        let (adapters, draft) = (&model.adapters, model.draft_model.as_deref());
        companions(config, &mut definition.setup, adapters, draft)?;
        model
            .aliases
            .iter()
            .try_for_each(|alias| check_alias(alias))?;
        definition.aliases.clone_from(&model.aliases);
        definition.replicas = model.replicas.clamp(1, MOST_REPLICAS);
        definition.pinned = model.pinned;
        definition.keep_warm = model.keep_warm;
        definition.priority = model.priority;
        definition.idle_ttl = model.idle_ttl;
        Ok(definition)
    };
    define().map_err(|error: Error| Error {
        message: format!("models.{}: {}", model.id, error.message),
        ..error
    })
}

/// A definition that says nothing beyond what has to be said.
pub(super) fn plain(
    config: &Config,
    id: ModelId,
    path: PathBuf,
    model_type: ModelType,
    engine: &str,
    origin: Origin,
) -> Definition {
    let (mut file_bytes, mut modified) = weigh(&path);
    // A model with a projector is both files: another projector is another model.
    if model_type == ModelType::Multimodal
        && let Some((bytes, time)) = projector(&path).map(|path| weigh(&path))
    {
        file_bytes += bytes;
        modified = modified.max(time);
    }
    Definition {
        id,
        setup: Setup {
            path,
            model_type,
            engine: engine.to_owned(),
            context_length: None,
            slots: config.slots.max(1),
            auto_slots: false,
            options: BTreeMap::new(),
        },
        aliases: Vec::new(),
        replicas: 1,
        pinned: false,
        keep_warm: false,
        priority: Priority::Normal,
        idle_ttl: None,
        metadata: Map::new(),
        origin,
        file_bytes,
        modified,
    }
}

fn make_absolute(path: &Path) -> Result<PathBuf> {
    absolute(path).map_err(|error| Error::invalid("model_path", error.to_string()))
}
