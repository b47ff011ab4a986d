//! The handle that everybody holds.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fusion_types::{
    Call, Error, ErrorCode, Result,
    inference::Needs,
    model::{Capability, ModelCard, ModelId},
    model_ref::ModelRef,
    store::RecordStore,
};
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Diagnostics, ForgetReport, LoadPlan, LoadReport, LoadRequest, MemoryReader, ModelInfo,
    QueueStats, UnloadReport,
    catalog::{self, Definition, Origin},
    engine::{RuntimeDir, Spawner},
    gate,
    lease::Lease,
    memory::Footprints,
    registry::{Mailbox, Message, Registry, Services, View},
    routing::{self, Route},
    scheduler::{board::WaiterId, refusal},
};

/// How often unknown names may make the models folder be looked through.
const RESCAN_EVERY: Duration = Duration::from_secs(1);

/// A cheap handle on all models. When the last one is dropped, or the token given to [`Models::start`] is cancelled, every
/// engine is ended.
#[derive(Clone)]
pub struct Models(Arc<Inner>);

/// What a request wants of the models.
pub(crate) struct Wanted<R> {
    pub(crate) model: ModelRef,
    pub(crate) capability: Option<Capability>,
    pub(crate) request: R,
    /// Among equally busy processes of a model the one that this number fits gets the request.
    pub(crate) likes: fn(&R) -> Option<u64>,
}

struct Inner {
    config: Arc<Config>,
    records: Arc<dyn RecordStore>,
    footprints: Footprints,
    mailbox: Mailbox,
    view: watch::Receiver<Arc<View>>,
    next_waiter: AtomicU64,
    last_scan: Mutex<Instant>,
}

impl Models {
    /// Finds what can be loaded, and starts loading what the configuration wants loaded.
    ///
    /// The registry runs on `tasks`. Once `token` is cancelled nothing new is accepted; running requests have
    /// [`Config::drain_timeout`] to end, then the engines do, and only then does the registry's task.
    ///
    /// # Errors
    /// `invalid_value` for a definition that can't be, `store_unavailable`, `internal_error` where no runtime folder can be made.
    pub async fn start(
        config: Config,
        records: Arc<dyn RecordStore>,
        tasks: TaskTracker,
        token: CancellationToken,
    ) -> Result<Self> {
        let config = Arc::new(config);
        let internal =
            |what: &str, error: std::io::Error| Error::internal(format!("{what}: {error}"));
        let runtime_dir = RuntimeDir::create(config.runtime_parent.as_deref())
            .map_err(|error| internal("can't make a folder for sockets", error))?;
        let spawner = Spawner::start().map_err(|error| internal("can't start a thread", error))?;
        let footprints = Footprints::new(records.clone(), spawner.clone(), config.memory_of());

        let mut definitions = Vec::new();
        for definition in all_definitions(&config, &*records).await? {
            let learned = footprints.recall(&definition).await;
            definitions.push((definition, learned));
        }
        let (mailbox, messages) = mpsc::unbounded_channel();
        let services = Services {
            config: config.clone(),
            spawner,
            runtime_dir,
            footprints: footprints.clone(),
        };
        let (registry, view) = Registry::new(services, definitions, &mailbox);
        tasks.spawn(registry.run(messages, token.clone()));

        let models = Self(Arc::new(Inner {
            config,
            records,
            footprints,
            mailbox,
            view,
            next_waiter: AtomicU64::new(0),
            last_scan: Mutex::new(Instant::now()),
        }));
        models.preload(&tasks, &token);
        Ok(models)
    }

    /// Each load on a task of its own, so that a slow or broken one holds up nothing.
    fn preload(&self, tasks: &TaskTracker, token: &CancellationToken) {
        for model in self
            .0
            .config
            .definitions
            .iter()
            .filter(|model| model.preload)
        {
            let Some(definition) = self.view().catalog.definitions.get(&model.id).cloned() else {
                continue;
            };
            let (models, token) = (self.clone(), token.clone());
            tasks.spawn(async move {
                let load = models.load_definition(Definition::clone(&definition));
                if let Some(Err(error)) = token.run_until_cancelled(load).await {
                    tracing::error!(model = %definition.id, %error, "a model can't be loaded at the start");
                }
            });
        }
    }

    /// Loads a model and remembers it over a restart.
    ///
    /// # Errors
    /// `invalid_value`, `model_not_found`, `model_already_loaded`, `insufficient_vram`, `not_implemented`, and what the engine says.
    pub async fn load(&self, request: LoadRequest) -> Result<LoadReport> {
        let definition = self.define(request).await?;
        let report = self.load_definition(definition.clone()).await?;
        catalog::remember(&*self.0.records, &definition).await?;
        Ok(report)
    }

    /// What [`Models::load`] would do; changes nothing.
    ///
    /// # Errors
    /// As for [`Models::load`], except for `insufficient_vram`, which the plan itself tells.
    pub async fn plan_load(&self, request: LoadRequest) -> Result<LoadPlan> {
        let definition = self.define(request).await?;
        self.plan_definition(&definition).await
    }

