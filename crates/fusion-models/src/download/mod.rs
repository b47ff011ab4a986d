//! Models from a hub into the models folder, as `OWNER/NAME/FILES` below it.

mod files;
mod hub;
mod part;
mod source;
mod space;
mod transfer;

use std::path::{Path, PathBuf};

use fusion_types::Result;

pub use self::hub::Hub;
pub(crate) use self::space::check_room;
use self::{hub::Session, source::Source};

/// How far a pull is, told after each piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The file now on its way, as the hub names it.
    pub file: String,
    /// Bytes of this file on disk.
    pub bytes: u64,
    /// Size of this file, where the hub says it.
    pub total_bytes: Option<u64>,
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The name under which the model is served.
    pub model_id: String,
    /// The model's file or folder.
    pub path: PathBuf,
    /// Bytes of its files together.
    pub bytes: u64,
    /// SHA-256 of each file that the hub vouched for, with its path.
    pub verified: Vec<(PathBuf, String)>,
}

/// Brings `[hf:]owner/name[:file-or-quant]` into `models_dir`. What an earlier attempt left is continued. Dropping the future
/// ends the pull, and keeps what has come.
///
/// # Errors
/// `invalid_value` for a source that isn't one, `model_not_found` where the hub hasn't got it, `engine_unavailable` where the
/// hub can't be reached, `model_in_use` while another pull fetches the same file, `internal_error` for a hash that is wrong or
/// a disk that is too small (with `needed_bytes` and `free_bytes`) or can't be written.
pub async fn pull(
    source: &str,
    models_dir: &Path,
    hub: &Hub,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Pulled> {
    let source: Source = source.parse()?;
    let session = Session::open(hub)?;
    let listed = session.list(&source).await?;
    let wanted = files::choose(&listed, source.part.as_deref())?;
    let folder = models_dir.join(&source.owner).join(&source.name);
    space::check(&folder, &wanted)?;
    let mut pulled = Pulled {
        model_id: source.name.clone(),
        path: folder.clone(),
        bytes: 0,
        verified: Vec::new(),
    };
    for file in &wanted {
        let target = folder.join(&file.path);
        pulled.bytes += transfer::bring(&session, &source, file, &target, progress).await?;
        pulled
            .verified
            .extend(file.sha256.clone().map(|hash| (target, hash)));
    }
    if let Some(model) = files::model_file(&wanted) {
        pulled.path = folder.join(&model.path);
        pulled.model_id = files::model_name(&model.path);
    }
    Ok(pulled)
}
