//! Attention, computed in place of ggml's: tokens read the cells that they see, and no others.
//!
//! Streams that share a KV cache don't see each other's cells, which are most of it. ggml looks at every cell once for each head; here
//! the cells that are seen are listed once, and the heads that share keys and values read each cell together: those of one token
//! where there are few (`kernel`), those of many tokens of a prompt (`tile`).

mod exponential;
mod hook;
mod kernel;
mod lanes;
mod tile;