    async fn plan_definition(&self, definition: &Definition) -> Result<LoadPlan> {
        let launch = definition.launch(&self.0.config);
        let need = self.0.footprints.predict(definition, launch).await?;
        self.ask(|reply| Message::Plan {
            definition: Box::new(definition.clone()),
            need,
            reply,
        })
        .await?
    }

    /// Ends a model's engine; with `force` also while it answers requests, which then end with an error.
    ///
    /// # Errors
    /// `model_not_found`; `model_in_use` without `force`.
    pub async fn unload(&self, name: &str, force: bool) -> Result<UnloadReport> {
        let model = self.card(name)?.id;
        self.ask(|reply| Message::Unload {
            model,
            force,
            reply,
        })
        .await?
    }

    /// Unloads a model and forgets what was defined of it by loading it; with `files` also deletes its files. What the
    /// configuration names, or is found where models lie, stays listed.
    ///
    /// # Errors
    /// `model_not_found`; `model_in_use` without `force`, or where another model has the files too; `invalid_value` for
    /// files outside the models folder. Then nothing was changed.
    pub async fn forget(&self, name: &str, files: bool, force: bool) -> Result<ForgetReport> {
        let model = self.card(name)?.id;
        if files {
            self.own_files(&model).await?;
        }
        let freed_bytes = self.unload(model.as_str(), force).await?.freed_bytes;
        let (own, bytes) = match files {
            true => self.own_files(&model).await?,
            false => Default::default(),
        };
        self.ask(|reply| Message::Forget {
            model: model.clone(),
            reply,
        })
        .await??;
        catalog::forget(&*self.0.records, &model).await?;
        blocking(move || catalog::delete(&own)).await?;
        self.rescan().await?;
        Ok(ForgetReport {
            freed_bytes,
            deleted_bytes: bytes,
            listed: self
                .ask(|reply| Message::Info {
                    model: model.clone(),
                    reply,
                })
                .await?
                .is_ok(),
            model_id: model,
        })
    }

    /// The files that are the model's alone, and their size.
    async fn own_files(&self, model: &ModelId) -> Result<(Vec<PathBuf>, u64)> {
        let view = self.view();
        let Some(definition) = view.catalog.definitions.get(model).cloned() else {
            return Err(routing::not_found(model.as_str(), std::iter::empty()));
        };
        if definition.origin == Origin::Configured {
            let message = format!("the configuration names the model {model}");
            return Err(Error::new(ErrorCode::ModelInUse, message));
        }
        let others = view.catalog.definitions.values();
        let others: Vec<_> = others.filter(|other| other.id != *model).cloned().collect();
        let config = self.0.config.clone();
        let bytes = definition.file_bytes;
        blocking(move || catalog::own_files(&config.models_dir, &definition, &others))
            .await
            .map(|files| (files, bytes))
    }

    /// All that is loaded or could be, by id.
    pub fn cards(&self) -> Arc<[ModelCard]> {
        self.view().cards()
    }

    /// By id or alias.
    ///
    /// # Errors
    /// `model_not_found` with the nearest names.
    pub fn card(&self, name: &str) -> Result<ModelCard> {
        let view = self.view();
        let route = view.choose(&ModelRef::Named(name.to_owned()), &Needs::default())?;
        view.card(&route.model)
            .ok_or_else(|| routing::not_found(name, std::iter::empty()))
    }

    /// By id or alias.
    ///
    /// # Errors
    /// `model_not_found` with the nearest names.
    pub async fn info(&self, name: &str) -> Result<ModelInfo> {
        let model = self.card(name)?.id;
        self.ask(|reply| Message::Info { model, reply }).await?
    }

    /// What happened lately, and what the budget and the machine have left.
    ///
    /// # Errors
    /// `engine_unavailable` once the server has shut down.
    pub async fn diagnostics(&self) -> Result<Diagnostics> {
        let machine = blocking(|| Ok(MemoryReader::of_this_machine().read())).await?;
        let known = self.ask(|reply| Message::Diagnostics { reply }).await?;
        Ok(Diagnostics { machine, ..known })
    }

    pub fn queue_stats(&self) -> QueueStats {
        self.view().queues()
    }

    /// Looks again at the models folder, for files that came since.
    ///
    /// # Errors
    /// `engine_unavailable` while the server shuts down.
    pub async fn rescan(&self) -> Result<()> {
        let config = self.0.config.clone();
        let definitions = blocking(move || Ok(catalog::scan(&config))).await?;
        self.ask(|reply| Message::Found { definitions, reply })
            .await
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.0.view.borrow().clone()
    }

