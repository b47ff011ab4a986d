//! `fusiond quantize`, as it is called.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::server::Home;

fn input() -> Option<PathBuf> {
    let home = Home::with_real_models();
    let file = home.map(|home| home.models_dir().join(".made/all-MiniLM-L6-v2-f16.gguf"));
    let file = file.filter(|file| file.is_file());
    if file.is_none() {
        println!("SKIPPED: the models have not been made; run `make models`");
    }
    file
}

fn quantize(input: &Path, output: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusiond"))
        .args(["quantize", "--json"])
        .args([input, output])
        .args(arguments)
        .output()
        .unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_made_whole_and_is_not_replaced_unasked() {
    let Some(input) = input() else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("q8.gguf");
    let done = quantize(&input, &output, &["--type", "q8_0"]);
    assert!(done.status.success(), "{done:?}");
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["output_bytes"], output.metadata().unwrap().len());
    assert_eq!(names(folder.path()), ["q8.gguf"]);

    let again = quantize(&input, &output, &["--type", "q4_0"]);
    assert_eq!(again.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&again.stderr).unwrap();
    assert_eq!(error["error"]["param"], "output", "{error}");
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("--force"),
        "{error}"
    );
    assert_eq!(told["output_bytes"], output.metadata().unwrap().len());

    let forced = quantize(&input, &output, &["--type", "q4_0", "--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert!(output.metadata().unwrap().len() < told["output_bytes"].as_u64().unwrap());
    assert_eq!(names(folder.path()), ["q8.gguf"]);
}

#[test]
fn what_goes_wrong_leaves_nothing_and_is_told() {
    let Some(input) = input() else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let text = folder.path().join("text.gguf");
    fs::write(&text, "not a model").unwrap();
    for (input, output, kind, code, says) in [
        (&input, &output, "q99", 2, "Q4_K_M"),
        (&text, &output, "q8_0", 1, "not a GGUF file"),
        (&folder.path().join("none"), &output, "q8_0", 1, "no file"),
        (
            &input,
            &folder.path().join("none/out.gguf"),
            "q8_0",
            1,
            "does not exist",
        ),
        (&text, &text, "q8_0", 1, "the input itself"),
    ] {
        let refused = quantize(input, output, &["--type", kind]);
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(error.contains(says), "{error}");
        assert_eq!(names(folder.path()), ["text.gguf"]);
    }
    let usage = quantize(&input, &output, &[]);
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}
