//! Lets calls of some of llama.cpp's functions come to `src/matmul/{hooks, ahead}.rs` and `src/attention/hook.rs` first.

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
    let target = |name| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ARCH") == "x86_64" {
        let is_amx_sound = std::env::var(FLAGS).is_ok_and(|flags| flags.contains(AMX_FLAG));
        if !is_amx_sound {
            println!("cargo:rustc-cfg=without_amx");
        }
        for name in HOOKED.iter().chain((!is_amx_sound).then_some(&AMX)) {
            println!("cargo:rustc-link-arg=-Wl,--wrap={name}");
        }
    }
}