    /// Chooses the model, and waits for a slot of it within the call's deadline.
    pub(crate) async fn acquire<R>(
        &self,
        call: &Call,
        wanted: &Wanted<R>,
    ) -> Result<(Lease, Route)> {
        call.check_deadline()?;
        let needs = Needs {
            capability: wanted.capability,
            min_context: None,
        };
        let mut view = self.view();
        let mut route = view.choose(&wanted.model, &needs);
        if route.is_err() && self.may_rescan() {
            // Seldom, so that it takes no room in every request.
            Box::pin(self.rescan()).await?;
            view = self.view();
            route = view.choose(&wanted.model, &needs);
        }
        let route = route?;
        let gates = view.gates(&route.model);
        let likes = (gates.len() > 1).then(|| (wanted.likes)(&wanted.request));
        let likes = likes.flatten();
        if let Some(lease) = gate::enter(gates, likes, &route.model, &call.tenant, &self.0.mailbox)
        {
            return Ok((lease, route));
        }
        drop(view);
        let (model, deadline) = (route.model.clone(), call.deadline);
        let granted = self.wait(|waiter, reply| Message::Acquire {
            waiter,
            model,
            tenant: call.tenant.clone(),
            class: call.class,
            likes,
            deadline,
            reply,
        });
        // Boxed, as it is seldom needed and would take room in every request.
        Ok((Box::pin(granted).await?, route))
    }

    fn may_rescan(&self) -> bool {
        let mut last = self
            .0
            .last_scan
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let may = last.elapsed() >= RESCAN_EVERY;
        if may {
            *last = Instant::now();
        }
        may
    }

    async fn define(&self, request: LoadRequest) -> Result<Definition> {
        let config = self.0.config.clone();
        let known = self.known(&request);
        blocking(move || catalog::define(&config, &request, known.as_deref())).await
    }

    /// The model that the request names as its path, unless it wants it under another id.
    fn known(&self, request: &LoadRequest) -> Option<Arc<Definition>> {
        let id = ModelId::new(&request.model_path);
        let same_id = request
            .model_id
            .as_ref()
            .is_none_or(|id| *id == request.model_path);
        self.view()
            .catalog
            .definitions
            .get(&id)
            .filter(|_| same_id)
            .cloned()
    }

    async fn load_definition(&self, definition: Definition) -> Result<LoadReport> {
        let (model, replicas) = (definition.id.clone(), definition.replicas);
        if replicas > 1 {
            // All or none: one by one it would turn out too late.
            let plan = self.plan_definition(&definition).await?;
            if !plan.possible {
                return Err(refusal::too_large(&plan));
            }
        }
        let definition = Box::new(definition);
        let first = self
            .wait(|waiter, reply| Message::Load {
                waiter,
                definition,
                reply,
            })
            .await?;
        let others = (1..replicas).map(|number| self.load_replica(&model, number));
        let mut report = first;
        for other in join_all(others).await {
            let other = other?;
            report.load_time = report.load_time.max(other.load_time);
            report.evicted.extend(other.evicted);
        }
        if replicas > 1 {
            report.card = self.card(model.as_str())?;
            let bytes = report.card.footprint_bytes;
            report.footprint_bytes = bytes.unwrap_or(report.footprint_bytes);
        }
        Ok(report)
    }

    async fn load_replica(&self, model: &ModelId, number: u32) -> Result<LoadReport> {
        let loaded = self.wait(|waiter, reply| Message::LoadReplica {
            waiter,
            model: model.clone(),
            number,
            reply,
        });
        loaded.await.map_err(|error| Error {
            message: format!("replica {number} of {model}: {}", error.message),
            ..error
        })
    }

    /// Sends what may take long to be answered. Dropping the future gives up the place in the queue.
    async fn wait<T>(
        &self,
        message: impl FnOnce(WaiterId, oneshot::Sender<Result<T>>) -> Message,
    ) -> Result<T> {
        let waiter = self.0.next_waiter.fetch_add(1, Relaxed);
        let mut place = Place {
            waiter,
            mailbox: &self.0.mailbox,
            is_taken: true,
        };
        let outcome = self.ask(|reply| message(waiter, reply)).await;
        place.is_taken = false;
        outcome?
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0
            .mailbox
            .send(message(reply))
            .map_err(|_| refusal::draining())?;
        answer.await.map_err(|_| refusal::draining())
    }
}

/// A place in a queue, withdrawn when dropped before the answer came.
struct Place<'a> {
    waiter: WaiterId,
    mailbox: &'a Mailbox,
    is_taken: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            // Without a registry there is no queue either.
            let _ = self.mailbox.send(Message::Withdraw {
                waiter: self.waiter,
            });
        }
    }
}

/// What the folder holds, then what was loaded before, then the configuration, each taking the place of the one before.
async fn all_definitions(
    config: &Arc<Config>,
    records: &dyn RecordStore,
) -> Result<Vec<Definition>> {
    let scanned = config.clone();
    let mut definitions = blocking(move || Ok(catalog::scan(&scanned))).await?;
    definitions.extend(catalog::recall(records).await?);
    let named = config.clone();
    definitions.extend(
        blocking(move || {
            named
                .definitions
                .iter()
                .map(|model| catalog::configured(&named, model))
                .collect::<Result<Vec<_>>>()
        })
        .await?,
    );
    let by_id: std::collections::BTreeMap<_, _> = definitions
        .into_iter()
        .map(|definition| (definition.id.clone(), definition))
        .collect();
    Ok(by_id.into_values().collect())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::internal(error.to_string())))
}
