//! One attempt at one job: the work, and the write that ends it.
