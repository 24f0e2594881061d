//! Image caches and the repository that they are filled from. A client of the engine, as QMP is.

pub mod serve;
