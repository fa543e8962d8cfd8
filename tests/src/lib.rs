//! Whole-system tests: the binary and the library with real Node, Rust and Python workers. They are in `tests/`.
