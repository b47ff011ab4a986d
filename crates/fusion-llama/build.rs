//! Lets calls of some of llama.cpp's functions come to `src/matmul/hooks.rs` first.

const HOOKED: [&str; 4] = [
    "llamafile_sgemm",
    "ggml_compute_forward_mul_mat_tiled",
    "llama_model_default_params",
    // ggml_backend_amx_buffer_type()
    "_Z28ggml_backend_amx_buffer_typev",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ARCH") == "x86_64" {
        for name in HOOKED {
            println!("cargo:rustc-link-arg=-Wl,--wrap={name}");
        }
    }
}
