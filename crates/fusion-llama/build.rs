//! Lets calls of some of llama.cpp's functions come to `src/matmul/{hooks, ahead}.rs` and `src/attention/hook.rs` first, and links
//! CUDA where it is wanted.

use std::{env, path::PathBuf};

const HOOKED: [&str; 5] = [
    "ggml_aligned_malloc",
    "ggml_compute_forward_flash_attn_ext",
    "llamafile_sgemm",
    "ggml_compute_forward_mul_mat_tiled",
    "llama_model_default_params",
];
/// Where the C++ was compiled without `AMX_FLAG`.
const AMX: &str = "_Z28ggml_backend_amx_buffer_typev";
/// Without it GCC 12 compiles the use of AMX wrongly; `.cargo/config.toml` sets it.
const AMX_FLAG: &str = "-fno-dse";
const FLAGS: &str = "CXXFLAGS_x86_64_unknown_linux_gnu";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={FLAGS}");
    println!("cargo:rustc-check-cfg=cfg(without_amx)");
    let target = |name| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && env::var_os("CARGO_FEATURE_CUDA").is_some() {
        link_cuda();
    }
    if target("OS") == "linux" && target("ARCH") == "x86_64" {
        let is_amx_sound = env::var(FLAGS).is_ok_and(|flags| flags.contains(AMX_FLAG));
        if !is_amx_sound {
            println!("cargo:rustc-cfg=without_amx");
        }
        for name in HOOKED.iter().chain((!is_amx_sound).then_some(&AMX)) {
            println!("cargo:rustc-link-arg=-Wl,--wrap={name}");
        }
    }
}

/// Variables that say where the CUDA toolkit is, the first before the second.
const TOOLKIT: [&str; 2] = ["CUDA_PATH", "CUDA_HOME"];
const USUAL_TOOLKIT: &str = "/usr/local/cuda";
/// llama.cpp uses NCCL where its build finds it: below this variable's folder, in the toolkit, or among the system's libraries.
const NCCL: &str = "NCCL_ROOT";
const SYSTEM: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
];

/// Names the libraries that llama.cpp's static library for CUDA calls and its crate leaves out. As arguments they come last: a
/// linker may pass over a shared library that nothing before it needs.
fn link_cuda() {
    for name in TOOLKIT.into_iter().chain([NCCL]) {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let given = |name: &str| env::var_os(name).map(PathBuf::from);
    let toolkit = TOOLKIT.into_iter().find_map(given);
    let toolkit = toolkit.unwrap_or_else(|| USUAL_TOOLKIT.into());
    let folders: Vec<_> = [Some(toolkit), given(NCCL)]
        .into_iter()
        .flatten()
        .flat_map(|root| [root.join("lib64"), root.join("lib")])
        .filter(|folder| folder.is_dir())
        .collect();
    let argument = |text: &str| println!("cargo:rustc-link-arg={text}");
    for folder in &folders {
        let path = folder.display();
        argument(&format!("-L{path}"));
        argument(&format!("-Wl,-rpath,{path}"));
    }
    for library in ["cudart", "cublas"] {
        argument(&format!("-l{library}"));
    }
    let searched = folders.into_iter().chain(SYSTEM.map(PathBuf::from));
    let mut files = searched.map(|folder| folder.join("libnccl.so"));
    if files.any(|file| file.is_file()) {
        argument("-lnccl");
    }
}
