use std::process::ExitCode;

fn main() -> ExitCode {
    fusion_engine::main::<fusion_llama::Llama>()
}
