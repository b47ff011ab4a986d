//! Attention of a few queries, computed in place of ggml's: each query's heads read the cells that it sees, and no others.
//!
//! Streams that share a KV cache don't see each other's cells, which are most of it. ggml looks at every cell once for each head; here
//! a query's cells are listed once, and the heads that share keys and values read each cell together (`kernel`). Prompts, of which many
//! queries are computed at once, stay ggml's.

mod hook;
mod kernel;
mod lanes;
