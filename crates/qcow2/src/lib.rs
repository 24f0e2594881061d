//! The qcow2 format as pure bytes and structs: lookups answer a mapping or name the table they need.
