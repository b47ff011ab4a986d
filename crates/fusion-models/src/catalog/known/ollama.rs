//! Ollama's models: `manifests/HOST/NAMESPACE/NAME/TAG` is a list of layers, and one of them is the GGUF file below `blobs`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Kind, Known, Walk, name};

const MODEL_LAYER: &str = "application/vnd.ollama.image.model";
/// A manifest has some hundred bytes.
const LONGEST_MANIFEST: u64 = 1 << 16;
/// What Ollama leaves out of a name.
const USUAL_HOST: &str = "registry.ollama.ai";
const USUAL_NAMESPACE: &str = "library";

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
}

pub(super) fn search(walk: &mut Walk, root: &Path) -> Vec<Known> {
    let mut manifests = vec![root.join("manifests")];
    // From the folder of hosts down to the tags.
    for _ in 0..4 {
        manifests = manifests
            .iter()
            .flat_map(|folder| walk.entries(folder))
            .collect();
    }
    manifests
        .iter()
        .filter_map(|manifest| {
            let path = root.join("blobs").join(blob(manifest)?);
            match Kind::at(&path) {
                Ok(kind @ Kind::Gguf) => Some(Known {
                    name: name_of(manifest)?,
                    path,
                    kind,
                }),
                Ok(_) => None,
                Err(error) => {
                    tracing::debug!(manifest = %manifest.display(), %error, "left out");
                    None
                }
            }
        })
        .collect()
}

/// `NAME:TAG`, with what Ollama would write before it.
fn name_of(manifest: &Path) -> Option<String> {
    let mut pieces = manifest.ancestors().map(name);
    let mut next = || pieces.next().flatten();
    let (tag, model, namespace, host) = (next()?, next()?, next()?, next()?);
    Some(match (host, namespace) {
        (USUAL_HOST, USUAL_NAMESPACE) => format!("{model}:{tag}"),
        (USUAL_HOST, _) => format!("{namespace}/{model}:{tag}"),
        _ => format!("{host}/{namespace}/{model}:{tag}"),
    })
}

/// The file's name of the model's own layer.
fn blob(manifest: &Path) -> Option<PathBuf> {
    let layers = match read(manifest) {
        Ok(manifest) => manifest.layers,
        Err(error) => {
            tracing::debug!(manifest = %manifest.display(), %error, "left out");
            return None;
        }
    };
    let layer = layers
        .iter()
        .find(|layer| layer.media_type == MODEL_LAYER)?;
    let hash = layer.digest.strip_prefix("sha256:")?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| PathBuf::from(format!("sha256-{hash}")))
}

fn read(manifest: &Path) -> io::Result<Manifest> {
    let mut text = String::new();
    File::open(manifest)?
        .take(LONGEST_MANIFEST)
        .read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}
