//! The contract of the data path and what moves bytes.
