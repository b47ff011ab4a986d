//! Which projector belongs to a multimodal GGUF: the file beside it that turns images or sound into the model's own vectors.
//!
//! By names alone, since that is how they are published: `mmproj-NAME-f16.gguf` or `NAME-mmproj.gguf` beside
//! `NAME-Q4_K_M.gguf`, or a plain `mmproj-F16.gguf` in a folder that holds one model only.

/// What a projector's name may end with, beside its model's name.
const KINDS: [&str; 9] = [
    "f16", "f32", "bf16", "fp16", "q8", "q4", "0", "model", "gguf",
];

pub fn is_projector(name: &str) -> bool {
    let name = name.to_lowercase();
    name.contains("mmproj") && name.ends_with(".gguf")
}

/// The projector of `model` among the names of the files in its folder. Of several that fit, the one that names most of the
/// model, then one in 16-bit floats, then the first.
pub fn projector_of<'a>(model: &str, files: &[&'a str]) -> Option<&'a str> {
    let wanted = words(model);
    let fits = files.iter().copied().filter_map(|file| {
        let base = is_projector(file).then(|| base(file))?;
        let fits = if base.is_empty() {
            is_alone(&wanted, files)
        } else {
            wanted.starts_with(&base)
        };
        fits.then_some((base.len(), file))
    });
    let rank = |&(length, file): &(usize, &'a str)| {
        let half = words(file).iter().any(|word| word == "f16");
        (length, half, std::cmp::Reverse(file))
    };
    fits.max_by_key(rank).map(|(_, file)| file)
}

/// Whether all models in the folder are one model in several sizes.
fn is_alone(model: &[String], files: &[&str]) -> bool {
    let mut others = files
        .iter()
        .filter(|file| file.to_lowercase().ends_with(".gguf") && !is_projector(file));
    others.all(|other| words(other).first() == model.first())
}

/// The name of the model in a projector's name.
fn base(projector: &str) -> Vec<String> {
    let mut words = words(projector);
    words.retain(|word| word != "mmproj");
    while words
        .last()
        .is_some_and(|last| KINDS.contains(&last.as_str()))
    {
        words.pop();
    }
    words
}

fn words(name: &str) -> Vec<String> {
    let name = name.to_lowercase();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    stem.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projector_goes_with_the_model_that_it_names() {
        let files = [
            "Qwen2.5-VL-3B-Instruct-Q4_K_M.gguf",
            "mmproj-Qwen2.5-VL-3B-Instruct-bf16.gguf",
            "mmproj-Qwen2.5-VL-3B-Instruct-f16.gguf",
            "SmolVLM-500M-Q8_0.gguf",
            "SmolVLM-500M-mmproj-Q8_0.gguf",
            "plain.gguf",
        ];
        let of = |model| projector_of(model, &files);
        assert_eq!(of(files[0]), Some(files[2]));
        assert_eq!(of(files[3]), Some(files[4]));
        assert_eq!(of("plain.gguf"), None);
    }

    #[test]
    fn one_without_a_name_goes_with_the_only_model() {
        let alone = [
            "gemma-3-4b-it-Q4_K_M.gguf",
            "gemma-3-4b-it-Q8_0.gguf",
            "mmproj-F16.gguf",
        ];
        assert_eq!(projector_of(alone[0], &alone), Some("mmproj-F16.gguf"));
        let several = [
            "gemma-3-4b-it-Q4_K_M.gguf",
            "other.gguf",
            "mmproj-model-f16.gguf",
        ];
        assert_eq!(projector_of(several[0], &several), None);
        assert!(is_projector("MMPROJ-a.GGUF") && !is_projector("a.gguf"));
    }
}
