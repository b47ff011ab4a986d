//! Where other programs keep their models, by their own rules.

use std::path::PathBuf;

use fusion_models::KnownFolders;

/// `variable` looks up the environment.
pub(crate) fn known_folders(variable: impl Fn(&str) -> Option<PathBuf>) -> KnownFolders {
    let variable = |name: &str| variable(name).filter(|path| path.is_absolute());
    let home = variable("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let cache = || variable("XDG_CACHE_HOME").or_else(|| below_home(".cache"));
    let hugging_face = variable("HF_HUB_CACHE").or_else(|| {
        let folder = variable("HF_HOME").or_else(|| Some(cache()?.join("huggingface")))?;
        Some(folder.join("hub"))
    });
    let lm_studio = [".lmstudio/models", ".cache/lm-studio/models"].map(below_home);
    let ollama = variable("OLLAMA_MODELS").or_else(|| below_home(".ollama/models"));
    KnownFolders {
        hugging_face: hugging_face.into_iter().collect(),
        lm_studio: lm_studio.into_iter().flatten().collect(),
        ollama: ollama.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> KnownFolders {
        known_folders(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| PathBuf::from(value))
        })
    }

    fn paths<const N: usize>(paths: [&str; N]) -> Vec<PathBuf> {
        paths.map(PathBuf::from).to_vec()
    }

    #[test]
    fn each_program_has_its_folder_and_its_variable() {
        let home = of(&[("HOME", "/h")]);
        assert_eq!(home.hugging_face, paths(["/h/.cache/huggingface/hub"]));
        assert_eq!(
            home.lm_studio,
            paths(["/h/.lmstudio/models", "/h/.cache/lm-studio/models"])
        );
        assert_eq!(home.ollama, paths(["/h/.ollama/models"]));

        let moved = of(&[
            ("HOME", "/h"),
            ("XDG_CACHE_HOME", "/c"),
            ("OLLAMA_MODELS", "/o"),
        ]);
        assert_eq!(moved.hugging_face, paths(["/c/huggingface/hub"]));
        assert_eq!(moved.ollama, paths(["/o"]));
        let own = [("HF_HOME", "/f"), ("HF_HUB_CACHE", "/hub")];
        assert_eq!(of(&own[..1]).hugging_face, paths(["/f/hub"]));
        assert_eq!(of(&own).hugging_face, paths(["/hub"]));
        assert_eq!(of(&[("HOME", "here")]), KnownFolders::default());
    }
}
