//! `fusiond-tensor`: one embedding model in one process.

use std::process::ExitCode;

fn main() -> ExitCode {
    fusion_engine::main::<fusion_tensor::Tensor>()
}
