//! The arrows between the crates are those of docs/architecture.md, and no others.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{CargoOpt, DependencyKind, MetadataCommand};

#[test]
fn crates_depend_only_along_the_drawn_arrows() {
    let drawn: BTreeMap<&str, BTreeSet<&str>> = [
        ("fusion-types", vec![]),
        ("fusion-models", vec!["fusion-types"]),
        ("fusion-orchestrator", vec!["fusion-types"]),
        ("fusion-storage", vec!["fusion-types"]),
        ("fusion-engine", vec!["fusion-types"]),
        ("fusion-llama", vec!["fusion-engine"]),
        ("fusion-tensor", vec!["fusion-engine"]),
        (
            "fusion-server",
            vec![
                "fusion-types",
                "fusion-models",
                "fusion-orchestrator",
                "fusion-storage",
            ],
        ),
    ]
    .map(|(name, targets)| (name, targets.into_iter().collect()))
    .into();

    let metadata = MetadataCommand::new()
        .features(CargoOpt::AllFeatures)
        .no_deps()
        .exec()
        .unwrap();
    let found: BTreeMap<&str, BTreeSet<&str>> = metadata
        .packages
        .iter()
        .map(|package| {
            let arrows = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development)
                .map(|dependency| dependency.name.as_str())
                .filter(|name| name.starts_with("fusion-"));
            (package.name.as_str(), arrows.collect())
        })
        .collect();
    assert_eq!(found, drawn);
}
